"""A lexer for Spark SQL text: enough to know what is code and what is a string, a comment or a quoted
name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*)
  | (?P<comment>/\*)
  | (?P<string>[rR]'[^']*'|[rR]"[^"]*"|'[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+"
              |\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
  | (?P<quoted>`(?:[^`]|``)*`)
  | (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?[A-Za-z]*|\.\d+(?:[eE][+-]?\d+)?[A-Za-z]*)
  | (?P<word>[^\W\d]\w*)
  | (?P<param>(?<![\w\])`:'"]):[^\W\d]\w*)
  | (?P<symbol>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_UNQUOTED = re.compile(r"[^\W\d]\w*")


class Token(NamedTuple):
    """One lexical unit; `kind` is string, quoted, number, word, param or symbol; `start:end` slices the
    text.
    """

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
        """Whether an identifier may stand here."""
        return self.kind in {"word", "quoted"}


def tokenize(sql: str) -> list[Token]:
    """Split `sql` into tokens, leaving out white space and (nested) comments."""
    tokens: list[Token] = []
    at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        assert match is not None  # the last alternative takes any character
        kind = match.lastgroup or "symbol"
        at = match.end()
        if kind == "comment":
            at = _end_of_comment(sql, at)
        elif kind != "space":
            # A number after a dot that follows a name would be `t.1x`; Spark reads that as an identifier.
            tokens.append(Token(kind, match.group(), match.start(), at))
    return tokens


def _end_of_comment(sql: str, at: int) -> int:
    depth = 1
    for match in _COMMENT_EDGE.finditer(sql, at):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    return len(sql)


def chains(tokens: list[Token]) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Every dotted identifier chain, as (parts, index of its first token, index after its last)."""
    index = 0
    while index < len(tokens):
        if not tokens[index].is_name:
            index += 1
            continue
        parts, end = chain_at(tokens, index)
        yield parts, index, end
        index = end


def chain_at(tokens: list[Token], index: int) -> tuple[tuple[str, ...], int]:
    """The identifier chain that starts at `index`, and the index after it."""
    parts = [tokens[index].name]
    index += 1
    while index + 1 < len(tokens) and tokens[index].text == "." and tokens[index + 1].is_name:
        parts.append(tokens[index + 1].name)
        index += 2
    return tuple(parts), index


def split_name(text: str) -> tuple[str, ...]:
    """The parts of a name written as SQL, such as ``main.`my schema`.t``; empty if it is not a name."""
    if _UNQUOTED.fullmatch(text):
        return (text,)
    tokens = tokenize(text)
    if not tokens or not tokens[0].is_name:
        return ()
    parts, end = chain_at(tokens, 0)
    return parts if end == len(tokens) else ()


def quote(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return "`" + name.replace("`", "``") + "`"


def unquote_string(text: str) -> str:
    """The value of a SQL string literal as written in the source."""
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
