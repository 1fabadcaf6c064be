"""What a statement of Databricks SQL would do. Pure; sqlglot is imported when there is something to parse.

sqlglot reads statements whose shape matters (a condition, a target after a list of columns); those that it
takes for unknown commands, and warns about, are told by their first words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from databricks_rlm_agent.policy.effects import UNKNOWN, EffectKind, ProgramEffect, known

if TYPE_CHECKING:
    from sqlglot import exp

_FLAGS = re.IGNORECASE | re.DOTALL
_GAP = re.compile(r"\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|\(", re.DOTALL)
_NAME = r"((?:`[^`]*`|\w+)(?:\s*\.\s*(?:`[^`]*`|\w+))*)"
_IDENTIFIER = re.compile(r"\bidentifier\s*\(\s*(?:'([\w.]*)'|[^)]*)\s*\)", _FLAGS)
_EXISTS = r"(?:if\s+(?:not\s+)?exists\s+)?"
_PLACE = r"(?:schema|database|catalog|volume)"
_PARSED = re.compile(r"(?:create|insert|update|delete|merge|truncate|alter|copy)\b", _FLAGS)
_INSIDE = re.compile(r"(?:with|from)\b.*\b(?:insert|update|delete|merge)\b", _FLAGS)
_UNTOLD = re.compile(rf"(?:begin|execute|call|{UNKNOWN})", _FLAGS)
"""What such a statement does is told elsewhere, or when it runs."""
# By their first words: what is done, and to what. The first that fits counts.
_WORDS = [
    (EffectKind.DROP_SCHEMA, re.compile(rf"(drop\s+{_PLACE})\s+{_EXISTS}{_NAME}", _FLAGS)),
    (
        EffectKind.MAKE_SCHEMA,
        re.compile(rf"((?:create|alter)\s+(?:external\s+)?{_PLACE})\s+{_EXISTS}{_NAME}", _FLAGS),
    ),
    (EffectKind.DESTROY, re.compile(rf"(drop\s+table)\s+{_EXISTS}{_NAME}", _FLAGS)),
    (
        EffectKind.DESTROY,
        re.compile(rf"(vacuum)\s+{_NAME}.*\bretain\s+0(?:\.0*)?\s+hours?\b", _FLAGS),
    ),
    (
        EffectKind.GRANT,
        re.compile(
            r"(grant|revoke|deny)\b.*?\bon\s+"
            rf"(?:(?:table|view|function|{_PLACE})\s+)?{_NAME}\s+(?:to|from)\b",
            _FLAGS,
        ),
    ),
    (
        EffectKind.WRITE,
        re.compile(
            r"(drop\s+(?:materialized\s+)?(?:view|function)|replace\s+table|optimize|vacuum|undrop\s+table"
            r"|(?:msck\s+|fsck\s+)?repair\s+table|restore(?:\s+table)?(?!\s+to\b)|reorg\s+table"
            rf"|comment\s+on\s+table|convert\s+to\s+delta|load\s+data\b.*\binto\s+table)\s+{_EXISTS}{_NAME}",
            _FLAGS,
        ),
    ),
    (EffectKind.PUT_FILE, re.compile(r"(insert\s+overwrite\s+(?:local\s+)?directory)\s+'([^']*)'", _FLAGS)),
    (EffectKind.USE, re.compile(rf"(use\s+catalog)\s+{_NAME}", _FLAGS)),
    (EffectKind.USE, re.compile(rf"(use)\s+(?:(?:schema|database)\s+)?{_NAME}", _FLAGS)),
]
# What a statement writes to that sqlglot cannot read to its end.
_HEAD = re.compile(
    r"(insert\s+(?:into|overwrite)(?:\s+table)?|merge\s+into|copy\s+into|alter\s+(?:table|view)"
    rf"|create\s+(?:or\s+replace\s+)?(?:\w+\s+)?(?:table|view))\s+{_EXISTS}{_NAME}",
    _FLAGS,
)
_STATEMENT = re.compile(
    r"(?:insert\s+(?:into|overwrite)|merge\s+into|update\s+\S+\s+set|delete\s+from|truncate\s+table|copy\s+into"
    rf"|drop\s+(?:table|view|{_PLACE})|alter\s+(?:table|view|{_PLACE})|grant\s.*\son\s|revoke\s.*\son\s"
    rf"|vacuum|create\s+(?:or\s+replace\s+)?(?:table|view|{_PLACE}))\s+\S",
    _FLAGS,
)
_FORMATS = {"delta", "parquet", "csv", "json", "orc", "text", "avro", "iceberg"}


def is_statement(text: str) -> bool:
    """Whether a text begins as a statement that changes something does, rather than as prose."""
    return bool(_STATEMENT.match(_bare(text)))


def effects_of_sql(text: str, *, line: int = 0) -> list[ProgramEffect]:
    """What a statement does beside reading; UNCLEAR where that cannot be told."""
    text = _IDENTIFIER.sub(lambda found: found[1] or UNKNOWN, _bare(text))
    if _UNTOLD.match(text):
        return [_unclear(text, line)]
    for kind, pattern in _WORDS:
        if found := pattern.match(text):
            return list(_told(kind, found, line))
    if _PARSED.match(text) or _INSIDE.match(text):
        return list(_parsed(text, line))
    return []


def _bare(text: str) -> str:
    """``text`` from its first word on: without comments and brackets before it."""
    at = 0
    while (found := _GAP.match(text, at)) is not None:
        at = found.end()
    return text[at:]


def _told(kind: EffectKind, found: re.Match[str], line: int) -> Iterator[ProgramEffect]:
    what = " ".join(found[1].upper().split())
    target = (known(found[2]),) if kind is EffectKind.PUT_FILE else _parts(found[2])
    if kind is EffectKind.USE and what == "USE CATALOG":
        target = (*target, "default")
    if kind is EffectKind.DESTROY and what == "VACUUM":
        what = "VACUUM … RETAIN 0 HOURS"
    # A view's or function's name alone is most often that of a temporary one.
    if len(target) > 1 or not what.endswith(("VIEW", "FUNCTION")):
        yield ProgramEffect(kind=kind, what=what, target=target, line=line)


def _parts(name: str) -> tuple[str, ...]:
    return tuple(known(part.strip("`")) for part in re.findall(r"`[^`]*`|\w+", name))


def _unclear(text: str, line: int) -> ProgramEffect:
    return ProgramEffect(
        kind=EffectKind.UNCLEAR, what=f"SQL that cannot be followed: {known(text)[:80]!r}", line=line
    )


def _parsed(text: str, line: int) -> Iterator[ProgramEffect]:
    from sqlglot import exp, parse

    try:
        statements = [statement for statement in parse(text, dialect="databricks") if statement is not None]
    except Exception:  # noqa: BLE001 - recorded: whatever a parser stumbles over, the statement is unclear
        statements = []
    if statements and not any(isinstance(each, exp.Command) for each in statements):
        for statement in statements:
            yield from _done(statement, line)
    elif head := _HEAD.match(text):
        yield ProgramEffect(
            kind=EffectKind.WRITE, what=" ".join(head[1].upper().split()), target=_parts(head[2]), line=line
        )
    else:
        yield _unclear(text, line)


def _done(statement: Any, line: int) -> Iterator[ProgramEffect]:
    from sqlglot import exp

    match statement:
        case exp.Create():
            yield from _created(statement, line)
        case exp.TruncateTable():
            for table in statement.expressions:
                yield _on_table(EffectKind.DESTROY, "TRUNCATE TABLE", table, line)
        case exp.Delete() | exp.Update():
            yield _changed(statement, line)
        case exp.Insert() | exp.Merge() | exp.Copy() | exp.Alter():
            yield _on_table(EffectKind.WRITE, type(statement).__name__.upper(), statement.this, line)
        case _:
            for inner in statement.find_all(exp.Insert, exp.Update, exp.Delete, exp.Merge):
                yield from _done(inner, line)


def _created(statement: exp.Create, line: int) -> Iterator[ProgramEffect]:
    from sqlglot import exp

    kind = str(statement.args.get("kind") or "").upper()
    if statement.find(exp.TemporaryProperty) is None:
        # What may have been there before is not the program's own.
        fresh = kind == "TABLE" and not statement.args.get("exists")
        yield _on_table(
            EffectKind.CREATE if fresh else EffectKind.WRITE, f"CREATE {kind}", statement.this, line
        )


def _changed(statement: exp.Delete | exp.Update, line: int) -> ProgramEffect:
    from sqlglot import exp

    verb, table = type(statement).__name__.upper(), statement.this
    where = statement.args.get("where")
    if where is not None and not _always(where.this):
        return _on_table(EffectKind.WRITE, verb, table, line)
    if where is None and isinstance(table, exp.Table) and UNKNOWN in table.alias:  # DELETE FROM t {where}
        return ProgramEffect(
            kind=EffectKind.UNCLEAR, what=f"{verb} whose condition is put in later", line=line
        )
    return _on_table(EffectKind.DESTROY, f"{verb} without WHERE", table, line)


def _always(condition: Any) -> bool:
    """Whether a condition holds for every row: ``true``, ``1 = 1``."""
    from sqlglot import exp

    if isinstance(condition, exp.EQ):
        literal = isinstance(condition.this, exp.Literal) and isinstance(condition.expression, exp.Literal)
        return literal and bool(condition.this == condition.expression)
    return isinstance(condition, exp.Boolean) and bool(condition.this)


def _on_table(kind: EffectKind, what: str, target: Any, line: int) -> ProgramEffect:
    from sqlglot import exp

    table = target.find(exp.Table) if isinstance(target, exp.Expression) else None
    parts = tuple(known(part.name) for part in table.parts) if table is not None else ()
    if not parts or not all(parts):
        return ProgramEffect(kind=kind, what=what, target=("*",), line=line)
    if len(parts) == 2 and parts[0].lower() in _FORMATS and "/" in parts[1]:
        return ProgramEffect(kind=EffectKind.PUT_FILE, what=what, target=(parts[1],), line=line)
    return ProgramEffect(kind=kind, what=what, target=parts, line=line)
