"""What must hold before a workflow begins: its place is there, and tables may be made in it."""

from __future__ import annotations

from databricks_rlm_agent.errors import Forbidden, NotFound, Rejected, RlmError, Unauthorized, UsageError
from databricks_rlm_agent.sqltext.names import Name, quoted
from databricks_rlm_agent.values import NewId, SqlEngine, SqlSession


def verify(engine: SqlEngine, place: Name, new_id: NewId) -> None:
    """Open a session, go to ``(catalog, schema)``, make a table and drop it; raise what stands against that.

    The engine must not have a place of its own: a session that cannot be opened says less than USE does.
    """
    catalog, schema = place
    probe = quoted((*place, new_id("_rlm_probe_")))
    session = engine.session()
    try:
        _use(session, f"USE CATALOG {quoted((catalog,))}", f"catalog {catalog}", "--catalog")
        _use(session, f"USE SCHEMA {quoted((schema,))}", f"schema {catalog}.{schema}", "--schema")
        try:
            session.execute(f"CREATE TABLE {probe} (x INT) USING DELTA")
            session.execute(f"DROP TABLE {probe}")
        except Unauthorized as error:
            raise Forbidden(
                f"No table may be made in {catalog}.{schema}: {error.what}",
                where=error.where,
                fix="Ask for USE SCHEMA and CREATE TABLE on it, or name another --schema.",
            ) from None
    finally:
        session.close()


def _use(session: SqlSession, statement: str, what: str, option: str) -> None:
    try:
        session.execute(statement)
    except NotFound as error:
        raise NotFound(
            f"There is no {what}, or it may not be seen.",
            where=error.where,
            fix=f"Check {option}, or create it.",
        ) from None
    except Rejected as error:
        raise UsageError(f"This cannot be a {what}: {error.what}", fix=f"Check {option}.") from None
    except RlmError as error:
        error.fix = error.fix or f"Check {option}."
        raise
