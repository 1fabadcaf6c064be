"""Which statement is this, and who handles it: one table from leading words to handlers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .catalog import CatalogTree
from .errors import EngineError
from .lexer import Token, chain_at, chains, quote, tokenize, unquote_string
from .literals import string_literal

if TYPE_CHECKING:
    from .session import CatalogSession

# A handler returns SQL for the engine, or the fields of a StatementResult when it has done the work itself.
Handler = Callable[["CatalogSession", "Statement"], "str | dict[str, Any]"]


@dataclass(frozen=True)
class Statement:
    """One SQL statement and its tokens (a closing semicolon left out)."""

    text: str
    tokens: list[Token]

    @classmethod
    def parse(cls, sql: str) -> Statement:
        """Tokenize `sql`; raises when it holds more than one statement."""
        tokens = tokenize(sql)
        end = len(sql)
        while tokens and tokens[-1].text == ";":
            end = tokens.pop().start
        if any(token.text == ";" for token in tokens) and not _is_script(tokens):
            raise EngineError.of(
                "PARSE_SYNTAX_ERROR", "Syntax error: expected one statement, found several.", "42601"
            )
        return cls(sql[:end], tokens)

    def names(self) -> list[tuple[str, ...]]:
        """Every identifier chain in the statement."""
        return list(dict.fromkeys(parts for parts, _, _ in chains(self.tokens)))

    def starts(self, *words: str, at: int = 0) -> bool:
        """Whether the words from token `at` on are these."""
        return len(self.tokens) >= at + len(words) and all(
            self.tokens[at + index].upper == word for index, word in enumerate(words)
        )

    def source(self, start: int, end: int | None = None) -> str:
        """The text from token `start` up to (not with) token `end`."""
        if start >= len(self.tokens):
            return ""
        last = len(self.text) if end is None or end >= len(self.tokens) else self.tokens[end].start
        return self.text[self.tokens[start].start : last].strip()

    def find(self, *words: str, start: int = 0) -> int | None:
        """The first token from `start` on, outside parentheses and CASE … END, that is one of `words`."""
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

    def name(self) -> tuple[str, ...]:
        """Step over an identifier chain; raises when none comes next."""
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
        """Whether all tokens have been read."""
        return self.at >= len(self.statement.tokens)

    def rest(self) -> str:
        """The text not read yet."""
        return self.statement.source(self.at)


def handler_of(statement: Statement) -> Handler | None:
    """The handler of a statement; None when the engine runs it as it is."""
    from . import ddl, dml, maintenance, show

    words = " ".join(token.upper for token in statement.tokens[:8])
    for pattern, handler in (*ddl.HANDLERS, *dml.HANDLERS, *show.HANDLERS, *maintenance.HANDLERS):
        if re.match(pattern, words):
            return handler
    return None


_PATH_FORMATS = {"delta", "parquet", "csv", "json", "text", "avro", "binaryfile", "orc"}
_PATH_CALLS = {"READ_FILES", "PATH"}


def map_paths(statement: Statement, tree: CatalogTree) -> str:
    """The statement's text with `/Volumes/…` paths mapped to the folder under the root.

    Only where a path must stand: a text that happens to be a path is somebody's data.
    """
    text = statement.text
    if "/Volumes/" not in text:
        return text
    pieces: list[str] = []
    last = 0
    for index, token in enumerate(statement.tokens):
        mapped = _mapped(statement.tokens, index, tree)
        if mapped is not None:
            pieces += [text[last : token.start], mapped]
            last = token.end
    return "".join([*pieces, text[last:]])


def _mapped(tokens: list[Token], index: int, tree: CatalogTree) -> str | None:
    token = tokens[index]
    before = tokens[index - 1] if index else None
    further = tokens[index - 2] if index > 1 else None
    if before is None or "/Volumes/" not in token.text:
        return None
    if token.kind == "quoted" and before.text == "." and further and further.name.lower() in _PATH_FORMATS:
        return quote(tree.local_path(token.name))
    if token.kind == "string" and (
        before.upper == "LOCATION" or (before.text == "(" and further and further.upper in _PATH_CALLS)
    ):
        return string_literal(tree.local_path(unquote_string(token.text)))
    return None
