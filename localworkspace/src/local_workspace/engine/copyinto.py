"""COPY INTO, on the engine `spark`: each file of a folder is loaded once.

The commit that loads files names them in its `userMetadata`, so a load that fails leaves no trace of them.
"""

from __future__ import annotations

import glob
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from . import dml
from .errors import EngineError, only_on_databricks
from .literals import string_literal
from .names import TableName, quote
from .statements import Reader, Statement
from .tables import pairs_of

if TYPE_CHECKING:
    from .session import CatalogSession, StatementResult

_COPIED = " copied "
_FORMATS = {"CSV", "JSON", "PARQUET", "AVRO", "ORC", "TEXT", "BINARYFILE", "XML"}


@dataclass(kw_only=True)
class _Copy:
    """A COPY INTO as it was read; its query is `head`, the files, `tail`."""

    columns: str = "BY NAME"
    head: str = "SELECT * FROM"
    path: str = ""
    tail: str = ""
    format: str = ""
    files: list[str] | None = None
    pattern: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    copy_options: dict[str, str] = field(default_factory=dict)

    def flag(self, name: str) -> bool:
        """Tell whether a copy option is true; their names have no case."""
        return any(
            key.lower() == name and value.lower() == "true" for key, value in self.copy_options.items()
        )


def copy_into(session: CatalogSession, statement: Statement) -> StatementResult:
    """COPY INTO table FROM 'folder' | (SELECT … FROM 'folder') FILEFORMAT = … [options]."""
    reader = Reader(statement, 2)
    name = session.namespace.table(reader.name())
    copy = _parse(statement, reader)
    with session.tree.lock(name):
        version = session.tree.require(name).version
        loaded = set() if copy.flag("force") else _loaded(session, name)
        files = [path for path in _files(session, copy) if _stamp(path) not in loaded]
        if not files:
            return _counted(0)
        mark = f"{uuid.uuid4().hex}{_COPIED}{' '.join(map(_stamp, files))}"
        text = f"INSERT INTO {name.sql} {copy.columns} {copy.head} {_source(copy, files)} {copy.tail}"
        settings = (
            {"spark.databricks.delta.schema.autoMerge.enabled": "true"} if copy.flag("mergeschema") else {}
        )
        dml.run_with_metadata(session, text, mark, settings)
        return _counted(int(dml.metrics_after(session, name, version, mark).get("numOutputRows", 0)))


def _parse(statement: Statement, reader: Reader) -> _Copy:
    copy = _Copy()
    if reader.accept("BY", "POSITION"):
        copy.columns = ""
    elif statement.starts("(", at=reader.at):
        end = statement.closing(reader.at) + 1
        copy.columns, reader.at = statement.source(reader.at, end), end
    if not reader.accept("FROM"):
        raise EngineError.of("PARSE_SYNTAX_ERROR", "Syntax error: COPY INTO needs FROM.", "42601")
    path = reader.string()
    if path is None and statement.starts("(", at=reader.at):
        end = statement.closing(reader.at)
        at = next((index for index in range(reader.at, end) if statement.starts("FROM", at=index)), end) + 1
        path = Reader(statement, at).string()
        copy.head, copy.tail = statement.source(reader.at + 1, at), statement.source(at + 1, end)
        reader.at = end + 1
    if path is None:
        raise only_on_databricks("COPY INTO from anything but a path")
    copy.path = path
    if (
        not reader.accept("FILEFORMAT", "=")
        or reader.done
        or statement.tokens[reader.at].upper not in _FORMATS
    ):
        raise only_on_databricks(f"COPY INTO without FILEFORMAT = {', '.join(sorted(_FORMATS))}")
    copy.format = statement.tokens[reader.at].text
    reader.at += 1
    _read_clauses(copy, statement, reader)
    return copy


def _read_clauses(copy: _Copy, statement: Statement, reader: Reader) -> None:
    while not reader.done:
        word = statement.tokens[reader.at].upper
        if reader.accept("PATTERN", "="):
            copy.pattern = reader.string()
            continue
        listed = reader.accept("FILES", "=")
        if not listed and word not in {"FORMAT_OPTIONS", "COPY_OPTIONS"}:
            raise only_on_databricks(f"COPY INTO … {word}")
        opening = reader.at if listed else reader.at + 1
        if listed:
            copy.files = [str(Reader(statement, first).string()) for first, _ in statement.items(opening)]
        elif word == "FORMAT_OPTIONS":
            copy.options = pairs_of(statement, opening)
        else:
            copy.copy_options = pairs_of(statement, opening)
        reader.at = statement.closing(opening) + 1


def _files(session: CatalogSession, copy: _Copy) -> Iterator[Path]:
    """Yield the files to load, without hidden ones. Raises `EngineError` for one that is not there."""
    place = Path(session.tree.local_path(copy.path))
    if copy.files is not None:
        found = [place / name for name in copy.files]
    elif place.is_dir():
        found = sorted(place.rglob("*") if copy.pattern is None else place.glob(copy.pattern))
    else:
        found = [place]
    for path in found:
        if not path.exists():
            raise EngineError.of("PATH_NOT_FOUND", f"Path does not exist: {path}.", "42K03")
        session.tree.paths.require(glob.escape(str(path)))
        if path.is_file() and not path.name.startswith((".", "_")):
            yield path


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{quote_plus(str(path), safe='/')}:{status.st_mtime_ns}:{status.st_size}"


def _loaded(session: CatalogSession, name: TableName) -> set[str]:
    tree, found = session.tree, set()
    for _, commit in tree.logs.commits_after(tree.location(name), -1):
        for part in commit.split(_COPIED)[1:]:
            found.update(part.split('"', 1)[0].split(" "))
    return found


def _source(copy: _Copy, files: list[Path]) -> str:
    options = {"inferSchema": "false"} | copy.options
    given = "".join(f", {quote(key)} => {string_literal(value)}" for key, value in options.items())
    # A pattern that matches these files and no others.
    folder = os.path.commonpath([path.parent for path in files])
    names = ",".join(_escaped(str(path.relative_to(folder))) for path in files)
    place = string_literal(f"{_escaped(folder)}/{{{names}}}")
    return f"read_files({place}, format => {string_literal(copy.format)}, rescues => false{given})"


def _escaped(path: str) -> str:
    return re.sub(r"[\\{}\[\]*?,]", r"\\\g<0>", path)


def _counted(count: int) -> StatementResult:
    import pyarrow as pa

    from .session import StatementResult

    columns = {"num_affected_rows": [count], "num_inserted_rows": [count], "num_skipped_corrupt_files": [0]}
    return StatementResult(table=pa.table(columns), affected_rows=count)
