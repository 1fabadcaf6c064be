"""PRIMARY KEY and FOREIGN KEY: on Databricks they tell people of keys, and hold nobody to them."""

from __future__ import annotations

from .lexer import Token
from .statements import Statement


def without_keys(statement: Statement, at: int) -> Statement:
    """The CREATE TABLE without the keys among its columns, which begin at token `at`.

    What else a constraint may be (CHECK) stays, for the engine to refuse.
    """
    tokens = statement.tokens
    if not statement.starts("(", at=at) or statement.find("SELECT", start=at + 1) == at + 1:
        return statement
    kept: list[str] = []
    cut = False
    for first, end in _items(tokens, at + 1):
        upto = _key(tokens, first, end)
        cut = cut or upto < end
        if upto > first:
            kept.append(statement.text[tokens[first].start : tokens[upto - 1].end])
    if not cut or not kept:
        return statement
    after = _items(tokens, at + 1)[-1][1]
    return Statement.parse(
        f"{statement.text[: tokens[at].end]}{', '.join(kept)}{statement.text[tokens[after].start :]}"
    )


def _items(tokens: list[Token], at: int) -> list[tuple[int, int]]:
    """Each item of the list that begins at a token: its first token, and the one after its last."""
    found = []
    depth, first = 0, at
    for index in range(at, len(tokens)):
        text = tokens[index].text if tokens[index].kind == "symbol" else ""
        if depth == 0 and text in {",", ")"}:
            found.append((first, index))
            first = index + 1
            if text == ")":
                return found
        depth += (text in {"(", "<"}) - (text in {")", ">"})
    return found


def _key(tokens: list[Token], first: int, end: int) -> int:
    """Where the key of an item begins; `end` if it has none."""
    for index in range(first, end):
        upper = tokens[index].upper
        at = index + 2 if upper == "CONSTRAINT" else index
        following = tokens[at].upper if at < end else ""
        after = tokens[at + 1].upper if at + 1 < end else ""
        if following in {"PRIMARY", "FOREIGN"} and after == "KEY":
            return index
        if following == "REFERENCES" and index > first + 1:
            return index
    return end
