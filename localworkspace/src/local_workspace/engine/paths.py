"""Paths of files in statements: mapped to the workspace's folder, and bounded to what its owner allows.

An engine reads and writes with the rights of whoever started the server; what holds the token is a file, too.
"""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import EngineError
from .literals import string_literal
from .names import quote
from .statements import Statement, Token, split_name, unquote_string

FORMATS = frozenset({
    "delta", "parquet", "csv", "json", "text", "avro", "binaryfile", "orc", "xml", "iceberg", "arrow",
    "vortex",
})  # fmt: skip
# Words, functions and options after which a text is a path.
_WORDS = frozenset({
    "LOCATION", "DIRECTORY", "INPATH", "VACUUM", "OPTIMIZE", "DETAIL", "HISTORY", "JAR", "FILE", "ARCHIVE",
    "LIST",
})  # fmt: skip
_CALLS = frozenset({"READ_FILES", "PATH", "LIST", *(name.upper() for name in FORMATS)})
_OPTIONS = frozenset({"path", "paths", "location", "checkpointlocation"})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_OWN_ROWS = re.compile(re.escape(os.path.realpath(tempfile.gettempdir())) + r"/rows-[^/]+/rows\.parquet")


@dataclass(frozen=True, kw_only=True)
class PathPolicy:
    """`root` is the workspace's folder, `allowed` are others; none has a symbolic link in it."""

    root: Path
    allowed: tuple[Path, ...] = ()

    def require(self, path: str) -> None:
        """Raise `EngineError` unless a path, and whatever its pattern or folder leads to, is within bounds.

        `path` is as the engine would take it: of this machine, perhaps a pattern, or with a scheme.
        """
        scheme = _SCHEME.match(path)
        plain = path[scheme.end() :] if scheme else path
        if scheme and scheme.group(1).lower() not in {"file", "dbfs"}:
            raise _refused(path, f"the local workspace reads no {scheme.group(1)!r} addresses")
        plain = "/" + plain.lstrip("/") if plain.startswith("/") else plain
        if not plain.startswith("/"):
            raise _refused(path, "it is relative; name it from /Volumes on")
        for each in glob.iglob(plain, recursive=True) if glob.has_magic(plain) else [plain]:  # noqa: PTH207 - patterns
            self._require_within(path, each)
        start = re.split(r"[*?\[{]", plain)[0]
        if ".." in plain[len(start) :].replace("}", "/").replace("{", "/").replace(",", "/").split("/"):
            raise _refused(path, "its pattern leads upwards")
        self._require_within(path, start if start == plain else os.path.dirname(start))  # noqa: PTH120 - text

    def _require_within(self, path: str, each: str) -> None:
        for found in (each, *_links(each)):
            if not self._holds(Path(os.path.realpath(found))):
                raise _refused(path, "it is, or leads, out of the workspace")

    def _holds(self, real: Path) -> bool:
        if real.is_relative_to(self.root):
            return not real.is_relative_to(self.root / ".workspace")
        return any(real.is_relative_to(folder) for folder in self.allowed) or bool(
            _OWN_ROWS.fullmatch(str(real))
        )

    def require_all(self, statement: Statement) -> None:
        """Raise `EngineError` for a statement that names a file out of bounds."""
        for path in named_paths(statement.tokens):
            self.require(local(path, self.root))

    def require_options(self, options: Mapping[str, str]) -> None:
        """Raise `EngineError` for a reader's or writer's options that name a file out of bounds."""
        for name, value in options.items():
            if name.lower() in _OPTIONS:
                self.require(value)


def local(path: str, root: Path) -> str:
    """Return the folder of a `/Volumes/…` or `dbfs:/Volumes/…` path; any other path as it is.

    Names of catalogs, schemas and Volumes are the same in any case of letters; those of files are not.
    """
    bare = path.removeprefix("dbfs:").removeprefix("file:")
    if not bare.startswith("/Volumes/"):
        return path
    _, _, *names = bare.split("/", 5)
    return str(root.joinpath("Volumes", *[name.lower() for name in names[:3]], *names[3:]))


def map_paths(statement: Statement, root: Path) -> str:
    """Return the statement's text with `/Volumes/…` paths mapped to the folder under the root.

    Only where a path must stand: a text that happens to be a path is somebody's data.
    """
    text, tokens = statement.text, statement.tokens
    if "/Volumes/" not in text:
        return text
    for index in range(len(tokens) - 1, -1, -1):
        token = tokens[index]
        if "/Volumes/" in token.text and is_path(tokens, index):
            if token.kind == "quoted":
                path = quote(local(token.name, root))
            else:
                path = string_literal(local(unquote_string(token.text), root))
            text = f"{text[: token.start]}{path}{text[token.end :]}"
    return text


def _links(folder: str) -> Iterator[str]:
    """Yield the symbolic links below a folder."""
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if Path(base, name).is_symlink():
                yield f"{base}/{name}"


def named_paths(tokens: Sequence[Token]) -> Iterator[str]:
    """Yield the texts of a statement that an engine would take for paths."""
    for index, token in enumerate(tokens):
        if is_path(tokens, index):
            if token.kind == "string" and [each.kind for each in tokens[index + 1 : index + 2]] == ["string"]:
                raise _refused(token.text, "it is written in several pieces")
            yield token.name if token.kind == "quoted" else unquote_string(token.text)
        elif token.kind == "string" and index:
            call = tokens[index - 2].upper if index > 1 and tokens[index - 1].text == "(" else ""
            if tokens[index - 1].upper == "IMMEDIATE" or call == "IDENTIFIER":
                yield from named_paths(Statement.parse(unquote_string(token.text)).tokens)


def is_path(tokens: Sequence[Token], index: int) -> bool:
    """Tell whether a token stands where an engine takes a path: a text may look like one and be data."""
    token, before = tokens[index], tokens[index - 1] if index else None
    if before is None or token.kind not in {"quoted", "string"}:
        return False
    if token.kind == "quoted":
        return before.text == "." and index > 1 and tokens[index - 2].name.lower() in FORMATS
    if before.upper in _WORDS or (before.upper == "FROM" and tokens[0].upper in {"COPY", "LOAD"}):
        return True
    opened = _opened(tokens, index)
    owner = tokens[opened - 1].upper if opened > 0 else ""
    key = tokens[index - 2] if index > 1 and before.text in {"=", "=>"} else before
    named = key.text.strip("'\"`").lower() in _OPTIONS
    if owner == "OPTIONS":
        return named
    qualified = opened > 1 and tokens[opened - 2].text == "."  # a function of somebody's schema
    return owner in _CALLS and not qualified and (named or index == opened + 1)


def _opened(tokens: Sequence[Token], index: int) -> int:
    """Return where the parenthesis around a token was opened; -1 where there is none."""
    depth = 0
    for at in range(index - 1, -1, -1):
        text = tokens[at].text if tokens[at].kind == "symbol" else ""
        if text == "(" and depth == 0:
            return at
        depth += {")": 1, "(": -1}.get(text, 0)
    return -1


def path_of_name(identifier: str) -> str | None:
    """Return the path in a name such as ``text.`/x` ``; None for a table's."""
    parts = split_name(identifier)
    return parts[1] if len(parts) == 2 and parts[0].lower() in FORMATS and "/" in parts[1] else None


def _refused(path: str, why: str) -> EngineError:
    text = (
        f"The file {path!r} cannot be used: {why}. Use /Volumes/…, or start the workspace with "
        "`--allow-path DIR` for a further folder."
    )
    return EngineError.of("INSUFFICIENT_PERMISSIONS", text, "42501")
