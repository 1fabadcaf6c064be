"""A text of SQL: its tokens, its statements, and the variables in it. Pure.

Variables are ``{name}``, ``${name}`` and ``{{ name }}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from databricks_rlm_agent.errors import UsageError

if TYPE_CHECKING:
    from sqlglot import Token

_FIX = "Check its quotes, comments and $$ from there on."
# Anything that has an end, or one character: for the place of an error only, so not of nested comments.
_CLOSED = re.compile(
    r"""--[^\n]*|/\*.*?\*/|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`[^`]*`|\$(\w*)\$.*?\$\1\$|/\*|\$\w*\$|.""",
    re.DOTALL,
)
_OPENERS = {"'", '"', "`", "/*", "$$"}
# Tokens after which a word is a name: `SELECT begin, t.end`.
_BEFORE_NAMES = {"DOT", "COMMA", "SELECT", "L_PAREN"}
# All others neither end a statement nor open or close what holds several.
_DECIDING = {"SEMICOLON", "CASE", "BEGIN", "END"}
# After END, what it ends; these are not counted where they begin, for IF and REPEAT are functions as well.
_ENDINGS = {"IF", "LOOP", "WHILE", "REPEAT", "FOR"}


@dataclass(frozen=True, kw_only=True)
class StatementText:
    """A statement's text, without comments around it, and the line of its first word, from 1.

    ``normalized`` has single spaces between its words, and no comments or hints.
    """

    text: str
    line: int
    normalized: str


def split(text: str, file: str) -> list[StatementText]:
    """Return the statements of a text, in order, without empty ones.

    Raise UsageError, with file and line, if a string, comment or block has no end.
    """
    pieces = []
    at, line = 0, 1
    for tokens in _statements(tokens_of(text, file), text, file):
        line += text.count("\n", at, tokens[0].start)
        at = tokens[0].start
        pieces.append(
            StatementText(text=text[at : tokens[-1].end + 1], line=line, normalized=_normalized(tokens, text))
        )
    return pieces


def _normalized(tokens: Sequence[Token], text: str) -> str:
    words: list[str] = []
    last = -1
    for token in tokens:
        if token.start > last and token.token_type.name != "HINT":  # one word may be several tokens: 10L
            words.append(text[token.start : token.end + 1])
            last = token.end
    return " ".join(words)


def tokens_of(text: str, file: str) -> list[Token]:
    """Return the tokens of a text without comments; raise UsageError if it cannot be read to its end."""
    from sqlglot.dialects import Databricks
    from sqlglot.errors import TokenError

    try:
        return list(_tokenizer()(dialect=Databricks()).tokenize(text))
    except TokenError:
        what = "The SQL cannot be read: a string, quoted name or comment has no end."
        raise UsageError(what, where=f"{file}:{_unended(text)}", fix=_FIX) from None


@cache
def _tokenizer() -> Any:
    from sqlglot.dialects import Databricks

    class Tokenizer(Databricks.Tokenizer):  # type: ignore[misc]  # sqlglot leaves it untyped
        """As Databricks has it, which sqlglot's own leaves out in three points."""

        HEREDOC_STRINGS = ["$"]  # noqa: RUF012 - of sqlglot; $$ … $$ and $tag$ … $tag$: bodies of functions
        HEREDOC_TAG_IS_IDENTIFIER = True
        COMMANDS: set[Any] = set()  # noqa: RUF012 - of sqlglot; it would take what follows up to any semicolon

    return Tokenizer


def _unended(text: str) -> int:
    """The line where the string, name or comment begins that has no end."""
    place = 0
    for found in _CLOSED.finditer(text):
        if found[0] in _OPENERS:
            break
        place = found.end()
    return _line(text, place)


def _line(text: str, place: int) -> int:
    return 1 + text.count("\n", 0, place)


def _statements(tokens: Sequence[Token], text: str, file: str) -> Iterator[list[Token]]:
    """The tokens of each statement: between semicolons that are in no ``BEGIN … END``."""
    opened: list[Token] = []
    first = 0
    for place, token in enumerate(tokens):
        kind = token.token_type.name
        if kind not in _DECIDING:
            continue
        if kind == "SEMICOLON":
            if not opened:
                if place > first:
                    yield list(tokens[first:place])
                first = place + 1
            continue
        if _opens(tokens, first, place, inside=bool(opened)):
            opened.append(token)
        elif opened and _closes(tokens, first, place):
            opened.pop()
    if opened:
        where = f"{file}:{_line(text, opened[0].start)}"
        raise UsageError("A BEGIN has no END.", where=where, fix="Add the END that is missing.")
    if first < len(tokens):
        yield list(tokens[first:])


def _opens(tokens: Sequence[Token], first: int, place: int, *, inside: bool) -> bool:
    """Return whether a token opens a block, or a CASE within one, which has an END as well."""
    kind = tokens[place].token_type.name
    before = _kind_before(tokens, first, place)
    if kind == "CASE":
        return inside and before not in {"DOT", "END"}
    if kind != "BEGIN" or before in _BEFORE_NAMES:
        return False
    if inside:
        return True
    words = [token.text.upper() for token in tokens[first : min(first + 12, place + 1)]]
    if place == first:  # BEGIN TRANSACTION is a statement of its own
        following = _word_after(tokens, place)
        return following is not None and following not in {";", "TRANSACTION", "WORK"}
    labelled = place == first + 2 and before == "COLON"
    return labelled or (words[0] == "CREATE" and "PROCEDURE" in words)


def _closes(tokens: Sequence[Token], first: int, place: int) -> bool:
    before = _kind_before(tokens, first, place)
    if tokens[place].token_type.name != "END" or before in _BEFORE_NAMES:
        return False
    return _word_after(tokens, place) not in _ENDINGS


def _kind_before(tokens: Sequence[Token], first: int, place: int) -> str:
    return tokens[place - 1].token_type.name if place > first else ""


def _word_after(tokens: Sequence[Token], place: int) -> str | None:
    return tokens[place + 1].text.upper() if place + 1 < len(tokens) else None


_VARIABLE = re.compile(r"[A-Za-z_]\w*")
# The last is how Databricks' own queries have their parameters.
_USED = re.compile(r"\$?\{([A-Za-z_]\w*)\}|\{\{\s*([A-Za-z_]\w*)\s*\}\}")
_JINJA = re.compile(r"\{\{|\{%")
NUMBERS = ("iteration", "previous")
"""Stand for the numbers of an iteration in a loop's template and convergence query."""


def parse_variables(given: Iterable[str]) -> dict[str, str]:
    """Read ``NAME=VALUE``, as given by ``--var``; raise UsageError for what is not that."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not _VARIABLE.fullmatch(name) or name in NUMBERS or "\n" in value:
            raise UsageError(
                f"--var {text[:80]!r} is not a variable.",
                fix="Write NAME=VALUE on one line; NAME is a word other than iteration and previous.",
            )
        if found.get(name, value) != value:
            raise UsageError(f"--var {name} is given twice.", fix="Give it one value.")
        found[name] = value
    return found


def used(text: str) -> set[str]:
    """Names of possible variables in a text, also within strings."""
    return {found[1] or found[2] for found in _USED.finditer(text)}


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Replace the variables that have a value."""
    return _USED.sub(lambda found: values.get(found[1] or found[2], found[0]), text)


def check_all_known(text: str, file: str) -> None:
    """Raise UsageError for a variable without a value; in strings and comments braces mean themselves."""
    jinja = _JINJA.search(text)
    if not jinja and not _USED.search(text):
        return
    tokens = tokens_of(text, file)
    if jinja:
        _check_no_jinja(tokens, text, file)
    for one, two, three in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if one.text == "{" and three.text == "}" and _VARIABLE.fullmatch(two.text):
            raise _without_value(two.text, f"{file}:{_line(text, one.start)}")
    for token in tokens:
        found = _USED.search(token.text)
        if found and token.token_type.name == "IDENTIFIER":  # a quoted name
            raise _without_value(found[1] or found[2], f"{file}:{_line(text, token.start)}")


def _check_no_jinja(tokens: Sequence[Token], text: str, file: str) -> None:
    places = {found.start() for found in _JINJA.finditer(text)}
    found = next((token for token in tokens if token.start in places), None)
    if found is not None and (name := _USED.match(text, found.start)):
        raise _without_value(name[2], f"{file}:{_line(text, found.start)}")
    if found is not None:
        raise UsageError(
            f"It is a template that has not been filled in: {text[found.start :][:40].splitlines()[0]}",
            where=f"{file}:{_line(text, found.start)}",
            fix="Give the compiled files (of dbt, those below target/compiled), or write {name} for --var.",
        )


def _without_value(name: str, where: str) -> UsageError:
    fix = f"Give --var {name}=VALUE."
    if name in NUMBERS:
        fix = "Declare the file as the template of a loop in workflow.yml."
    return UsageError(f"The variable {{{name}}} has no value.", where=where, fix=fix)
