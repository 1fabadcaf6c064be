"""Statements that Sail lacks or answers for its session only: one table from leading words to handlers.

Maintenance is done by delta-rs on the table's folder. SET knows Databricks SQL's own parameters (in its
documentation: "Configuration parameters") and the engine's. What neither we nor Sail have is refused by name.
"""

from __future__ import annotations

import pyarrow as pa

from . import alter, ddl, dml, inserts, listing, show, tables
from .alter import with_delta
from .errors import EngineError, only_on_databricks, unsupported
from .session import OVERWRITE_MODE, STATEMENT_TIMEOUT, CatalogSession, Handlers, StatementResult
from .show import rows_of, strings
from .statements import Reader, Statement
from .tables import done

_AUTOCOMMIT = "AUTOCOMMIT"
# The parameters and their defaults; those of `_OF_THE_ENGINE` are settings of the engine.
_DEFAULTS = {
    "ANSI_MODE": "true",
    _AUTOCOMMIT: "true",
    "ENABLE_PHOTON": "true",
    "LEGACY_TIME_PARSER_POLICY": "EXCEPTION",
    "MAX_FILE_PARTITION_BYTES": "128m",
    "QUERY_TAGS": "",
    "READ_ONLY_EXTERNAL_METASTORE": "false",
    STATEMENT_TIMEOUT: "172800",
    "TIMEZONE": "UTC",
    "USE_CACHED_RESULT": "true",
}
_OF_THE_ENGINE = {"ANSI_MODE": "spark.sql.ansi.enabled", "TIMEZONE": "spark.sql.session.timeZone"}

# --- maintenance


def optimize(session: CatalogSession, statement: Statement) -> StatementResult:
    """OPTIMIZE table [ZORDER BY (columns)]."""
    name = session.namespace.table(Reader(statement, 1).name())
    order = statement.find("ZORDER")
    columns = [token.name for token in statement.tokens[order + 2 :] if token.is_name] if order else []
    run = (lambda d: d.optimize.z_order(columns)) if columns else (lambda d: d.optimize.compact())
    metrics = with_delta(session, name, run)
    summary = {key: metrics[key] for key in ("numFilesAdded", "numFilesRemoved")}
    return StatementResult(table=pa.table({"path": [str(session.tree.location(name))], "metrics": [summary]}))


def vacuum(session: CatalogSession, statement: Statement) -> StatementResult:
    """VACUUM table [RETAIN n HOURS] [DRY RUN]."""
    name = session.namespace.table(Reader(statement, 1).name())
    retain = statement.find("RETAIN")
    hours = int(float(statement.tokens[retain + 1].text)) if retain else None
    dry = statement.find("DRY") is not None
    files = with_delta(session, name, lambda d: d.vacuum(retention_hours=hours, dry_run=dry))
    location = str(session.tree.location(name))
    return rows_of(strings("path"), [(path,) for path in (files if dry else [location])])


def restore(session: CatalogSession, statement: Statement) -> StatementResult:
    """RESTORE TABLE table TO VERSION AS OF n."""
    reader = Reader(statement, 1)
    reader.accept("TABLE")
    name = session.namespace.table(reader.name())
    if not reader.accept("TO", "VERSION", "AS", "OF"):
        raise unsupported("RESTORE other than TO VERSION AS OF n")
    version = int(reader.rest())
    with_delta(session, name, lambda d: d.restore(version))
    return done()


def refresh(session: CatalogSession, statement: Statement) -> StatementResult:
    """REFRESH, CACHE, UNCACHE, ANALYZE TABLE, CLEAR CACHE: sessions are up to date and nothing is cached."""
    at = statement.find("TABLE")
    if at is not None and not statement.starts("IF", "EXISTS", at=at + 1):
        session.tree.require(session.namespace.table(Reader(statement, at + 1).name()))
    return done()


# --- SET


