"""Decides from the Delta history of a table whether a statement that writes it has taken effect. Pure.

Before a statement that is not safe to repeat, a checkpoint records the version of its table. Nothing else
writes the tables of a workflow while it runs, so a single commit of a matching kind after that version is the
statement's own.

Names of operations: docs.databricks.com, "Work with Delta Lake table history"; the local workspace's engine
has some of its own (``ADD COLUMN``; ``WRITE`` for what ``CREATE OR REPLACE`` does).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from databricks_rlm_agent.sqltext.names import Name
from databricks_rlm_agent.sqltext.statement import StatementKind

# A table property of ours. Setting it changes the metadata, so writers that began before it fail
# (docs.databricks.com, "Isolation levels and write conflicts": metadata changes fail all concurrent writes).
FENCE = "rlm.fence"
HISTORY_LIMIT = 100  # commits read at most
_MAINTENANCE = re.compile(r"OPTIMIZE|VACUUM|COMPUTE STAT|REORG|ROW TRACKING")
_METADATA = re.compile(
    r"SET |UNSET |UPGRADE|ADD (COLUMN|CONSTRAINT)|(CHANGE|RENAME) COLUMN|CLUSTER|DROP (CONSTRAINT|FEATURE)"
)
_MATCHING = {
    StatementKind.INSERT: re.compile(r"WRITE"),
    StatementKind.MERGE: re.compile(r"MERGE|COPY INTO"),
    StatementKind.UPDATE: re.compile(r"UPDATE"),
    StatementKind.DELETE: re.compile(r"DELETE|TRUNCATE"),
    StatementKind.REPLACE: re.compile(r"WRITE|CREATE|REPLACE"),
}
_ROWS = {
    "MERGE": ("numTargetRowsInserted", "numTargetRowsUpdated", "numTargetRowsDeleted"),
    "UPDATE": ("numUpdatedRows",),
    "DELETE": ("numDeletedRows",),
    "TRUNCATE": ("numDeletedRows",),
}


class Effect(StrEnum):
    """The effect of a statement: none yet, taken, or in doubt."""

    NONE = "none"
    TAKEN = "taken"
    DOUBT = "doubt"


class StatementOutcome(StrEnum):
    """The outcome of a statement as its checkpoint records it. BEGUN: nothing is known."""

    BEGUN = "begun"
    TAKEN = "taken"  # recorded only where the history would not show it
    UNDONE = "undone"  # it has failed, and changed nothing
    DOUBT = "doubt"  # and this was reported to a person


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One row of a table's history."""

    version: int
    at: str
    operation: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int | None:
        """Rows inserted, updated and deleted: what the statement itself would have returned."""
        names = _ROWS.get(self.operation, ("numOutputRows",))
        found = [int(self.metrics[name]) for name in names if str(self.metrics.get(name, "")).isdecimal()]
        return sum(found) if found else None

    @property
    def restored(self) -> int | None:
        """The version that it restored."""
        version = str(self.parameters.get("version", ""))
        return int(version) if self.operation == "RESTORE" and version.isdecimal() else None

    @property
    def replaces_all(self) -> bool:
        """Return whether nothing of the earlier content is left."""
        whole = self.parameters.get("mode") == "Overwrite" and self.parameters.get("predicate", "[]") == "[]"
        return "REPLACE TABLE" in self.operation or (self.operation == "WRITE" and whole)

    @property
    def changes_rows(self) -> bool:
        """Return whether it may have changed rows."""
        return not (_MAINTENANCE.match(self.operation) or _METADATA.match(self.operation))

    @property
    def is_fence(self) -> bool:
        """Return whether it is a fence that this program has set."""
        return self.operation.startswith("SET ") and FENCE in str(self.parameters)


@dataclass(frozen=True, kw_only=True)
class TableState:
    """The state of a table now: ``commits`` newest first, none where there is no history."""

    exists: bool
    commits: tuple[Commit, ...] = ()

    def time_of(self, version: int | None) -> str | None:
        """Return when that version was made; None if it is not (any more) in the history."""
        return next((commit.at for commit in self.commits if commit.version == version), None)


