"""CREATE TABLE in all its forms. The folder tree is the truth; the engine is told.

Our tables ask for deletion vectors because Databricks needs them for row-level concurrency. Here they would
buy nothing (a commit conflicts by file, and is retried) and cost what the workspace promises: that any Delta
reader opens the tables under its root. `deltalake.DeltaTable(…).to_pyarrow_table()`, among others, refuses a
table whose protocol names the feature, whether or not a file has a vector. So the property is left out.

The change data feed is left out on Sail only, which can neither write nor read one: with the property, making
the table would fail. SHOW TBLPROPERTIES then says that the table has none.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from . import keys
from .catalog import DRAFT
from .deltalog import Metadata, change_metadata
from .errors import EngineError, only_on_databricks, unsupported
from .keys import Key
from .literals import string_literal
from .names import TableName, quote
from .session import CatalogSession, StatementResult
from .statements import Reader, Statement, chain_at, unquote_string

LEFT_OUT = frozenset({"delta.enabledeletionvectors", "delta.feature.deletionvectors"})
LEFT_OUT_ON_SAIL = LEFT_OUT | {"delta.enablechangedatafeed", "delta.feature.changedatafeed"}
# Tables that only a catalog's own service can commit to: no reader of the folder would find a version.
_CATALOG_MANAGED = {
    "delta.feature.catalogmanaged", "delta.feature.catalogowned", "delta.feature.catalogowned-preview",
}  # fmt: skip
_BODY = ("AS", "SELECT", "WITH")
_CLAUSES = (
    "USING", "PARTITIONED", "CLUSTER", "COMMENT", "TBLPROPERTIES", "LOCATION", "OPTIONS", "DEFAULT", *_BODY,
)  # fmt: skip


def done() -> StatementResult:
    """Return the result of a statement without one."""
    return StatementResult(table=pa.table({}))


def counted(affected: int, **counts: int) -> StatementResult:
    """Return the row that Databricks answers DML with."""
    columns = {"num_affected_rows": affected, **counts}
    return StatementResult(table=pa.Table.from_pylist([columns]), affected_rows=affected)


def inserted(count: int) -> StatementResult:
    """Return what Databricks returns for an insert."""
    return counted(count, num_inserted_rows=count)


def already_exists(name: TableName) -> EngineError:
    """Return the error for making what is there."""
    return EngineError.of(
        "TABLE_OR_VIEW_ALREADY_EXISTS",
        f"Cannot create table or view {name.sql} because it already exists. Choose another name, drop it, "
        "or add IF NOT EXISTS or OR REPLACE.",
        "42P07",
    )


def create_table(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """CREATE [OR REPLACE] TABLE [IF NOT EXISTS] name …."""
    reader = Reader(statement)
    replacing = reader.accept("CREATE", "OR", "REPLACE") or reader.accept("REPLACE")
    _ = reader.accept("CREATE")
    _ = reader.accept("EXTERNAL")
    reader.accept("TABLE")
    lenient = reader.accept("IF", "NOT", "EXISTS")
    name = session.namespace.table(reader.name())
    session.tree.require_schema(name.catalog, name.schema)
    create: Create = session.creation(session, _copied(session, statement, reader.at), name, reader.at)
    with session.tree.lock(name), session.lock:
        if session.tree.view(name) is not None:
            raise already_exists(name)
        if session.tree.shape(name) is None:
            return create.fresh(name)
        if replacing:
            return create.replace()
        if lenient:
            return done()
        raise already_exists(name)


def _copied(session: CatalogSession, statement: Statement, at: int) -> Statement:
    """Return CREATE TABLE … LIKE and CLONE as a query. A clone's history begins anew, as on Databricks."""
    reader = Reader(statement, at)
    like = reader.accept("LIKE")
    _ = like or reader.accept("DEEP") or reader.accept("SHALLOW")
    if not (like or reader.accept("CLONE")):
        return statement
    source = session.namespace.table(reader.name())
    info = session.tree.require_info(source)
    as_of = reader.rest() if statement.find("VERSION", "TIMESTAMP", start=reader.at) == reader.at else ""
    partitions = ", ".join(quote(column) for column in info.partition_columns)
    clause = f"PARTITIONED BY ({partitions})" if partitions else ""
    query = f"SELECT * FROM {source.sql} {as_of}{' WHERE 1 = 0' if like else ''}"  # noqa: S608 - names are quoted
    return Statement.parse(f"{statement.source(0, at)} USING DELTA {clause} AS {query}")


