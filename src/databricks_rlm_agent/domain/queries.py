"""Queries that only read: one SELECT, alone, without anything that has an effect. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from databricks_rlm_agent.errors import UsageError

if TYPE_CHECKING:
    from sqlglot import Token
    from sqlglot.expressions.core import Expr

_FIX = "Write one SELECT (WITH … SELECT) that only reads."
# Functions of Databricks SQL that reach out of the query: into the JVM, or to other services.
_EFFECTS = frozenset({"http_request", "java_method", "reflect", "try_reflect"})


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query without comments around it or a semicolon after it, and what ``=>`` says it must return."""

    sql: str
    equals: str | None = None


def parse_query(text: str) -> Query:
    """Read ``SELECT …`` or ``SELECT … => VALUE``; raise UsageError for all that is not one reading query.

    The arrow counts only outside of parentheses: inside, it names an argument of a function.
    """
    tokens = _tokens(text)
    arrow = _arrow(tokens)
    if arrow is None:
        return Query(sql=_reading(text, tokens))
    value = _span(text, tokens[arrow + 1 :])
    if not value:
        raise UsageError("There is nothing after the => of the query.", fix="Say what it must return.")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return Query(sql=_reading(text, tokens[:arrow]), equals=value)


def _span(text: str, tokens: list[Token]) -> str:
    """The text from the first of these tokens to the last: without comments before and after."""
    return text[tokens[0].start : tokens[-1].end + 1] if tokens else ""


def _tokens(text: str) -> list[Token]:
    from sqlglot import TokenType
    from sqlglot.dialects import Databricks
    from sqlglot.errors import SqlglotError

    try:
        tokens = list(Databricks().tokenize(text))
    except SqlglotError:
        raise UsageError(
            f"The query cannot be read: {text[:120]!r}.", fix="Check its quotes and comments."
        ) from None
    while tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        tokens.pop()
    return tokens


def _arrow(tokens: list[Token]) -> int | None:
    """The place of the last arrow outside of parentheses."""
    from sqlglot import TokenType

    found, depth = None, 0
    for place, token in enumerate(tokens):
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(token.token_type, 0)
        if token.token_type is TokenType.FARROW and depth == 0:
            found = place
    return found


def _reading(text: str, tokens: list[Token]) -> str:
    """The query that these tokens are."""
    from sqlglot import TokenType

    # Looked at before it is parsed: what sqlglot does not know it takes for a command, and logs that.
    if not tokens or tokens[0].token_type not in {TokenType.SELECT, TokenType.WITH}:
        raise UsageError(f"A check cannot run {text[:80]!r}.", fix=_FIX)
    sql = _span(text, tokens)
    _check(sql)
    return sql


def _check(sql: str) -> None:
    from sqlglot import exp

    statements = _parsed(sql)
    if len(statements) != 1 or not isinstance(statements[0], exp.Query) or not statements[0].selects:
        raise UsageError(f"It is not one query: {sql[:80]!r}.", fix=_FIX)
    for node in statements[0].walk():
        if isinstance(node, exp.DML | exp.DDL | exp.Drop | exp.Into | exp.Command):
            raise UsageError(f"The query would change something: {sql[:80]!r}.", fix=_FIX)
        if isinstance(node, exp.Placeholder | exp.Parameter):
            raise UsageError("The query has a parameter.", fix="Write its value out.")
        if isinstance(node, exp.Anonymous) and node.name.lower() in _EFFECTS:
            raise UsageError(f"The query calls {node.name.lower()}, which has effects.", fix=_FIX)


def _parsed(sql: str) -> list[Expr | None]:
    from sqlglot import parse
    from sqlglot.errors import ParseError

    try:
        return list(parse(sql, dialect="databricks"))
    except ParseError as error:
        first = error.errors[0] if error.errors else {}
        place = f"at line {first.get('line')}, column {first.get('col')}"
        raise UsageError(f"The query does not parse: {first.get('description')} {place}.", fix=_FIX) from None
    except RecursionError:
        raise UsageError("The query is nested too deeply.", fix=_FIX) from None
