"""Where in a file a note is due before it goes on, and where it goes on after a crash. Pure.

Between two notes a file can be run again from the first of them. What a note says of its own statement is
judged in ``versions``; that it is there says that all statements before it are done.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from databricks_rlm_agent.sqlflow.model import SqlFile
from databricks_rlm_agent.sqlflow.run.versions import (
    Effect,
    Judgement,
    StatementOutcome,
    Table,
    VersionNote,
    is_back,
    judge,
)
from databricks_rlm_agent.sqltext.names import ANYTHING, Name, common, is_table, quoted, shown
from databricks_rlm_agent.sqltext.statement import Statement, StatementKind

_IF_NOT_THERE = re.compile(r"\bIF\s+NOT\s+EXISTS\b", re.IGNORECASE)
_TRANSACTION = re.compile(r"(BEGIN(\s+(TRANSACTION|WORK))?|COMMIT|ROLLBACK)\b", re.IGNORECASE)
_TEMPORARY_TABLE = re.compile(r"CREATE\s+(OR\s+REPLACE\s+)?TEMP(ORARY)?\s+TABLE\b|CACHE\b", re.IGNORECASE)
# Of those that no parser of ours knows; a view has no history to look at.
_IDEMPOTENT = re.compile(
    r"(REFRESH|COMMENT|RESTORE|MSCK|FSCK|GRANT|REVOKE|SHOW|EXPLAIN|ALTER\s+(\w+\s+)?VIEW)\b", re.IGNORECASE
)
_ROWS = {StatementKind.INSERT, StatementKind.MERGE, StatementKind.UPDATE, StatementKind.DELETE}
_ONE_TABLE = {*_ROWS, StatementKind.ALTER, StatementKind.CREATE, StatementKind.REPLACE}
# A DROP of what is gone is a warning, so doing it again is none the worse.
_HARMLESS = {
    StatementKind.USE,
    StatementKind.SESSION,
    StatementKind.QUERY,
    StatementKind.REPLACE,
    StatementKind.DELETE,
    StatementKind.DROP,
    StatementKind.MAINTAIN,
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a file begins: at statement ``at``, and what belongs to the session of those before it.

    ``rows`` that those have affected, by table. ``fence``: the note whose statement may still be on its way.
    ``said`` is for people.
    """

    at: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    fence: VersionNote | None = None
    said: str = ""


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """That a file cannot go on: what the note's statement did is not known, or must be undone first."""

    note: VersionNote
    why: str
    hint: str


Look = Callable[[Name], Table]


@dataclass
class _Segment:
    """What may be run again together: from a note, or the start of the file, to here."""

    fresh: list[Name] = field(default_factory=list)  # made anew in it
    read: list[Name] = field(default_factory=list)  # that it did not make
    noted: tuple[Name, ...] = ()  # what the statement before it wrote, which a note is about


def sessional(statement: Statement) -> bool:
    """Whether all that it does belongs to the file's session; rows of temporary tables too."""
    return statement.session_only or (statement.kind in _ROWS and not statement.writes)


def checkpoints(file: SqlFile) -> dict[int, bool]:
    """The statements that a note is due before; True for those that are safe to repeat by themselves.

    Empty for a file that may be run again from its start, wherever it was interrupted.
    """
    if _in_transaction(file):
        return {0: False}  # all or nothing, and only the warehouse knows which
    found: dict[int, bool] = {}
    views: list[Name] = []  # what temporary views read, whenever they are read
    segment = _Segment()
    for index, statement in enumerate(file.statements):
        if statement.kind in {StatementKind.QUERY, StatementKind.MAINTAIN}:
            continue
        if sessional(statement):
            views += statement.reads if statement.kind is StatementKind.SESSION else ()
            continue
        own = bool(statement.writes) and all(name in segment.fresh for name in statement.writes)
        safe = _safe(statement, views)
        if not own and (not safe or _clashes(statement, [*segment.read, *views], segment)):
            found[index] = safe
            segment = _Segment(noted=() if safe else statement.writes)
        _go_through(segment, statement, own=own, safe=safe)
    return found


