"""Sessions of a real Spark with Delta: it sees the folder tree itself, and lacks less of Databricks' SQL.

COPY INTO is done here: the commit that loads files names them in its `userMetadata`, so that each is loaded
once, and a load that fails leaves no trace of them.
"""

from __future__ import annotations

import glob
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from . import alter, commands, ddl, dml, inserts, keys
from .deltalog import commits_after
from .errors import EngineError, only_on_databricks, syntax_error
from .literals import string_literal
from .names import TableName, quote
from .paths import local
from .session import CatalogSession, Handlers, Parameters, StatementResult
from .statements import Reader, Statement
from .tables import LEFT_OUT, Create, already_exists, counted, done, inserted, pairs_of, readable_by_all

_COPIED = " copied "
_FORMATS = {"CSV", "JSON", "PARQUET", "AVRO", "ORC", "TEXT", "BINARYFILE", "XML"}


class CreateByPath(Create):
    """CREATE [OR REPLACE] TABLE by path: Delta registers what is made by name in Spark's own catalog."""

    def _made_there(self, name: TableName) -> StatementResult:
        """Create the table in its folder, or where LOCATION says; a table that is there already is taken."""
        return done() if self.session.tree.shape(name) is not None else self._make("CREATE TABLE", name)

    def replace(self) -> StatementResult:
        """Replace the table in one commit, so that its history stays."""
        tree = self.session.tree
        tree.require(self.name)
        return self._make("REPLACE TABLE", self.name)

    def _make(self, verb: str, name: TableName) -> StatementResult:
        target = f"delta.{quote(str(self.session.tree.location(name)))}"
        self.session.client.sql(f"{verb} {target} {self._columns()} {self._using()} {self._rest()}")
        self._describe(name, keys.stored(self.keys) if self.keys else {})
        return self._result()

    def _rest(self) -> str:
        """The clauses without LOCATION, and without CLUSTER BY: the other engine refuses clustered tables."""
        rest = Statement.parse(self._without_cluster_by())
        at = rest.find("LOCATION", "AS", "SELECT", "WITH")
        if at is None or rest.tokens[at].upper != "LOCATION":
            return rest.text
        return f"{rest.text[: rest.tokens[at].start]} {rest.source(at + 2)}"


