"""SQL text as tokens of sqlglot's tokenizer for Databricks, and a reader that walks over them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from .errors import EngineError, syntax_error

_UNQUOTED = re.compile(r"[^\W\d]\w*")
# Statements that are asked again and again are tokenized once; large ones are not worth the memory.
_CACHED_STATEMENTS, _CACHED_LENGTH = 256, 20_000


class Token(NamedTuple):
    """One lexical unit; `kind` is string, quoted, number, word or symbol; `start:end` slices the text."""

    kind: str
    text: str
    start: int
    end: int

    @property
    def upper(self) -> str:
        """The keyword this token may be; empty for anything that is not a bare word or symbol."""
        return self.text.upper() if self.kind in {"word", "symbol"} else ""

    @property
    def name(self) -> str:
        """The identifier this token spells, unquoted."""
        return self.text[1:-1].replace("``", "`") if self.kind == "quoted" else self.text

    @property
    def is_name(self) -> bool:
        """Tell whether an identifier may stand here."""
        return self.kind in {"word", "quoted"}


@cache
def _tokenizer() -> Any:
    from sqlglot.dialects import Databricks

    class Tokenizer(Databricks.Tokenizer):  # type: ignore[misc] # sqlglot leaves it untyped
        """Databricks' tokenizer, with one token for each word, and strings in dollar quotes."""

        KEYWORDS = {  # noqa: RUF012 - of sqlglot; no `GROUP BY` as one token, no templates, no hints
            word: kind
            for word, kind in Databricks.Tokenizer.KEYWORDS.items()
            if " " not in word and word[0] != "{" and word != "/*+"
        }
        COMMANDS: set[Any] = set()  # noqa: RUF012 - of sqlglot; SHOW would take the rest as one string
        NUMERIC_LITERALS: dict[str, str] = {}  # noqa: RUF012 - of sqlglot; `1L` stays one token
        HEREDOC_STRINGS = ["$"]  # noqa: RUF012 - of sqlglot
        HEREDOC_TAG_IS_IDENTIFIER = True

    return Tokenizer


def tokenize(sql: str) -> list[Token]:
    """Split `sql` into tokens without white space and comments. Raises `EngineError` on an open quote."""
    from sqlglot.dialects import Databricks
    from sqlglot.errors import TokenError

    try:
        # One of its own: a tokenizer keeps its place in itself, and threads would read each other's text.
        found = _tokenizer()(dialect=Databricks()).tokenize(sql)
    except TokenError as error:
        raise syntax_error(f"a string, quoted name or comment has no end. ({error})") from None
    return [
        Token(_kind(each.token_type.name, sql[start]), sql[start:end], start, end)
        for each in found
        for start, end in [(each.start, each.end + 1)]
    ]


def _kind(sqlglot_type: str, first: str) -> str:
    if sqlglot_type == "IDENTIFIER":
        return "quoted"
    if sqlglot_type.endswith("STRING") and (first in "'\"$" or sqlglot_type != "STRING"):
        return "string"
    if first.isdigit():
        return "number"
    return "word" if first.isalpha() or first == "_" else "symbol"


def chains(tokens: list[Token]) -> Iterator[tuple[str, ...]]:
    """Yield the parts of every dotted identifier chain."""
    index = 0
    while index < len(tokens):
        if tokens[index].is_name:
            parts, index = chain_at(tokens, index)
            yield parts
        else:
            index += 1


def chain_at(tokens: list[Token], index: int) -> tuple[tuple[str, ...], int]:
    """Return the identifier chain that starts at `index`, and the index after it."""
    parts = [tokens[index].name]
    index += 1
    while index + 1 < len(tokens) and tokens[index].text == "." and tokens[index + 1].is_name:
        parts.append(tokens[index + 1].name)
        index += 2
    return tuple(parts), index


def split_name(text: str) -> tuple[str, ...]:
    """Return the parts of a name in SQL, such as ``main.`my schema`.t``; empty if it is not a name."""
    if _UNQUOTED.fullmatch(text):
        return (text,)
    tokens = tokenize(text)
    if not tokens or not tokens[0].is_name:
        return ()
    parts, end = chain_at(tokens, 0)
    return parts if end == len(tokens) else ()


def parsed(sql: str) -> Any:
    """Return the tree that sqlglot makes of Databricks SQL; None where it cannot."""
    from sqlglot import parse_one
    from sqlglot.errors import SqlglotError

    try:
        return parse_one(sql, dialect="databricks")
    except SqlglotError:
        return None


def spliced(text: str, places: Iterable[tuple[int, int, str]]) -> str:
    """Return a text with other texts in the places (start, end, text) of it, which do not overlap."""
    for start, end, put in sorted(places, reverse=True):
        text = f"{text[:start]}{put}{text[end:]}"
    return text


def table_names(tree: Any) -> Iterator[tuple[Any, tuple[str, ...], int, int]]:
    """Yield each table of a tree that is named by identifiers: its node, its parts, and where they stand."""
    from sqlglot import exp

    for table in tree.find_all(exp.Table):
        names = [part for part in table.parts if isinstance(part, exp.Identifier)]
        if names:
            parts = tuple(part.name for part in names)
            yield table, parts, names[0].meta["start"], names[-1].meta["end"] + 1


def unquote_string(text: str) -> str:
    """Return the value of a SQL string literal as written in the source."""
    if text[0] in "rR":
        return text[2:-1]
    if text[0] == "$":
        return text.split("$", 2)[2].rsplit("$", 2)[0]
    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", _unescape, text[1:-1], flags=re.DOTALL)


def _unescape(match: re.Match[str]) -> str:
    escape = match.group(1)
    if len(escape) == 5:
        return chr(int(escape[1:], 16))
    return {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "0": "\0", "Z": "\x1a", "%": "\\%", "_": "\\_"}.get(
        escape, escape
    )


