"""Sessions of a real Spark with Delta: it sees the folder tree itself, and lacks less of Databricks' SQL."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from . import alter, commands, configuration, dml, functions, inserts, keys
from .copyinto import copy_into
from .errors import EngineError
from .names import TableName, quote
from .session import CatalogSession, Handlers, Parameters, StatementResult
from .statements import Reader, Statement
from .tables import LEFT_OUT, Create, already_exists, done, inserted, made, readable_by_all

if TYPE_CHECKING:
    from .catalog import CatalogTree
    from .wire import ConnectClient


class SparkCatalogSession(CatalogSession):
    """One Spark session. Its catalogs read the folder tree, so it is never taught a table."""

    caches = True
    left_out = LEFT_OUT

    def __init__(self, tree: CatalogTree, client: ConnectClient) -> None:
        super().__init__(tree, client)
        self.handlers = HANDLERS

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

    def create(self, statement: Statement, name: TableName, after_name: int) -> Create:
        """Tables are made by path: Delta registers what is made by name in Spark's own catalog."""
        return CreateByPath(self, statement, name, after_name)

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


class CreateByPath(Create):
    """CREATE [OR REPLACE] TABLE, as Delta does it for a path."""

    def fresh(self, name: TableName) -> StatementResult:
        """Create the table in its folder, or where LOCATION says; a table that is there already is taken."""
        tree = self.session.tree
        tree.discard_unborn(name)
        location = self._location()
        if location is not None:
            tree.register_external(name, location)
            if tree.shape(name) is not None:
                return done()
        try:
            return self._make("CREATE TABLE", name)
        except BaseException:
            if location is not None:
                tree.drop_table(name)
            tree.discard_unborn(name)
            raise

    def replace(self) -> StatementResult:
        """Replace the table in one commit, so that its history stays."""
        tree = self.session.tree
        tree.require(self.name)
        return self._make("REPLACE TABLE", self.name)

    def _make(self, verb: str, name: TableName) -> StatementResult:
        target = f"delta.{quote(str(self.session.tree.location(name)))}"
        self.session.client.sql(f"{verb} {target} {self._columns()} {self._using()} {self._rest()}")
        self._describe(name, keys.stored(self.keys) if self.keys else {})
        return done() if self.body is None else made()

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


# What is not among the first goes by the table of all engines.
HANDLERS: Handlers = (
    (r"UPDATE |DELETE FROM ", change),
    (r"MERGE ", as_it_is),
    (r"INSERT ", insert),
    (r"TRUNCATE TABLE ", truncate),
    (r"ALTER TABLE ", alter_table),
    (r"(OPTIMIZE|VACUUM|RESTORE|CONVERT|REORG|CACHE|UNCACHE|CLEAR) ", as_it_is),
    (r"(DESCRIBE|DESC) (HISTORY|DETAIL) ", as_it_is),
    (r"(DESCRIBE|DESC) FUNCTION ", functions.describe),
    (r"SET [A-Z_]+( =|$)", configuration.set_configuration),
    (r"SET (?!CATALOG )", as_it_is),
    (r"(DECLARE|EXECUTE|BEGIN|RESET)( |$)", as_it_is),
    (r"(CREATE (OR REPLACE )?(TEMPORARY|TEMP)|DROP (TEMPORARY|TEMP)) FUNCTION ", as_it_is),
    (r"CREATE (OR REPLACE )?FUNCTION ", functions.create),
    (r"DROP FUNCTION ", functions.drop),
    (r"SHOW USER FUNCTIONS( |$)", functions.show),
    (r"COPY INTO ", copy_into),
    *commands.HANDLERS,
)