def _safe(statement: Statement, views: Sequence[Name]) -> bool:
    if statement.kind in {StatementKind.OTHER, StatementKind.ALTER} and _IDEMPOTENT.match(statement.text):
        return not statement.drops  # a rename is none
    if statement.kind is StatementKind.CREATE and not any(map(is_table, statement.writes)):
        return True  # a function or schema that is there already can only fail
    reads = [*statement.reads, *views]
    return statement.kind in _HARMLESS and not common(statement.writes, reads)


def _clashes(statement: Statement, read: Sequence[Name], segment: _Segment) -> bool:
    others = [name for name in statement.writes if name not in segment.fresh]
    return common(others, read) is not None or common(others, segment.noted) is not None


def _go_through(segment: _Segment, statement: Statement, *, own: bool, safe: bool) -> None:
    if not (own or safe):
        return  # it is behind the segment: the note tells whether it is done
    segment.read += [name for name in statement.reads if name not in segment.fresh]
    if _makes_anew(statement):
        segment.fresh += [*statement.makes, *statement.drops]  # not what is only overwritten, perhaps in part
    elif own:
        segment.fresh += statement.makes


def _makes_anew(statement: Statement) -> bool:
    return statement.kind in {StatementKind.REPLACE, StatementKind.DROP} and not _IF_NOT_THERE.search(
        statement.text
    )


def note_of(file: SqlFile, index: int, *, safe: bool, rows: Mapping[str, int], first: bool) -> VersionNote:
    """The note before a statement, without what the warehouse says of its table."""
    statement = file.statements[index]
    renamed = statement.kind is StatementKind.ALTER and statement.drops and statement.makes
    return VersionNote(
        index=index,
        before=hash_of(each.text for each in file.statements[:index]),
        statement=hash_of([statement.text]),
        kind=statement.kind,
        line=statement.line,
        table=None if safe else _table(file, statement),
        new=statement.makes[0] if renamed else None,
        rows=dict(rows),
        safe=safe,
        first=first,
    )


def _table(file: SqlFile, statement: Statement) -> Name | None:
    """The one table that it writes (of a rename the old name), if that is known."""
    if statement.kind not in _ONE_TABLE or _in_transaction(file):
        return None
    names = statement.drops or tuple(name for name in statement.writes if name != ANYTHING)
    return names[0] if names and is_table(names[0]) else None


def _in_transaction(file: SqlFile) -> bool:
    return any(
        each.kind is StatementKind.SESSION and _TRANSACTION.match(each.text) for each in file.statements
    )