def insert(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """INSERT …: Delta's own returns no count, and has no REPLACE ON."""
    reader = Reader(statement, 1)
    name = inserts.target(session, reader)
    if name is None:
        return statement.text
    info, shape = session.tree.info(name), session.tree.shape(name)
    if info is None or shape is None:
        return statement.text  # Spark says what is wrong
    mark, text, metric = uuid.uuid4().hex, statement.text, "numOutputRows"
    parts = inserts.read(statement, reader)
    if parts.on:
        text, metric = inserts.as_merge(session, info, parts, mark), "numTargetRowsInserted"
    dml.run_with_metadata(session, text, mark)
    if parts.replace:
        return inserts.replaced(session, name, parts, shape.version, mark)
    metrics = dml.metrics_after(session, name, shape.version, mark)
    return inserted(int(metrics.get(metric, 0)))


def truncate(session: CatalogSession, statement: Statement) -> StatementResult:
    """TRUNCATE TABLE name."""
    name = session.namespace.table(Reader(statement, 2).name())
    session.client.sql(f"DELETE FROM {name.sql}")  # noqa: S608 - names are quoted
    return done()


def alter_table(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """ALTER TABLE: Spark's own, but for names and for what would keep readers out."""
    reader = Reader(statement, 2)
    session.namespace.table(reader.name())
    not_null = statement.find("NOT", start=reader.at) is not None and statement.tokens[-1].upper == "NULL"
    if (
        not_null  # Delta's own takes it back only
        or any(statement.starts(word, at=reader.at) for word in ("RENAME", "CLUSTER"))
        or (statement.starts("ADD", at=reader.at) and keys.starts_at(statement, reader.at + 1))
        or statement.starts("DROP", "CONSTRAINT", at=reader.at)
        or statement.starts("DROP", "PRIMARY", at=reader.at)
    ):
        return alter.alter_table(session, statement)
    if statement.starts("SET", "TBLPROPERTIES", at=reader.at):
        kept = readable_by_all(statement, start=reader.at)
        return kept.text if kept.find("TBLPROPERTIES", start=reader.at) is not None else done()
    return statement.text


def change(session: CatalogSession, statement: Statement) -> StatementResult:
    """UPDATE and DELETE: Delta's own, and where that refuses a subquery, a MERGE."""
    try:
        return StatementResult(table=session.client.sql(statement.text))
    except EngineError as error:
        reader = Reader(statement, 2 if statement.starts("DELETE") else 1)
        info = session.tree.info(session.namespace.table(reader.name()))
        if error.condition != "DELTA_UNSUPPORTED_SUBQUERY" or info is None:
            raise
        counts = session.client.sql(dml.as_merge(statement, info, uuid.uuid4().hex))
        return StatementResult(table=counts.select(["num_affected_rows"]))


def as_it_is(_session: CatalogSession, statement: Statement) -> str:
    """Spark does this itself."""
    return statement.text


# --- COPY INTO


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
            return counted(0, num_inserted_rows=0, num_skipped_corrupt_files=0)
        mark = f"{uuid.uuid4().hex}{_COPIED}{' '.join(map(_stamp, files))}"
        text = f"INSERT INTO {name.sql} {copy.columns} {copy.head} {_source(copy, files)} {copy.tail}"
        merging = {"spark.databricks.delta.schema.autoMerge.enabled": "true"}
        dml.run_with_metadata(session, text, mark, merging if copy.flag("mergeschema") else {})
        count = int(dml.metrics_after(session, name, version, mark).get("numOutputRows", 0))
        return counted(count, num_inserted_rows=count, num_skipped_corrupt_files=0)


def _parse(statement: Statement, reader: Reader) -> _Copy:
    copy = _Copy()
    if reader.accept("BY", "POSITION"):
        copy.columns = ""
    elif statement.starts("(", at=reader.at):
        end = statement.closing(reader.at) + 1
        copy.columns, reader.at = statement.source(reader.at, end), end
    if not reader.accept("FROM"):
        raise syntax_error("COPY INTO needs FROM.")
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
    named = reader.accept("FILEFORMAT", "=") and not reader.done
    if not named or statement.tokens[reader.at].upper not in _FORMATS:
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
    place = Path(local(copy.path, session.tree.root))
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
    found: set[str] = set()
    for _, commit in commits_after(session.tree.location(name), -1):
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


# What is not among the first goes by the table of all engines.
HANDLERS: Handlers = (
    (r"UPDATE |DELETE FROM ", change),
    (r"MERGE ", as_it_is),
    (r"INSERT ", insert),
    (r"TRUNCATE TABLE ", truncate),
    (r"ALTER TABLE ", alter_table),
    (r"(OPTIMIZE|VACUUM|RESTORE|CONVERT|REORG|CACHE|UNCACHE|CLEAR) ", as_it_is),
    (r"(DESCRIBE|DESC) (HISTORY|DETAIL) ", as_it_is),
    (r"(DESCRIBE|DESC) FUNCTION ", ddl.describe_function),
    (r"SET [A-Z_]+( =|$)", commands.set_configuration),
    (r"SET (?!CATALOG )", as_it_is),
    (r"(DECLARE|EXECUTE|BEGIN|RESET)( |$)", as_it_is),
    (r"(CREATE (OR REPLACE )?(TEMPORARY|TEMP)|DROP (TEMPORARY|TEMP)) FUNCTION ", as_it_is),
    (r"CREATE (OR REPLACE )?FUNCTION ", ddl.create_function),
    (r"DROP FUNCTION ", ddl.drop_function),
    (r"SHOW USER FUNCTIONS( |$)", ddl.show_functions),
    (r"COPY INTO ", copy_into),
    *commands.HANDLERS,
)


class SparkCatalogSession(CatalogSession):
    """One Spark session. Its catalogs read the folder tree, so it is never taught a table."""

    caches = True
    left_out = LEFT_OUT
    handlers = HANDLERS
    creation = CreateByPath

    def configure(self) -> None:
        """Databricks runs in UTC, by this name; the rest is set at the server's start."""
        self.client.configure({"spark.sql.session.timeZone": "Etc/UTC"})

    def switch(self, catalog: str, schema: str) -> None:
        """Spark has no USE CATALOG, and takes both at once."""
        self.client.sql(f"USE {quote(catalog)}.{quote(schema)}")

    def run(self, sql: str, parameters: Parameters = None) -> StatementResult:
        """As everywhere, with the rows that Spark says it changed."""
        outcome = super().run(sql, parameters)
        # CREATE TABLE … AS has the column and no row.
        counts = outcome.table.num_rows == 1 and outcome.table.column_names[0] == "num_affected_rows"
        if outcome.affected_rows is None and counts:
            count = outcome.table.column(0)[0].as_py()
            return StatementResult(table=outcome.table, affected_rows=count)
        return outcome

    def adapt_write(self, command: Any, name: TableName | None) -> None:
        """`saveAsTable` as `save`, for the same reason."""
        write = command.write_operation
        by_name = write.SaveTable.TABLE_SAVE_METHOD_SAVE_AS_TABLE
        if name is None or write.table.save_method != by_name:
            return
        exists = self.tree.signature(name) is not None
        if exists and write.mode in {write.SAVE_MODE_ERROR_IF_EXISTS, write.SAVE_MODE_UNSPECIFIED}:
            raise already_exists(name)
        write.path = str(self.tree.location(name))