class Create:
    """The making of one table on Sail; the caller holds the table's lock."""

    def __init__(
        self, session: CatalogSession, statement: Statement, name: TableName, after_name: int
    ) -> None:
        self.comment = None
        body = statement.find(*_BODY, start=after_name)
        if body is not None:
            statement, self.comment = _without_comment(statement, after_name, body)
        statement, found = keys.taken_out(statement, after_name, name, session.namespace)
        self.keys = tuple(self.complete(session, key) for key in found)
        body = statement.find(*_BODY, start=after_name)
        self.statement = readable_by_all(statement, start=after_name, end=body, left_out=session.left_out)
        if self.keys and body is None:  # delta-rs adds no property to a table with features that it lacks
            self.statement = _with_properties(self.statement, after_name, keys.stored(self.keys))
        self.session = session
        self.name = name
        self.after_name = after_name
        start = self.statement.find(*_CLAUSES, start=after_name)
        self.clauses = len(self.statement.tokens) if start is None else start
        self.body = self.statement.find(*_BODY, start=self.clauses)

    def fresh(self, name: TableName) -> StatementResult:
        """Create the table under `name` (not there yet), and put it in the tree."""
        location = self._location()
        with self.session.creating(name):
            if location is not None:
                self.session.tree.register_external(name, location)
            try:
                return self._made_there(name)
            except BaseException:
                if location is not None:
                    self.session.tree.drop_table(name)
                raise

    def _made_there(self, name: TableName) -> StatementResult:
        """Create the table where the tree says that it is."""
        self._refuse_columns()
        self.session.client.sql(self._text(name))
        self._describe(name, keys.stored(self.keys) if self.keys and self.body is not None else {})
        return self._result()

    def _result(self) -> StatementResult:
        """Return what Databricks does; of CREATE TABLE … AS, the columns of an insert's result and no row."""
        return done() if self.body is None else StatementResult(table=inserted(0).table.slice(0, 0))

    def replace(self) -> StatementResult:
        """Replace the table's rows and schema in one commit, so that its history stays."""
        if self.body is None:
            self._replace_empty()
            return done()
        shape = self.session.tree.require(self.name)
        folder = self.session.tree.location(self.name)
        partitions = self._words_in_parentheses("PARTITIONED")
        query = self.statement.source(self.body + (self.statement.tokens[self.body].upper == "AS"))
        constraints = [key for key in shape.properties if key.startswith("delta.constraints.")]

        def drop(new: Metadata) -> None:
            for key in constraints:
                new.properties.pop(key, None)

        if constraints:  # they are of the old table, and its rows only
            change_metadata(folder, "DROP CONSTRAINT", drop)
        try:
            self.session.client.write_table(
                query, table=self.name.sql, options={"overwriteSchema": "true"}, partitions=partitions
            )
        except BaseException:
            if constraints:
                kept = {key: shape.properties[key] for key in constraints}
                change_metadata(folder, "ADD CONSTRAINT", lambda old: old.properties.update(kept))
            raise
        at = self._clause("TBLPROPERTIES")
        properties = pairs_of(self.statement, at + 1) if at else {}
        if self.keys or keys.PROPERTY in shape.properties:
            properties |= keys.stored(self.keys)
        self._describe(self.name, properties)
        self.session.forget(self.name)
        self.session.learn(self.name)
        return self._result()

    def _replace_empty(self) -> None:
        """Replace by an empty table: let Sail read the definition, then commit that over the old one."""
        draft = replace(self.name, name=f"{DRAFT}{uuid.uuid4().hex}")
        self.fresh(draft)
        tree = self.session.tree
        shape = tree.require(draft)
        DeltaTable.create(
            str(tree.location(self.name)),
            DeltaTable(str(tree.location(draft))).schema(),
            mode="overwrite",
            partition_by=list(shape.partition_columns),
            configuration=dict(shape.properties),
            description=shape.description,
        )
        tree.drop_table(draft)
        self.session.forget(draft)

    def _describe(self, name: TableName, properties: Mapping[str, str]) -> None:
        """Give a table its comment and properties: Sail takes those of a query for an empty table only."""
        if not self.comment and not properties:
            return

        def change(metadata: Metadata) -> None:
            metadata.description = self.comment or metadata.description
            metadata.properties |= properties

        change_metadata(self.session.tree.location(name), "SET TBLPROPERTIES", change)

    @staticmethod
    def complete(session: CatalogSession, key: Key) -> Key:
        """Return a key with the columns of its parent's primary key if it names none."""
        info = session.tree.info(key.parent) if key.parent and not key.parent_columns else None
        primary = next((each.columns for each in (info.keys if info else ()) if each.parent is None), ())
        return replace(key, parent_columns=key.parent_columns or primary)

    def _refuse_columns(self) -> None:
        """Refuse columns that Sail would take and not keep to."""
        for at in range(self.after_name, self.clauses - 1):
            word = self.statement.tokens[at].upper
            if word == "GENERATED" and self.statement.tokens[at + 1].upper in {"ALWAYS", "BY"}:
                raise unsupported("A generated or identity column (GENERATED … AS)")
            if word == "CHECK" and self.statement.starts("(", at=at + 1):
                raise unsupported("A CHECK constraint")
            if word in {"VARCHAR", "CHAR", "CHARACTER"} and self.statement.starts("(", at=at + 1):
                raise unsupported(f"{word}(n), whose length would not be checked (STRING has none),")

    def _text(self, name: TableName) -> str:
        """Return the CREATE TABLE statement for Sail: with USING DELTA, without CLUSTER BY."""
        using, clauses = self._using(), self._without_cluster_by()
        folder = self.session.tree.location(name)
        if folder.name != name.name and self._clause("LOCATION") is None:  # where Sail would not put it
            after_using = clauses if using else Statement.parse(clauses).source(2)
            using, clauses = "USING DELTA", f"LOCATION {string_literal(str(folder))} {after_using}"
        return f"CREATE TABLE {name.sql} {self._columns()} {using} {clauses}"

    def _columns(self) -> str:
        return self.statement.source(self.after_name, self.clauses) if self.clauses > self.after_name else ""

    def _using(self) -> str:
        """Return `USING DELTA` unless the statement says so itself; raises when it wants another format."""
        using = self._clause("USING")
        if using is None:
            return "USING DELTA"
        if self.statement.tokens[using + 1].upper != "DELTA":
            raise only_on_databricks(f"CREATE TABLE USING {self.statement.tokens[using + 1].text}")
        return ""

    def _clause(self, word: str) -> int | None:
        """Return the token at which a clause begins; None when the statement has none."""
        at = self.statement.find(word, start=self.clauses)
        return None if at is None or (self.body is not None and at > self.body) else at

    def _without_cluster_by(self) -> str:
        statement, at = self.statement, self._clause("CLUSTER")
        if at is None:
            return statement.source(self.clauses)
        # CLUSTER BY AUTO, or CLUSTER BY (…)
        after = (statement.closing(at + 2) if statement.starts("(", at=at + 2) else at + 2) + 1
        head = statement.source(self.clauses, at) if at > self.clauses else ""
        return f"{head} {statement.source(after)}"

    def _location(self) -> Path | None:
        at = self._clause("LOCATION")
        path = None if at is None else Reader(self.statement, at + 1).string()
        return Path(path) if path else None

    def _words_in_parentheses(self, clause: str) -> list[str]:
        at = self._clause(clause)
        if at is None:
            return []
        end = self.statement.closing(at + 2)
        return [token.name for token in self.statement.tokens[at + 2 : end] if token.is_name]


