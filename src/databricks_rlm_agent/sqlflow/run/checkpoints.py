"""Decides which statements of a file need a checkpoint, and where the file goes on after a crash. Pure.

Between two checkpoints a file can be run again from the first of them. A checkpoint shows that all statements
before it are done; whether its own statement is done is decided in ``versions``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from databricks_rlm_agent.sqlflow.model import SqlFile
from databricks_rlm_agent.sqlflow.run.versions import (
    NO_TABLE,
    Checkpoint,
    Effect,
    EffectVerdict,
    StatementOutcome,
    TableState,
    is_undone,
    judge_effect,
)
from databricks_rlm_agent.sqltext.names import ANYTHING, Name, common, is_table, quoted, shown
from databricks_rlm_agent.sqltext.statement import REPEATABLE, ROW_CHANGES, Statement, StatementKind

_TRANSACTION = re.compile(r"(BEGIN|COMMIT|ROLLBACK)\b")
_TEMPORARY_TABLE = re.compile(r"CREATE (OR REPLACE )?TEMP(ORARY)? TABLE\b|CACHE\b")
# Statements of kind OTHER and ALTER that may be repeated; a view has no history to read.
_IDEMPOTENT = re.compile(r"(REFRESH|COMMENT|RESTORE|MSCK|FSCK|GRANT|REVOKE|SHOW|EXPLAIN|ALTER (\w+ )?VIEW)\b")
_ONE_TABLE = {*ROW_CHANGES, StatementKind.ALTER, StatementKind.CREATE, StatementKind.REPLACE}
# A DROP of what is gone is a warning, so it may be repeated.
_REPEATABLE = REPEATABLE | {StatementKind.DROP}


@dataclass(frozen=True, kw_only=True)
class StartPoint:
    """The point where a file begins: statement ``at``, after repeating what only affects the session.

    ``rows``: rows that the statements before it have affected, by table. ``fence``: the checkpoint whose
    statement may still be running. ``notice`` is for people.
    """

    at: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    fence: Checkpoint | None = None
    notice: str = ""


@dataclass(frozen=True, kw_only=True)
class InDoubt:
    """A file cannot go on: the effect of the checkpoint's statement is not known, or must be undone first."""

    checkpoint: Checkpoint
    reason: str
    hint: str


ReadState = Callable[[Name], TableState]


@dataclass
class _Segment:
    """Statements that may be run again together: from a checkpoint, or the start of the file, to here."""

    replaced: list[Name] = field(default_factory=list)  # made anew in it
    read: list[Name] = field(default_factory=list)  # and not made in it
    guarded: tuple[Name, ...] = ()  # written by the statement before it, which a checkpoint is about


def is_session_only(statement: Statement) -> bool:
    """Return whether all its effects belong to the file's session, as changes of temporary tables do."""
    return statement.session_only or (statement.kind in ROW_CHANGES and not statement.writes)


def required_checkpoints(file: SqlFile) -> dict[int, bool]:
    """Return the statements that need a checkpoint; True for those that are safe to repeat by themselves.

    Empty for a file that may be run again from its start, wherever it was interrupted.
    """
    if _in_transaction(file):
        return {0: False}  # all or nothing, and only the warehouse knows which
    required: dict[int, bool] = {}
    views: list[Name] = []  # what temporary views read, whenever they are read
    segment = _Segment()
    for index, statement in enumerate(file.statements):
        if statement.kind in {StatementKind.QUERY, StatementKind.MAINTAIN}:
            continue
        if is_session_only(statement):
            views += statement.reads if statement.kind is StatementKind.SESSION else ()
            continue
        own = bool(statement.writes) and all(name in segment.replaced for name in statement.writes)
        safe = _is_safe(statement, views)
        if not own and (not safe or _conflicts(statement, [*segment.read, *views], segment)):
            required[index] = safe
            segment = _Segment(guarded=() if safe else statement.writes)
        if own or safe:  # else it comes before the segment: the checkpoint tells whether it is done
            _add(segment, statement, own=own)
    return required