def hash_of(texts: Iterable[str]) -> str:
    """A hash of texts in order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "big") + text.encode())
    return digest.hexdigest()


def entry(file: SqlFile, notes: Sequence[VersionNote], look: Look) -> Entry | Doubt:
    """Where a file goes on that was begun, by the notes that were made of it, in their order."""
    if not notes:
        return Entry()
    last = notes[-1]
    new = look(last.new) if last.new else Table(there=False)
    found = judge(last, look(last.table) if last.table else Table(there=False), new)
    again = _go_on(file, last, found) if _same_so_far(file, last) and not last.void else None
    if again is not None and not _of_its_time(file, again.at):
        return again
    return _from_the_start(file, notes, look, last, found)


def _same_so_far(file: SqlFile, note: VersionNote) -> bool:
    return (
        len(file.statements) >= note.index
        and hash_of(each.text for each in file.statements[: note.index]) == note.before
    )


def _go_on(file: SqlFile, note: VersionNote, found: Judgement) -> Entry | None:
    texts = [each.text for each in file.statements[note.index : note.index + 1]]
    same = bool(texts) and hash_of(texts) == note.statement
    where = f"{file.name}:{note.line}"
    if found.effect is Effect.TAKEN and same:
        rows = dict(note.rows)
        if note.table is not None and found.rows is not None:
            rows[note.table[-1]] = rows.get(note.table[-1], 0) + found.rows
        said = f"{where} has taken effect ({found.why}): it is not repeated"
        return Entry(at=note.index + 1, rows=rows, said=said)
    if found.effect is Effect.NONE:
        fence = (
            note
            if note.outcome is StatementOutcome.BEGUN and note.version is not None and note.there
            else None
        )
        return Entry(at=note.index, rows=note.rows, fence=fence)
    if not same and _answered(file, note):
        return Entry(at=note.index, rows=note.rows, said=f"{where} was changed: it runs as it is")
    return None


def _answered(file: SqlFile, note: VersionNote) -> bool:
    """Whether the file was changed after a person was told of the doubt, and lacks the statement now."""
    texts = [each.text for each in file.statements]
    gone = note.statement not in {hash_of([text]) for text in texts}
    return note.outcome is StatementOutcome.DOUBT and gone and hash_of(texts) != note.told


def _of_its_time(file: SqlFile, at: int) -> bool:
    """Whether the session has had what it would not get again: values read from tables that changed since."""
    return any(
        each.kind in _ROWS or each.problem is not None or _TEMPORARY_TABLE.match(each.text) is not None
        for each in file.statements[:at]
        if sessional(each)
    )


def _from_the_start(
    file: SqlFile, notes: Sequence[VersionNote], look: Look, last: VersionNote, found: Judgement
) -> Entry | Doubt:
    """At the start, if nothing is left of what was done; else what a person has to do first."""
    firsts: dict[Name, VersionNote] = {}
    for note in notes:
        if note.table is not None and not (note.safe or (note is last and found.effect is Effect.NONE)):
            firsts.setdefault(note.table, note)
    anew = remade(file)
    left = [note for name, note in firsts.items() if name not in anew and not is_back(note, look(name))]
    unclear = any(map(_unknown, notes)) and not _answered(file, last)
    if not left and not unclear:
        return Entry(said=f"{file.name} begins at its start: nothing is left of what it did before")
    here = _same_so_far(file, last) and not last.void
    return Doubt(note=last, why=_why(file, last, found), hint=_hint(left, change=here or unclear))


def _unknown(note: VersionNote) -> bool:
    return note.table is None and not note.safe and note.outcome is not StatementOutcome.UNDONE


def remade(file: SqlFile) -> set[Name]:
    """The tables that the file makes anew before it does anything else with them."""
    anew: set[Name] = set()
    touched: list[Name] = []
    for statement in file.statements:
        if _makes_anew(statement):
            made = [name for name in (*statement.makes, *statement.drops) if not common([name], touched)]
            anew |= {name for name in made if name not in statement.reads}
        touched += [*statement.reads, *statement.writes]
    return anew


def _why(file: SqlFile, note: VersionNote, found: Judgement) -> str:
    at = f"line {note.line}"
    if found.effect is Effect.DOUBT:
        return f"Whether the statement in {at} has taken effect is not known: {found.why}."
    if note.void:
        return "What the file comes after has changed, and it has changed tables that it does not make anew."
    if _of_its_time(file, note.index):
        return f"What the file read into its session before {at} cannot be had again."
    return f"The file has changed up to {at}, and what it was before has taken effect."


def _hint(left: Sequence[VersionNote], *, change: bool) -> str:
    undo = [
        f"RESTORE TABLE {quoted(note.table)} TO VERSION AS OF {note.version}"
        if note.there and note.version is not None
        else f"undo what was done to {shown(note.table)}"
        for note in left
        if note.table is not None
    ]
    ways = [f"undo it ({'; '.join(undo)})"] if undo else []
    ways += ["change the statement, or take it out: what is there then is run"] if change else []
    return f"Look at what was done (DESCRIBE HISTORY); {', or '.join(ways)}. Then run with --resume."
