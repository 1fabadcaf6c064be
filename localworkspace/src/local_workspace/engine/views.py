"""Views keep their query with full table names: the engine resolves a view in the session that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lexer import chain_at
from .statements import Statement

if TYPE_CHECKING:
    from .session import CatalogSession

_AFTER = {"FROM", "JOIN", "TABLE"}
# Words that end the list of tables after FROM.
_ENDS = {
    "WHERE",
    "GROUP",
    "ORDER",
    "HAVING",
    "LIMIT",
    "UNION",
    "EXCEPT",
    "INTERSECT",
    "WINDOW",
    "QUALIFY",
    "SELECT",
    "ON",
    "SORT",
    "CLUSTER",
    "DISTRIBUTE",
}


def table_positions(statement: Statement) -> list[tuple[int, int, tuple[str, ...]]]:
    """Where tables are named: (first token, token after the last, parts), common table expressions left
    out.
    """
    tokens = statement.tokens
    local = {
        tokens[i].name.lower()
        for i in range(len(tokens) - 2)
        if tokens[i].is_name and tokens[i + 1].upper == "AS" and tokens[i + 2].text == "("
    }
    found = []
    listing = [False]  # per parenthesis: are we in a FROM list, where a comma brings another table?
    expecting = False
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if expecting and token.is_name and token.upper not in {"LATERAL", "ONLY"}:
            parts, end = chain_at(tokens, index)
            calls = end < len(tokens) and tokens[end].text == "("
            if not calls and not (len(parts) == 1 and parts[0].lower() in local):
                found.append((index, end, parts))
            expecting, index = False, end
            continue
        expecting = token.upper in _AFTER or (token.text == "," and listing[-1])
        if token.upper == "FROM":
            listing[-1] = True
        elif token.upper in _ENDS:
            listing[-1] = False
        elif token.text == "(":
            listing.append(False)
        elif token.text == ")" and len(listing) > 1:
            listing.pop()
        index += 1
    return found


def qualify(statement: Statement, session: CatalogSession) -> str:
    """The statement's text with each name of a catalog table written out in full."""
    pieces: list[str] = []
    last = 0
    for start, end, parts in table_positions(statement):
        if len(parts) > 2:
            continue
        name = session.namespace.table(parts)
        if session.tree.signature(name) is None:
            continue
        pieces += [statement.text[last : statement.tokens[start].start], name.sql]
        last = statement.tokens[end - 1].end
    return "".join([*pieces, statement.text[last:]])