NO_TABLE = TableState(exists=False)
# Fields of Checkpoint whose names in JSON differ.
_JSON_NAMES = {"existed": "there", "reported": "told"}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A record of the state before a statement.

    ``index`` is its position in the file, from 0; ``before`` and ``statement`` are hashes of the texts of all
    statements before it, and of its own. ``table`` None: what it writes is not known, or not one table.
    ``existed``, ``version``, ``at``: whether that table existed, its version, and when that was made.
    ``new``: the new name of a table that it renames. ``rows``: rows that the statements before it affected,
    by table. ``safe``: it may be repeated, but the statements before it may not. ``first``: the file was
    begun at its start. ``void``: what the file comes after has changed since. ``reported``: a hash of all
    texts of the file when a person was told that the statement is in doubt.
    """

    index: int
    before: str
    statement: str
    kind: StatementKind
    line: int
    table: Name | None = None
    new: Name | None = None
    existed: bool = False
    version: int | None = None
    at: str | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    safe: bool = False
    first: bool = False
    outcome: StatementOutcome = StatementOutcome.BEGUN
    void: bool = False
    reported: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the checkpoint for JSON, without fields that are empty."""
        fields = {
            _JSON_NAMES.get(name, name): value
            for name, value in vars(self).items()
            if not (value is False or value in (None, {}))
        }
        return {**fields, "kind": self.kind.value, "outcome": self.outcome.value}

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> Checkpoint:
        """Read what ``to_dict`` made; raise TypeError, ValueError or KeyError for anything else."""
        fields = dict(document)
        for name, in_json in _JSON_NAMES.items():
            if in_json in fields:
                fields[name] = fields.pop(in_json)
        names = {name: tuple(fields[name]) for name in ("table", "new") if fields.get(name)}
        kinds = {"kind": StatementKind(fields["kind"]), "outcome": StatementOutcome(fields["outcome"])}
        return Checkpoint(**{**fields, **names, **kinds})


@dataclass(frozen=True, kw_only=True)
class EffectVerdict:
    """The decision about a statement's effect. ``rows``: that it affected; ``reason``: for people."""

    effect: Effect
    reason: str = ""
    rows: int | None = None


_NOT_TAKEN = EffectVerdict(effect=Effect.NONE)


def _taken(reason: str, rows: int | None = None) -> EffectVerdict:
    return EffectVerdict(effect=Effect.TAKEN, reason=reason, rows=rows)


def _doubt(reason: str) -> EffectVerdict:
    return EffectVerdict(effect=Effect.DOUBT, reason=reason)


def commit_of(row: Mapping[str, Any]) -> Commit:
    """Read a row of DESCRIBE HISTORY. Maps may come as lists of pairs (Arrow)."""
    at = row["timestamp"]
    if isinstance(at, datetime):
        at = (at.astimezone(UTC) if at.tzinfo else at).isoformat()
    return Commit(
        version=int(row["version"]),
        at=str(at),
        operation=str(row["operation"] or "").upper(),
        parameters=_texts(row.get("operationParameters")),
        metrics=_texts(row.get("operationMetrics")),
    )


def _texts(found: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in dict(found or {}).items() if value is not None}


def judge_effect(checkpoint: Checkpoint, now: TableState, new: TableState = NO_TABLE) -> EffectVerdict:
    """Decide whether the statement after a checkpoint has taken effect.

    ``now`` is the state of its table, ``new`` that of the table with a rename's new name.
    """
    if checkpoint.safe or checkpoint.outcome is StatementOutcome.UNDONE:
        return _NOT_TAKEN
    if checkpoint.outcome is StatementOutcome.TAKEN:
        return _taken("it is on record")
    if checkpoint.table is None:
        return _doubt("what it writes cannot be told from its text")
    if checkpoint.new is not None:
        return _renamed(checkpoint, now, new)
    if checkpoint.kind is StatementKind.CREATE:
        return _created(checkpoint, now)
    return _written(checkpoint, now)


def _written(checkpoint: Checkpoint, now: TableState) -> EffectVerdict:
    """Decide for a statement that changes a table."""
    if not checkpoint.existed:
        return _NOT_TAKEN  # it could only fail
    if not now.exists:
        return _doubt("the table is not there any more")
    if checkpoint.version is None:
        return _doubt("the table has no history")
    since = _since(checkpoint, now)
    if since is None:
        shown = f"its version {checkpoint.version} of {checkpoint.at}"
        return _doubt(f"the history of the table does not show {shown}")
    altered = checkpoint.kind is StatementKind.ALTER
    return _altered(since) if altered else _changed(checkpoint.kind, since, checkpoint.version)


