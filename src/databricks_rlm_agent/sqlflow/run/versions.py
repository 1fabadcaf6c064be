"""Whether a statement has taken effect, told by the Delta history of the table that it writes. Pure.

Before a statement that is not safe to repeat the version of its table is noted. Nothing else writes the
tables of a workflow while it runs, so one commit of a fitting kind after that version is the statement's.

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

# A table property of ours. Setting it makes writers that began before fail, since the metadata has changed
# (docs.databricks.com, "Isolation levels and write conflicts": metadata changes fail all concurrent writes).
FENCE = "rlm.fence"
HISTORY = 100  # commits looked at, at most
_UPKEEP = re.compile(r"OPTIMIZE|VACUUM|COMPUTE STAT|REORG|ROW TRACKING")
_METADATA = re.compile(
    r"SET |UNSET |UPGRADE|ADD (COLUMN|CONSTRAINT)|(CHANGE|RENAME) COLUMN|CLUSTER|DROP (CONSTRAINT|FEATURE)"
)
_FITTING = {
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
    """Whether a statement has taken effect."""

    NONE = "none"
    TAKEN = "taken"
    DOUBT = "doubt"


class StatementOutcome(StrEnum):
    """What is known of a noted statement without looking: BEGUN is nothing."""

    BEGUN = "begun"
    TAKEN = "taken"  # on record only where no history would tell
    UNDONE = "undone"  # it has failed, and changed nothing
    DOUBT = "doubt"  # and a person was told so


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
        """Rows inserted, updated and deleted, as the statement itself would have said."""
        names = _ROWS.get(self.operation, ("numOutputRows",))
        found = [int(self.metrics[name]) for name in names if str(self.metrics.get(name, "")).isdecimal()]
        return sum(found) if found else None

    @property
    def restored(self) -> int | None:
        """The version whose rows it brought back."""
        version = str(self.parameters.get("version", ""))
        return int(version) if self.operation == "RESTORE" and version.isdecimal() else None

    @property
    def remakes(self) -> bool:
        """Whether nothing of what was there before is left."""
        whole = self.parameters.get("mode") == "Overwrite" and self.parameters.get("predicate", "[]") == "[]"
        return "REPLACE TABLE" in self.operation or (self.operation == "WRITE" and whole)

    @property
    def changes_rows(self) -> bool:
        """Whether it may have changed rows."""
        return not (_UPKEEP.match(self.operation) or _METADATA.match(self.operation))

    @property
    def of_ours(self) -> bool:
        """Whether it is a fence that this program has set."""
        return self.operation.startswith("SET ") and FENCE in str(self.parameters)


@dataclass(frozen=True, kw_only=True)
class Table:
    """What is found under a name now: ``commits`` newest first, none where there is no history."""

    there: bool
    commits: tuple[Commit, ...] = ()

    def at(self, version: int | None) -> str | None:
        """When that version was made; None if it is not (any more) in the history."""
        return next((commit.at for commit in self.commits if commit.version == version), None)


GONE = Table(there=False)


@dataclass(frozen=True, kw_only=True)
class VersionNote:
    """What was noted before a statement.

    ``index`` is its place in the file, from 0; ``before`` and ``statement`` are hashes of the texts of all
    statements before it, and of its own. ``table`` None: what it writes is not known, or not one table.
    ``there``, ``version``, ``at``: whether that table was there, its version, and when that was made.
    ``new``: what a rename makes of it. ``rows``: rows that the statements before it affected, by table.
    ``safe``: it may be repeated, but not what is before it. ``first``: the file was begun at its start.
    ``void``: what the file comes after has changed since. ``told``: a hash of all texts of the file when a
    person was told of the doubt.
    """

    index: int
    before: str
    statement: str
    kind: StatementKind
    line: int
    table: Name | None = None
    new: Name | None = None
    there: bool = False
    version: int | None = None
    at: str | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    safe: bool = False
    first: bool = False
    outcome: StatementOutcome = StatementOutcome.BEGUN
    void: bool = False
    told: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without what says nothing."""
        told = {
            name: value for name, value in vars(self).items() if not (value is False or value in (None, {}))
        }
        return {**told, "kind": self.kind.value, "outcome": self.outcome.value}

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> VersionNote:
        """What ``to_dict`` made; raises TypeError, ValueError or KeyError for anything else."""
        names = {name: tuple(document[name]) for name in ("table", "new") if document.get(name)}
        kinds = {"kind": StatementKind(document["kind"]), "outcome": StatementOutcome(document["outcome"])}
        return VersionNote(**{**document, **names, **kinds})


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether a noted statement has taken effect. ``rows`` that it affected; ``why`` for people."""

    effect: Effect
    why: str = ""
    rows: int | None = None


def commit_of(row: Mapping[str, Any]) -> Commit:
    """A row of DESCRIBE HISTORY. Maps may come as lists of pairs (Arrow)."""
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


def judge(note: VersionNote, now: Table, new: Table = GONE) -> Judgement:
    """Whether the statement that was noted has taken effect; ``new`` is what is under a rename's new name."""
    if note.safe or note.outcome is StatementOutcome.UNDONE:
        return Judgement(effect=Effect.NONE)
    if note.outcome is StatementOutcome.TAKEN:
        return Judgement(effect=Effect.TAKEN, why="it is on record")
    if note.table is None:
        return _doubt("what it writes cannot be told from its text")
    if note.new is not None:
        return _renamed(note, now, new)
    if note.kind is StatementKind.CREATE:
        return _created(note, now)
    if not note.there:
        return Judgement(effect=Effect.NONE)  # it could only fail
    if not now.there:
        return _doubt("the table is not there any more")
    if note.version is None:
        return _doubt("the table has no history")
    since = _since(note, now)
    if since is None:
        return _doubt(f"the history of the table does not show its version {note.version} of {note.at}")
    return (
        _altered(since) if note.kind is StatementKind.ALTER else _changed(note.kind, since, note.version or 0)
    )


