"""What a Delta table really went through, commit by commit, from its transaction log and its files.

Nothing escapes this: no reader has to look at the right moment, and no process is asked for its own view.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from databricks_rlm_agent.runs.fsm import State

_COLUMNS = [
    "run_id",
    "fsm_state",
    "iter_n",
    "attempt",
    "lease_owner",
    "lease_epoch",
    "lease_expiry",
    "version",
    "write_id",
]


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The rows that one commit wrote, changed or not, and when (seconds since the epoch)."""

    number: int
    at: float
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A run's row before and after one commit. ``before`` is None for the commit that inserted it."""

    at: float
    run_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]

    @property
    def claimed(self) -> bool:
        """Whether this was a claim."""
        return self.before is not None and self.after["lease_epoch"] > self.before["lease_epoch"]

    @property
    def saved(self) -> bool:
        """Whether this was the save of the one who held the run."""
        return self.before is not None and not self.claimed and self.after["version"] > self.before["version"]


def commits(table: Path, columns: Sequence[str]) -> Iterator[Commit]:
    """The commits of a table that wrote rows, oldest first. The table must be free of deletion vectors."""
    import pyarrow.parquet as parquet

    for file in sorted((table / "_delta_log").glob("*.json")):
        actions = [json.loads(line) for line in file.read_text().splitlines()]
        added = [action["add"] for action in actions if "add" in action]
        assert not any("deletionVector" in each for each in added), f"{file}: a deletion vector"
        stamps = [action["commitInfo"]["timestamp"] for action in actions if "commitInfo" in action]
        rows: list[dict[str, Any]] = []
        for each in added:
            rows += parquet.read_table(table / unquote(each["path"]), columns=list(columns)).to_pylist()
        if rows:
            yield Commit(number=int(file.stem), at=stamps[0] / 1000, rows=rows)


def changes(table: Path) -> list[Change]:
    """Every change of every run, in the order of the commits."""
    known: dict[str, Mapping[str, Any]] = {}
    found = []
    for commit in commits(table, _COLUMNS):
        for row in commit.rows:
            before = known.get(row["run_id"])
            if row != before:
                found.append(Change(at=commit.at, run_id=row["run_id"], before=before, after=row))
                known[row["run_id"]] = row
    return found


def illegal(change: Change) -> str | None:
    """What is wrong with one change of a run's row; None if it is one of those that are allowed."""
    before, after = change.before, change.after
    if before is None:
        return None
    step = after["version"] - before["version"]
    if step not in {0, 1} or (after["lease_epoch"] - before["lease_epoch"]) not in {0, step}:
        return (
            f"version {before['version']} → {after['version']}, "
            f"epoch {before['lease_epoch']} → {after['lease_epoch']}"
        )
    if State(before["fsm_state"]).terminal and _essence(before) != _essence(after):
        return f"changed after its end: {_essence(before)} → {_essence(after)}"
    if (after["iter_n"], after["attempt"]) < (before["iter_n"], before["attempt"]):
        return "went back to an earlier attempt"
    if step == 0 and _essence(before) != _essence(after):
        return f"changed without a version: {_essence(before)} → {_essence(after)}"
    if change.claimed:
        # The statement looked at the clock before it was committed, so it cannot have seen the lease lapsed.
        expiry = before["lease_expiry"]
        if expiry is not None and expiry.timestamp() > change.at:
            return f"claimed while {before['lease_owner']} held it until {expiry}"
    elif step and before["lease_owner"] is not None and after["lease_owner"] is not None:
        return "saved, and the lease was kept"
    return None


def _essence(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["fsm_state"], row["iter_n"], row["attempt"], row["version"])