def _without_comment(statement: Statement, start: int, end: int) -> tuple[Statement, str | None]:
    """Return the statement without its COMMENT clause, looked for between two tokens; and the comment."""
    at = statement.find("COMMENT", start=start)
    comment = Reader(statement, at + 1).string() if at is not None and at < end else None
    if at is None or comment is None:
        return statement, None
    return statement.without(at, at + 2), comment


def _with_properties(statement: Statement, start: int, properties: Mapping[str, str]) -> Statement:
    """Return CREATE TABLE, whose columns begin at token `start`, with more properties."""
    written = ", ".join(
        f"{string_literal(key)} = {string_literal(value)}" for key, value in properties.items()
    )
    at = statement.find("TBLPROPERTIES", start=start)
    if at is None:
        return Statement.parse(f"{statement.text} TBLPROPERTIES ({written})")
    return statement.without(at + 1, at + 2, f"({written}, ")


# --- table properties


def readable_by_all(
    statement: Statement, *, start: int = 0, end: int | None = None, left_out: frozenset[str] = LEFT_OUT
) -> Statement:
    """Return the statement without the properties `left_out`; an emptied clause goes as a whole.

    The clause is looked for among the tokens from `start` up to (not with) `end`.
    """
    clause = statement.find("TBLPROPERTIES", start=start)
    if clause is None or (end is not None and clause > end) or not statement.starts("(", at=clause + 1):
        return statement
    items = statement.items(clause + 1)
    kept = [item for item in items if _property_key(statement, item[0])[0].lower() not in left_out]
    if len(kept) == len(items):
        return statement
    text = f"TBLPROPERTIES ({', '.join(statement.source(*item) for item in kept)})" if kept else ""
    return statement.without(clause, statement.closing(clause + 1) + 1, text)