@dataclass(frozen=True)
class Statement:
    """One SQL statement and its tokens (a closing semicolon left out)."""

    text: str
    tokens: list[Token]

    @classmethod
    def parse(cls, sql: str) -> Statement:
        """Tokenize `sql`. Raises `EngineError` when it holds more than one statement."""
        return _cached_parse(sql) if len(sql) <= _CACHED_LENGTH else _parse(sql)

    def names(self) -> list[tuple[str, ...]]:
        """Return every identifier chain in the statement."""
        return list(dict.fromkeys(chains(self.tokens)))

    def starts(self, *words: str, at: int = 0) -> bool:
        """Tell whether the words from token `at` on are these."""
        return len(self.tokens) >= at + len(words) and all(
            self.tokens[at + index].upper == word for index, word in enumerate(words)
        )

    def source(self, start: int, end: int | None = None) -> str:
        """Return the text from token `start` up to (not with) token `end`."""
        if start >= len(self.tokens):
            return ""
        last = len(self.text) if end is None or end >= len(self.tokens) else self.tokens[end].start
        return self.text[self.tokens[start].start : last].strip()

    def without(self, start: int, end: int, put: str = "") -> Statement:
        """Return the statement with the tokens from `start` up to `end` replaced by the text `put`."""
        after = self.text[self.tokens[end - 1].end :]
        gap = " " if after[:1].isalnum() else ""
        return Statement.parse(f"{self.text[: self.tokens[start].start]}{put}{gap}{after}")

    def find(self, *words: str, start: int = 0) -> int | None:
        """Return the first token from `start` on, outside parentheses and CASE … END, that is in `words`."""
        depth = 0
        for index in range(start, len(self.tokens)):
            upper = self.tokens[index].upper
            if depth == 0 and upper in words:
                return index
            if upper in {"(", "CASE", "["}:
                depth += 1
            elif depth and upper in {")", "END", "]"}:
                depth -= 1
        return None

    def closing(self, opening: int) -> int:
        """Return the token that closes the parenthesis at token `opening` (the end if none does)."""
        depth = 0
        for index in range(opening, len(self.tokens)):
            upper = self.tokens[index].upper
            depth += (upper == "(") - (upper == ")")
            if depth == 0:
                return index
        return len(self.tokens)

    def items(self, opening: int) -> list[tuple[int, int]]:
        """Return the (first, after last) tokens of each item in the parenthesis at token `opening`."""
        found = []
        depth, first, end = 0, opening + 1, self.closing(opening)
        for index in range(first, end + 1):
            upper = self.tokens[index].upper if index < end else ","
            if upper == "," and depth <= 0:
                if index > first:
                    found.append((first, index))
                first = index + 1
            depth += (upper in {"(", "<"}) - (upper in {")", ">"})
        return found


def _parse(sql: str) -> Statement:
    tokens = tokenize(sql)
    if seams := [token.end for token, after in pairwise(tokens) if _is_doubled_quote(token, after)]:
        # 'It''s' is one text since Spark 4; Sail, and sqlglot here, take it for two that stand side by side.
        for at in seams:
            sql = f"{sql[: at - 1]}\\{sql[at:]}"
        tokens = tokenize(sql)
    end = len(sql)
    while tokens and tokens[-1].text == ";":
        end = tokens.pop().start
    if any(token.text == ";" for token in tokens) and not _is_script(tokens):
        raise syntax_error("expected one statement, found several.")
    return Statement(sql[:end], tokens)


def _is_doubled_quote(token: Token, after: Token) -> bool:
    both = token.kind == after.kind == "string" and token.end == after.start
    return both and token.text[0] == after.text[0] and token.text[0] in "'\""


_cached_parse = lru_cache(_CACHED_STATEMENTS)(_parse)


def _is_script(tokens: list[Token]) -> bool:
    return tokens[0].upper == "BEGIN" and tokens[-1].upper == "END"


class Reader:
    """Walks over the tokens of a statement."""

    def __init__(self, statement: Statement, at: int = 0) -> None:
        self.statement = statement
        self.at = at

    def accept(self, *words: str) -> bool:
        """Step over `words` if they come next."""
        if not self.statement.starts(*words, at=self.at):
            return False
        self.at += len(words)
        return True

    def accept_new(self, kind: str) -> tuple[bool, bool]:
        """Step over [OR REPLACE] `kind` [IF NOT EXISTS]; return which of the two are there."""
        replacing = self.accept("OR", "REPLACE")
        self.accept(kind)
        return replacing, self.accept("IF", "NOT", "EXISTS")

    def name(self) -> tuple[str, ...]:
        """Step over an identifier chain; raises `EngineError` when none comes next."""
        tokens = self.statement.tokens
        if self.at >= len(tokens) or not tokens[self.at].is_name:
            near = tokens[self.at].text if self.at < len(tokens) else "end of input"
            raise EngineError.of(
                "PARSE_SYNTAX_ERROR", f"Syntax error at or near '{near}': expected a name.", "42601"
            )
        parts, self.at = chain_at(tokens, self.at)
        return parts

    def string(self) -> str | None:
        """Step over a string literal and return its value; None when none comes next."""
        tokens = self.statement.tokens
        if self.at >= len(tokens) or tokens[self.at].kind != "string":
            return None
        self.at += 1
        return unquote_string(tokens[self.at - 1].text)

    @property
    def done(self) -> bool:
        """Tell whether all tokens have been read."""
        return self.at >= len(self.statement.tokens)

    def rest(self) -> str:
        """Return the text not read yet."""
        return self.statement.source(self.at)
