"""Statements that Sail lacks or answers for its session only: one table from leading words to handlers.

Maintenance is done by delta-rs on the table's folder. What neither we nor Sail have is refused by name.
"""

from __future__ import annotations

from . import alter, configuration, ddl, dml, inserts, listing, show
from .alter import with_delta
from .errors import only_on_databricks, unsupported
from .session import CatalogSession, Handlers, StatementResult
from .show import rows_of, strings
from .statements import Reader, Statement
from .tables import done

# --- maintenance


def optimize(session: CatalogSession, statement: Statement) -> StatementResult:
    """OPTIMIZE table [ZORDER BY (columns)]."""
    import pyarrow as pa

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


HANDLERS: Handlers = (
    *ddl.HANDLERS,
    *configuration.HANDLERS,
    *dml.HANDLERS,
    *inserts.HANDLERS,
    *listing.HANDLERS,
    *show.HANDLERS,
    *alter.HANDLERS,
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