def is_back(note: VersionNote, now: Table) -> bool:
    """Whether nothing is left of what was done since the note: it never was, was undone, or all made anew.

    What others have written after that is no matter: who writes for the noted step makes a new note.
    """
    if not now.there:
        return True
    if not note.there or note.version is None:
        return False
    since = _since(note, now)
    if since is None:  # another table of that name, unless its history is too long to tell
        return now.at(note.version) is not None or now.at(0) is not None
    state, states = _State.BEFORE, {note.version: _State.BEFORE}
    for commit in since:
        state = _after(commit, state, states, note.version)
        states[commit.version] = state
    return state is not _State.LEFT


class _State(StrEnum):
    """Of a table: nothing done yet, something left, or undone since."""

    BEFORE = "before"
    LEFT = "left"
    UNDONE = "undone"


def _after(commit: Commit, state: _State, states: Mapping[int, _State], base: int) -> _State:
    if commit.remakes:
        return _State.UNDONE
    if commit.restored is not None:
        left = states.get(commit.restored, _State.BEFORE if commit.restored < base else _State.LEFT)
        return _State.LEFT if left is _State.LEFT else _State.UNDONE
    return _State.LEFT if state is _State.BEFORE and commit.changes_rows else state


def _doubt(why: str) -> Judgement:
    return Judgement(effect=Effect.DOUBT, why=why)


def _since(note: VersionNote, now: Table) -> list[Commit] | None:
    """The commits after the noted version, oldest first; None if that version is not in the history."""
    if note.version is None or now.at(note.version) != note.at:
        return None
    return sorted((c for c in now.commits if c.version > note.version), key=lambda commit: commit.version)


def _changed(kind: StatementKind, since: Sequence[Commit], base: int) -> Judgement:
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
        return Judgement(effect=Effect.NONE)
    fitting = _FITTING.get(kind)
    only = effective[0]
    if len(effective) == 1 and fitting and fitting.match(only.operation) and not _other(kind, only):
        return Judgement(effect=Effect.TAKEN, why=f"version {only.version}, {only.operation}", rows=only.rows)
    found = ", ".join(f"{commit.version} {commit.operation}" for commit in effective[:5])
    return _doubt(f"since version {base} there are commits that are not its own: {found}")


def _other(kind: StatementKind, commit: Commit) -> bool:
    """Whether a WRITE is not what an INSERT does."""
    return kind is StatementKind.INSERT and commit.parameters.get("mode", "Append") != "Append"


def _altered(since: Sequence[Commit]) -> Judgement:
    own = [commit for commit in since if not _UPKEEP.match(commit.operation) and not commit.of_ours]
    if not own:
        return Judgement(effect=Effect.NONE)
    if any(commit.operation in {"MERGE", "UPDATE", "DELETE", "WRITE", "RESTORE"} for commit in own):
        return _doubt(f"since then the table was written: {own[-1].version} {own[-1].operation}")
    return Judgement(effect=Effect.TAKEN, why=f"version {own[0].version}, {own[0].operation}")


def _renamed(note: VersionNote, old: Table, new: Table) -> Judgement:
    """A table keeps its history under the new name."""
    if not note.there:
        return Judgement(effect=Effect.NONE)
    if note.version is not None:
        if new.there and new.at(note.version) == note.at:
            return Judgement(effect=Effect.TAKEN, why="it has its new name")
        if old.there and old.at(note.version) == note.at:
            return Judgement(effect=Effect.NONE)
    elif new.there != old.there:
        return Judgement(effect=Effect.TAKEN if new.there else Effect.NONE, why="it has its new name")
    return _doubt("neither name has the table that was to be renamed")


def _created(note: VersionNote, now: Table) -> Judgement:
    if note.there or not now.there:
        return Judgement(effect=Effect.NONE)  # it could only fail, or has not happened
    written = [commit for commit in now.commits if commit.changes_rows and commit.version > 0]
    if written:
        return _doubt(f"it is there, and was written since: {written[0].version} {written[0].operation}")
    return Judgement(
        effect=Effect.TAKEN, why="it is there", rows=now.commits[-1].rows if now.commits else None
    )