def pairs_of(statement: Statement, start: int) -> dict[str, str]:
    """Return the keys and values of the parenthesis that opens at token `start`."""
    found = {}
    for first, last in statement.items(start):
        key, value = _property_key(statement, first)
        value += statement.starts("=", at=value)
        text = "".join(token.text for token in statement.tokens[value:last])
        quoted = value < last and statement.tokens[value].kind == "string"
        found[key] = unquote_string(text) if quoted else text
    return found


def drop_left_out(options: MutableMapping[str, Any], left_out: frozenset[str] = LEFT_OUT) -> None:
    """Take the properties `left_out` out of a writer's options; raise for those that cannot be had."""
    for key in options:
        _refuse_property(key)
    for key in [key for key in options if key.lower() in left_out]:
        del options[key]


def _property_key(statement: Statement, at: int) -> tuple[str, int]:
    """Return a property's name, written as a string or as a dotted name, and the index after it."""
    token, after = statement.tokens[at], at + 1
    key = unquote_string(token.text) if token.kind == "string" else token.text
    if token.is_name:
        parts, after = chain_at(statement.tokens, at)
        key = ".".join(parts)
    _refuse_property(key)
    return key, after


def _refuse_property(key: str) -> None:
    if key.lower() in _CATALOG_MANAGED:
        raise only_on_databricks(f"The table property {key}")
    if key.lower().startswith("delta.constraints."):  # nobody would have looked at the rows
        text = "Please use ALTER TABLE ADD CONSTRAINT to add CHECK constraints."
        raise EngineError.of("DELTA_ADD_CONSTRAINTS", text, "0A000")