def _is_safe(statement: Statement, views: Sequence[Name]) -> bool:
    """Return whether a statement is safe to repeat by itself."""
    if statement.kind in {StatementKind.OTHER, StatementKind.ALTER} and _IDEMPOTENT.match(statement.words):
        return not statement.drops  # a rename is not
    if statement.kind is StatementKind.CREATE and not any(map(is_table, statement.writes)):
        return True  # a function or schema that is there already can only fail
    reads = [*statement.reads, *views]
    return statement.kind in _REPEATABLE and not common(statement.writes, reads)


def _conflicts(statement: Statement, read: Sequence[Name], segment: _Segment) -> bool:
    """Return whether it changes what the segment has read, or what the statement before the segment wrote."""
    others = [name for name in statement.writes if name not in segment.replaced]
    return common(others, read) is not None or common(others, segment.guarded) is not None


def _add(segment: _Segment, statement: Statement, *, own: bool) -> None:
    segment.read += [name for name in statement.reads if name not in segment.replaced]
    if _replaces(statement):
        segment.replaced += [*statement.makes, *statement.drops]  # not what is overwritten, perhaps in part
    elif own:
        segment.replaced += statement.makes


def _replaces(statement: Statement) -> bool:
    """Return whether it makes or drops a table whatever is there."""
    conditional = "IF NOT EXISTS" in statement.words
    return statement.kind in {StatementKind.REPLACE, StatementKind.DROP} and not conditional


def new_checkpoint(
    file: SqlFile, index: int, *, safe: bool, rows: Mapping[str, int], first: bool
) -> Checkpoint:
    """Return the checkpoint before a statement, without the state of its table."""
    statement = file.statements[index]
    renames = statement.kind is StatementKind.ALTER and statement.drops and statement.makes
    return Checkpoint(
        index=index,
        before=hash_texts(each.text for each in file.statements[:index]),
        statement=hash_texts([statement.text]),
        kind=statement.kind,
        line=statement.line,
        table=None if safe else _table(file, statement),
        new=statement.makes[0] if renames else None,
        rows=dict(rows),
        safe=safe,
        first=first,
    )


def _table(file: SqlFile, statement: Statement) -> Name | None:
    """Return the one table that it writes (of a rename the old name); None if that is not known."""
    if statement.kind not in _ONE_TABLE or _in_transaction(file):
        return None
    names = statement.drops or tuple(name for name in statement.writes if name != ANYTHING)
    return names[0] if names and is_table(names[0]) else None


def _in_transaction(file: SqlFile) -> bool:
    return any(
        each.kind is StatementKind.SESSION and _TRANSACTION.match(each.words) for each in file.statements
    )


def hash_texts(texts: Iterable[str]) -> str:
    """Return a hash (SHA-256, hex) of texts in order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "big") + text.encode())
    return digest.hexdigest()


def find_start(file: SqlFile, recorded: Sequence[Checkpoint], read_state: ReadState) -> StartPoint | InDoubt:
    """Return where a file goes on, by its recorded checkpoints in their order."""
    if not recorded:
        return StartPoint()
    last = recorded[-1]
    new = read_state(last.new) if last.new else NO_TABLE
    verdict = judge_effect(last, read_state(last.table) if last.table else NO_TABLE, new)
    start = _continue(file, last, verdict) if _unchanged_before(file, last) and not last.void else None
    if start is not None and not _has_volatile_session(file, start.at):
        return start
    return _start_over(file, recorded, read_state, verdict)


def _unchanged_before(file: SqlFile, checkpoint: Checkpoint) -> bool:
    """Return whether the texts before the checkpoint are what they were."""
    return hash_texts(each.text for each in file.statements[: checkpoint.index]) == checkpoint.before


def _continue(file: SqlFile, checkpoint: Checkpoint, verdict: EffectVerdict) -> StartPoint | None:
    """Return where to go on at or after the checkpoint's statement; None if that is not possible."""
    texts = [each.text for each in file.statements[checkpoint.index : checkpoint.index + 1]]
    same = bool(texts) and hash_texts(texts) == checkpoint.statement
    where = f"{file.name}:{checkpoint.line}"
    if verdict.effect is Effect.TAKEN and same:
        rows = dict(checkpoint.rows)
        if checkpoint.table is not None and verdict.rows is not None:
            table = checkpoint.table[-1]
            rows[table] = rows.get(table, 0) + verdict.rows
        notice = f"{where} has taken effect ({verdict.reason}): it is not repeated"
        return StartPoint(at=checkpoint.index + 1, rows=rows, notice=notice)
    if verdict.effect is Effect.NONE:
        begun = checkpoint.outcome is StatementOutcome.BEGUN
        running = begun and checkpoint.version is not None and checkpoint.existed
        return StartPoint(at=checkpoint.index, rows=checkpoint.rows, fence=checkpoint if running else None)
    if not same and _is_resolved(file, checkpoint):
        notice = f"{where} was changed: it runs as it is"
        return StartPoint(at=checkpoint.index, rows=checkpoint.rows, notice=notice)
    return None


