"""Sessions of Spark, classic or Spark Connect, for the SQL of workflows.

Every session of ours is a session of Spark's, so that USE, SET and temporary views of a file stay in it. If
Spark gives no second session, all share one: ``SparkEngine.alone`` says why, and files run one at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from databricks_rlm_agent.errors import Rejected, RlmError, Unreachable
from databricks_rlm_agent.sqltext.errors import classify_sql, first_line
from databricks_rlm_agent.sqltext.names import quoted
from databricks_rlm_agent.values import Row

T = TypeVar("T")
_WHERE = "Spark"
_AFFECTED = "num_affected_rows"  # of Delta's INSERT, UPDATE, DELETE and MERGE on Databricks
_QUERY = re.compile(r"(?:select|with|values|from|table|\()\b|\(", re.IGNORECASE)
_USE = re.compile(r"use\b", re.IGNORECASE)
_VIEW = re.compile(r"create\s+(?:or\s+replace\s+)?temp(?:orary)?\s+view\s+(`[^`]+`|\w+)", re.IGNORECASE)
_GONE = re.compile(r"INVALID_HANDLE\.SESSION|SESSION_(?:CLOSED|CHANGED|NOT_FOUND)|NO_ACTIVE_SESSION")
_UNREACHABLE = re.compile(
    r"StatusCode\.(?:UNAVAILABLE|DEADLINE_EXCEEDED)|Socket closed|Connection (?:refused|reset)"
)
_session_numbers = itertools.count(1)


class SparkEngine:
    """Implements values.SqlEngine in one catalog and schema. Safe to use from several threads.

    ``remote`` is the URL that Spark Connect was reached by (``SPARK_REMOTE``), where there is one.
    """

    def __init__(self, spark: Any, *, catalog: str, schema: str, remote: str | None = None) -> None:
        self._spark, self._remote = spark, remote
        self._place = (f"USE CATALOG {quoted((catalog,))}", f"USE SCHEMA {quoted((catalog, schema))}")
        self._shared = _SharedState()
        self._spare: Any = None
        self.alone: str | None = None
        """The reason why there is only one session for all; None if each has its own."""
        try:
            self._spare = _new_session(spark, remote)
        except Exception as error:  # noqa: BLE001 - Spark raises anything; recorded, and reported in a notice
            self.alone = f"Spark gives no second session: {first_line(_text(error))}"
        if self._spare is None:
            self.alone = self.alone or "Spark gives no second session."

    def session(self) -> SparkSession:
        """Open a session; raise RlmError if the catalog and schema cannot be used."""
        if self.alone is not None:
            return SharedSession(self._spark, self._shared, self._place)
        session = SparkSession(self._unused())
        try:
            for statement in self._place:
                session.execute(statement)
        except RlmError:
            session.close()
            raise
        return session

    def _unused(self) -> Any:
        with self._shared.lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            return spare
        try:
            return _new_session(self._spark, self._remote)
        except Exception as error:  # noqa: BLE001 - Spark raises anything; it is raised as ours
            raise _classified(error) from None


class SparkSession:
    """Implements values.SqlSession over a session of Spark's that nobody else uses."""

    def __init__(self, spark: Any) -> None:
        self._spark = spark
        self._id = f"rlm-sql-{next(_session_numbers)}"
        self._lock = threading.Lock()
        self._alive, self._running, self._cancelled = True, False, False

    @property
    def alive(self) -> bool:
        """False once it is lost or closed."""
        return self._alive

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        """Run a statement; return how many rows it changed, None where Spark does not say."""
        return self._run(sql, parameters, lambda frame: _complete(frame, sql))

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Run a query and return its rows; TIMESTAMPs in UTC, as a warehouse has them."""
        return self._run(sql, parameters, _rows)

    def cancel(self) -> None:
        """Ask for the end of the statement that runs now."""
        if self._running:
            self._cancelled = True
            with contextlib.suppress(Exception):  # the statement's own thread meets the same fault
                self._interrupt()

    def close(self) -> None:
        """End the session."""
        self._alive = False
        if _is_connect(self._spark):  # a classic one is nothing but memory of this process
            # It ends by itself if this does not reach the server. The client is left to the collector: its
            # close() ends a pool of threads that other sessions may just be using (pyspark's reattach.py).
            with contextlib.suppress(Exception):
                self._spark.client.release_session()

    def _run(self, sql: str, parameters: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        with self._lock:
            if not self._alive:
                raise Unreachable("The Spark session is gone.", where=_WHERE)
            self._running, self._cancelled = True, False
            try:
                return self._send(sql, parameters, read)
            except Exception as error:  # noqa: BLE001 - Spark raises anything; it is raised as ours
                raise self._error_of(error) from None
            finally:
                self._running = False

    def _send(self, sql: str, parameters: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        if not _is_connect(self._spark):  # of this thread, so that its jobs can be cancelled alone
            self._spark.sparkContext.setJobGroup(self._id, sql[:100], True)
        return read(self._spark.sql(sql, args=dict(parameters)) if parameters else self._spark.sql(sql))

    def _interrupt(self) -> None:
        if _is_connect(self._spark):
            self._spark.interruptAll()
        else:
            self._spark.sparkContext.cancelJobGroup(self._id)

    def _error_of(self, error: Exception) -> RlmError:
        if self._cancelled:
            return Rejected(f"[CANCELED] {first_line(_text(error))}", where=_WHERE)
        self._alive = self._alive and not _is_gone(error)
        return _classified(error)


class SharedSession(SparkSession):
    """One of several that share Spark's one session: each finds its own catalog and schema there."""

    def __init__(self, spark: Any, shared: _SharedState, place: Sequence[str]) -> None:
        super().__init__(spark)
        self._shared, self._uses = shared, list(place)

    def close(self) -> None:
        """Drop the temporary views that it has left in Spark's session. What it SET stays."""
        self._alive = False
        # A view that could not be dropped is replaced by the next file that makes it.
        with self._shared.lock, contextlib.suppress(Exception):
            for name in self._shared.views.pop(self._id, ()):
                self._spark.catalog.dropTempView(name)

    def _send(self, sql: str, parameters: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        with self._shared.lock:
            if self._shared.last_user != self._id:
                self._shared.last_user = self._id
                for statement in self._uses:
                    self._spark.sql(statement)
            answer = self._tagged(sql, parameters, read)
            if _USE.match(sql):
                self._uses.append(sql)
            if found := _VIEW.match(sql):
                self._shared.views.setdefault(self._id, []).append(found[1].strip("`"))
            return answer

    def _tagged(self, sql: str, parameters: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        if not _is_connect(self._spark):
            return super()._send(sql, parameters, read)
        self._spark.addTag(self._id)
        try:
            return super()._send(sql, parameters, read)
        finally:
            self._spark.removeTag(self._id)

    def _interrupt(self) -> None:
        if _is_connect(self._spark):
            self._spark.interruptTag(self._id)
        else:
            super()._interrupt()


class _SharedState:
    """The last user of a shared session, and the temporary views of each."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.last_user = ""
        self.views: dict[str, list[str]] = {}


def _is_gone(error: Exception) -> bool:
    """Return whether the session has ended, and what it held with it."""
    return bool(_GONE.search(_text(error))) or type(error).__name__ == "Py4JNetworkError"


def _classified(error: Exception) -> RlmError:
    if isinstance(error, RlmError):
        return error
    text = _text(error)
    if _is_gone(error):
        return Unreachable(f"The Spark session is gone: {first_line(text)}", where=_WHERE)
    if _UNREACHABLE.search(text):
        return Unreachable(first_line(text), where=_WHERE)
    return classify_sql(text, where=_WHERE)


def _text(error: Exception) -> str:
    """Return the text of an error; errors of gRPC itself say little in their first line."""
    details, code = getattr(error, "details", None), getattr(error, "code", None)
    return f"{code()}: {details()}" if callable(details) and callable(code) else str(error)


def _new_session(spark: Any, remote: str | None) -> Any:
    """Return a new session beside this one, None if Spark has no way to make one. Raise what Spark raises."""
    if not _is_connect(spark):
        return spark.newSession()
    if remote:
        session = type(spark).builder.remote(remote).create()
        if session.session_id != spark.session_id:  # a URL may name the session, and then it is the same one
            return session
    return spark.cloneSession() if hasattr(spark, "cloneSession") else None  # Spark 4.1 and later


def _complete(frame: Any, sql: str) -> int | None:
    """Run a statement to its end; return how many rows it has changed, if it says so."""
    if _QUERY.match(sql) and _AFFECTED not in frame.columns:
        frame.write.format("noop").mode("overwrite").save()  # all of it is computed, and nothing is kept
        return None
    rows = frame.collect()  # a command has run by now; this is its answer
    if not rows or _AFFECTED not in rows[0]:
        return None
    changed = rows[0][_AFFECTED]
    return None if changed is None or int(changed) < 0 else int(changed)


def _rows(frame: Any) -> list[Row]:
    stamps = {field.name for field in frame.schema.fields if field.dataType.typeName() == "timestamp"}
    rows: list[dict[str, Any]] = [row.asDict(recursive=True) for row in frame.collect()]
    for row in rows:  # Spark gives the local time of this process, without saying so
        row |= {name: row[name].astimezone(UTC) for name in stamps if isinstance(row[name], datetime)}
    return list(rows)


def _is_connect(spark: object) -> bool:
    return ".connect." in type(spark).__module__