def set_configuration(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """SET key = value, for keys that the engine's own SET does not take; other forms are the engine's."""
    if statement.starts("SET", "TIME", "ZONE"):
        session.set_configuration({"spark.sql.session.timeZone": statement.source(3).strip("'\"")})
        return done()
    if statement.starts("SET", "VAR") or statement.starts("SET", "VARIABLE"):
        raise unsupported("SET VARIABLE")
    key, equals, value = (part.strip() for part in statement.text.strip()[3:].partition("="))
    value = value.strip("'\"")
    if key.upper() in _DEFAULTS:
        if equals:
            return _set(session, key, value)
        value = session.parameters.get(key.upper(), _DEFAULTS[key.upper()])
        return rows_of(strings("key", "value"), [(key, value)])
    return _set(session, key, value) if equals else statement.text


def _set(session: CatalogSession, key: str, value: str) -> StatementResult:
    name = key.upper()
    if key.lower() == OVERWRITE_MODE.lower() and "dynamic" in value.lower():
        raise unsupported("Dynamic partition overwrite")
    if name == STATEMENT_TIMEOUT and not value.isdecimal():
        text = f"STATEMENT_TIMEOUT is a number of seconds, not {value!r}."
        raise EngineError.of("INVALID_CONF_VALUE.TYPE_MISMATCH", text, "22022")
    if name == _AUTOCOMMIT and value.lower() != "true":
        raise only_on_databricks("A transaction of several statements (SET AUTOCOMMIT = FALSE)")
    if name in _DEFAULTS:
        session.parameters[name] = value
    elif "." not in key:
        raise EngineError.of("CONFIG_NOT_AVAILABLE", f"Configuration {key} is not available.", "42K0I")
    setting = _OF_THE_ENGINE.get(name, key)
    if "." in setting:
        session.set_configuration({setting: value})
    return done()


# --- refusals


def refuse(_session: CatalogSession, statement: Statement) -> StatementResult:
    """Refuse a statement that the quick engine lacks."""
    raise unsupported("A SQL script (BEGIN … END)" if statement.starts("BEGIN") else _named(statement))


def refuse_everywhere(_session: CatalogSession, statement: Statement) -> StatementResult:
    """Refuse a statement that only Databricks has."""
    raise only_on_databricks(_named(statement))


def _named(statement: Statement) -> str:
    """Return the first words that name a statement."""
    fill = {"OR", "REPLACE", "REFRESH", "TEMPORARY", "TEMP"}
    return " ".join([token.upper for token in statement.tokens[:5] if token.upper not in fill][:2])


def end_transaction(_session: CatalogSession, statement: Statement) -> StatementResult:
    """COMMIT, ROLLBACK: there is never anything to end."""
    text = f"There is no active transaction to {statement.tokens[0].text.lower()}."
    raise EngineError.of("NO_ACTIVE_TRANSACTION", text, "25000")


HANDLERS: Handlers = (
    (r"(USE|SET CATALOG) ", ddl.use),
    (r"CREATE (SCHEMA|DATABASE) ", ddl.create_schema),
    (r"DROP (SCHEMA|DATABASE) ", ddl.drop_schema),
    (r"CREATE CATALOG ", ddl.create_catalog),
    (r"(CREATE (OR REPLACE )?(EXTERNAL )?|REPLACE )TABLE ", tables.create_table),
    (r"DROP TABLE ", ddl.drop_table),
    (r"CREATE (OR REPLACE )?VIEW ", ddl.create_view),
    (r"DROP VIEW ", ddl.drop_view),
    (r"SET [A-Z_]+(\W|$)", set_configuration),
    (r"(COMMIT|ROLLBACK)( |$)", end_transaction),
    (r"UPDATE ", dml.update),
    (r"DELETE FROM ", dml.delete),
    (r"MERGE ", dml.merge),
    (r"TRUNCATE TABLE ", dml.truncate),
    (r"INSERT ", inserts.insert),
    (r"LIST ", listing.list_folder),
    (r"SHOW (SCHEMAS|DATABASES) (IN|FROM) ALL CATALOGS( |$)", listing.schemas),
    (r"SHOW TABLES (IN|FROM) (CATALOG|ALL CATALOGS)( |$)", listing.tables),
    (r"SHOW COLUMNS (IN|FROM) (CATALOG|ALL CATALOGS)( |$)", listing.columns),
    (r"SHOW CATALOGS", show.catalogs),
    (r"SHOW (SCHEMAS|DATABASES)", show.schemas),
    (r"SHOW TABLES", show.tables),
    (r"SHOW TABLE EXTENDED", show.table_extended),
    (r"SHOW VIEWS", show.views),
    (r"SHOW COLUMNS (IN|FROM) ", show.columns),
    (r"SHOW TBLPROPERTIES ", show.properties),
    (r"SHOW CREATE TABLE ", show.create_text),
    (r"(DESCRIBE|DESC) ", show.describe),
    (r"ALTER TABLE ", alter.alter_table),
    (r"COMMENT ON ", alter.comment_on),
    (r"OPTIMIZE ", optimize),
    (r"VACUUM ", vacuum),
    (r"RESTORE ", restore),
    (r"(REFRESH|ANALYZE|CACHE|UNCACHE) (LAZY )?TABLE |CLEAR CACHE", refresh),
    (r"(DECLARE|EXECUTE IMMEDIATE|BEGIN|RESET|COPY INTO)( |$)", refuse),
    (r"(CREATE|DROP) (OR REPLACE )?(TEMP(ORARY)? )?FUNCTION |SHOW USER FUNCTIONS", refuse),
    (r"(GRANT|REVOKE|SHOW GRANTS|CLONE|CONVERT|FSCK|REORG|MSCK|CALL)( |$)", refuse_everywhere),
    (r"(ALTER (SCHEMA|CATALOG|VIEW)|CREATE VOLUME|SHOW (PARTITIONS|VOLUMES)) ", refuse_everywhere),
    (r"CREATE (OR (REPLACE|REFRESH) )?(PROCEDURE|MATERIALIZED|STREAMING) ", refuse_everywhere),
)