def _is_resolved(file: SqlFile, checkpoint: Checkpoint) -> bool:
    """Return whether a person was told of the doubt, and has changed or removed the statement since."""
    texts = [each.text for each in file.statements]
    removed = checkpoint.statement not in {hash_texts([text]) for text in texts}
    return (
        checkpoint.outcome is StatementOutcome.DOUBT and removed and hash_texts(texts) != checkpoint.reported
    )


def _has_volatile_session(file: SqlFile, at: int) -> bool:
    """Return whether the session held values from tables that may have changed since."""
    return any(
        each.kind in ROW_CHANGES or each.problem is not None or _TEMPORARY_TABLE.match(each.words)
        for each in file.statements[:at]
        if is_session_only(each)
    )


def _start_over(
    file: SqlFile, recorded: Sequence[Checkpoint], read_state: ReadState, verdict: EffectVerdict
) -> StartPoint | InDoubt:
    """Return the start of the file if nothing is left of what it did; else what a person has to do first."""
    last = recorded[-1]
    firsts: dict[Name, Checkpoint] = {}
    for each in recorded:
        if each.table is not None and not (each.safe or (each is last and verdict.effect is Effect.NONE)):
            firsts.setdefault(each.table, each)
    replaced = _replaced_tables(file)
    left = [
        each
        for name, each in firsts.items()
        if name not in replaced and not is_undone(each, read_state(name))
    ]
    unclear = not _is_resolved(file, last) and any(
        each.table is None and not each.safe and each.outcome is not StatementOutcome.UNDONE
        for each in recorded
    )
    if not left and not unclear:
        return StartPoint(notice=f"{file.name} begins at its start: nothing is left of what it did before")
    unchanged = _unchanged_before(file, last) and not last.void
    hint = _hint(left, may_change=unchanged or unclear)
    return InDoubt(checkpoint=last, reason=_reason(file, last, verdict), hint=hint)


def _replaced_tables(file: SqlFile) -> set[Name]:
    """Return the tables that the file makes anew before it does anything else with them."""
    replaced: set[Name] = set()
    touched: list[Name] = []
    for statement in file.statements:
        if _replaces(statement):
            made = [name for name in (*statement.makes, *statement.drops) if not common([name], touched)]
            replaced |= {name for name in made if name not in statement.reads}
        touched += [*statement.reads, *statement.writes]
    return replaced


def _reason(file: SqlFile, checkpoint: Checkpoint, verdict: EffectVerdict) -> str:
    at = f"line {checkpoint.line}"
    if verdict.effect is Effect.DOUBT:
        return f"It is not known whether the statement in {at} has taken effect: {verdict.reason}."
    if checkpoint.void:
        return "What the file comes after has changed, and it has changed tables that it does not make anew."
    if _has_volatile_session(file, checkpoint.index):
        return f"What the file read into its session before {at} cannot be read again."
    return f"The file has changed up to {at}, and what it was before has taken effect."


def _hint(left: Sequence[Checkpoint], *, may_change: bool) -> str:
    undo = [
        f"RESTORE TABLE {quoted(each.table)} TO VERSION AS OF {each.version}"
        if each.existed and each.version is not None
        else f"undo what was done to {shown(each.table)}"
        for each in left
        if each.table is not None
    ]
    ways = [f"undo it ({'; '.join(undo)})"] if undo else []
    ways += ["change or remove the statement: the file then runs as it is"] if may_change else []
    return f"See what was done (DESCRIBE HISTORY); {', or '.join(ways)}. Then run with --resume."
