"""Table properties in SQL text, and those that the local workspace leaves out.

Our tables ask for deletion vectors because Databricks needs them for row-level concurrency. Here they would
buy nothing (a commit conflicts by file, and is retried) and cost what the workspace promises: that any Delta
reader opens the tables under its root. `deltalake.DeltaTable(…).to_pyarrow_table()`, among others, refuses a
table whose protocol names the feature, whether or not a file has a vector.

The change data feed is left out on Sail only, which can neither write nor read one (no `table_changes`): with
the property, making the table would fail. SHOW TBLPROPERTIES then says that the table has none.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from .lexer import Token, chain_at, unquote_string
from .statements import Statement

LEFT_OUT = frozenset({"delta.enabledeletionvectors", "delta.feature.deletionvectors"})
LEFT_OUT_ON_SAIL = LEFT_OUT | {"delta.enablechangedatafeed", "delta.feature.changedatafeed"}


def readable_by_all(
    statement: Statement, *, start: int = 0, end: int | None = None, left_out: frozenset[str] = LEFT_OUT
) -> Statement:
    """The statement without the properties that keep readers out; an emptied clause goes as a whole.

    The clause is looked for among the tokens from `start` up to (not with) `end`.
    """
    clause = statement.find("TBLPROPERTIES", start=start)
    tokens = statement.tokens
    if clause is None or (end is not None and clause > end) or not statement.starts("(", at=clause + 1):
        return statement
    pairs, after = _pairs(tokens, clause + 2)
    kept = [statement.source(first, last) for key, first, last in pairs if key.lower() not in left_out]
    if len(kept) == len(pairs):
        return statement
    text = f"TBLPROPERTIES ({', '.join(kept)})" if kept else ""
    return Statement.parse(
        f"{statement.text[: tokens[clause].start]}{text} {statement.text[tokens[after - 1].end :]}"
    )


def pairs_of(statement: Statement, start: int) -> dict[str, str]:
    """The keys and values of the parenthesis that opens at token `start`."""
    tokens = statement.tokens
    found = {}
    for key, first, last in _pairs(tokens, start + 1)[0]:
        _, value = _key(tokens, first)
        value += value < last and tokens[value].text == "="
        text = "".join(token.text for token in tokens[value:last])
        found[key] = unquote_string(text) if value < last and tokens[value].kind == "string" else text
    return found


def drop_left_out(options: MutableMapping[str, str], left_out: frozenset[str] = LEFT_OUT) -> None:
    """As `readable_by_all`, for the options of a writer."""
    for key in [key for key in options if key.lower() in left_out]:
        del options[key]


def _pairs(tokens: list[Token], at: int) -> tuple[list[tuple[str, int, int]], int]:
    """Each pair's (key, first token, token after the last), and the index after the closing parenthesis."""
    found: list[tuple[str, int, int]] = []
    first = at
    while at < len(tokens):
        if tokens[at].text in {",", ")"} and tokens[at].kind == "symbol":
            if at > first:
                found.append((_key(tokens, first)[0], first, at))
            first = at + 1
            if tokens[at].text == ")":
                return found, at + 1
        at += 1
    return found, at


def _key(tokens: list[Token], at: int) -> tuple[str, int]:
    """A property's name, written as a string or as a dotted name, and the index after it."""
    if tokens[at].is_name:
        parts, after = chain_at(tokens, at)
        return ".".join(parts), after
    text = tokens[at].text
    return (unquote_string(text) if tokens[at].kind == "string" else text), at + 1