def is_undone(checkpoint: Checkpoint, now: TableState) -> bool:
    """Return whether nothing is left of the changes since the checkpoint: none, undone, or table replaced.

    Later commits of others do not matter: the step itself makes a new checkpoint before it writes.
    """
    if not now.exists:
        return True
    if not checkpoint.existed or checkpoint.version is None:
        return False
    since = _since(checkpoint, now)
    if since is None:  # another table of that name, unless its history is too long to tell
        return now.time_of(checkpoint.version) is not None or now.time_of(0) is not None
    left: bool | None = None
    states = {checkpoint.version: left}
    for commit in since:
        left = states[commit.version] = _left(commit, left, states, checkpoint.version)
    return not left


def _left(commit: Commit, left: bool | None, states: Mapping[int, bool | None], base: int) -> bool | None:
    """Return whether something is left after a commit: True or False; None if nothing was done yet."""
    if commit.replaces_all:
        return False
    if commit.restored is not None:
        return states.get(commit.restored, None if commit.restored < base else True) or False
    return True if left is None and commit.changes_rows else left


def _since(checkpoint: Checkpoint, now: TableState) -> list[Commit] | None:
    """Return the commits after the checkpoint, oldest first; None if its version is not in the history."""
    if checkpoint.version is None or now.time_of(checkpoint.version) != checkpoint.at:
        return None
    later = (commit for commit in now.commits if commit.version > checkpoint.version)
    return sorted(later, key=lambda commit: commit.version)


def _changed(kind: StatementKind, since: Sequence[Commit], base: int) -> EffectVerdict:
    effective: tuple[Commit, ...] = ()
    states = {base: effective}
    for commit in since:
        if commit.restored is not None:
            if commit.restored not in states:
                return _doubt(f"version {commit.restored} was restored since, which is older")
            effective = states[commit.restored]
        elif commit.changes_rows:
            effective = (*effective, commit)
        states[commit.version] = effective
    if not effective:
        return _NOT_TAKEN
    matching = _MATCHING.get(kind)
    only = effective[0]
    if len(effective) == 1 and matching and matching.match(only.operation) and not _overwrites(kind, only):
        return _taken(f"version {only.version}, {only.operation}", only.rows)
    found = ", ".join(f"{commit.version} {commit.operation}" for commit in effective[:5])
    return _doubt(f"since version {base} there are commits that are not its own: {found}")


def _overwrites(kind: StatementKind, commit: Commit) -> bool:
    """Return whether a WRITE is not an INSERT's, because it does not append."""
    return kind is StatementKind.INSERT and commit.parameters.get("mode", "Append") != "Append"


def _altered(since: Sequence[Commit]) -> EffectVerdict:
    own = [commit for commit in since if not _MAINTENANCE.match(commit.operation) and not commit.is_fence]
    if not own:
        return _NOT_TAKEN
    if any(commit.operation in {"MERGE", "UPDATE", "DELETE", "WRITE", "RESTORE"} for commit in own):
        return _doubt(f"since then the table was written: {own[-1].version} {own[-1].operation}")
    return _taken(f"version {own[0].version}, {own[0].operation}")


def _renamed(checkpoint: Checkpoint, old: TableState, new: TableState) -> EffectVerdict:
    """Decide for a rename: the table keeps its history under the new name."""
    if not checkpoint.existed:
        return _NOT_TAKEN
    if checkpoint.version is not None:
        if new.exists and new.time_of(checkpoint.version) == checkpoint.at:
            return _taken("it has its new name")
        if old.exists and old.time_of(checkpoint.version) == checkpoint.at:
            return _NOT_TAKEN
    elif new.exists != old.exists:
        return _taken("it has its new name") if new.exists else _NOT_TAKEN
    return _doubt("neither name has the table that was to be renamed")


def _created(checkpoint: Checkpoint, now: TableState) -> EffectVerdict:
    if checkpoint.existed or not now.exists:
        return _NOT_TAKEN  # it could only fail, or has not happened
    written = [commit for commit in now.commits if commit.changes_rows and commit.version > 0]
    if written:
        return _doubt(f"it is there, and was written since: {written[0].version} {written[0].operation}")
    return _taken("it is there", now.commits[-1].rows if now.commits else None)
