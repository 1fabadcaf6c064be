"""Sessions of Spark: the local workspace's own over Spark Connect, and fakes of what it cannot be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from local_workspace import WorkspaceInfo
from local_workspace.options import installed_engine

from databricks_rlm_agent.errors import Conflict, Forbidden, NotFound, Rejected, RlmError, Unreachable
from databricks_rlm_agent.sqlflow.run.spark import SparkEngine, SparkSession

PLACE = {"catalog": "main", "schema": "s"}


@pytest.fixture(scope="module")
def spark(info: WorkspaceInfo) -> Iterator[Any]:
    from pyspark.sql import SparkSession as Spark

    made = Spark.builder.remote(info.spark_connect).create()  # not the one of another workspace
    yield made
    made.stop()


@pytest.fixture(params=["own", "shared"])
def sparks(request: pytest.FixtureRequest, info: WorkspaceInfo, spark: Any, schema: str) -> SparkEngine:
    # Without the URL there is only cloneSession, which the quick engine has not.
    remote = info.spark_connect if request.param == "own" else None
    spark.sql("SELECT 1").collect()  # only then is there a session to clone
    engine = SparkEngine(spark, catalog="main", schema=schema, remote=remote)
    assert (engine.alone is None) == (request.param == "own" or installed_engine() == "spark")
    return engine


def test_sessions_on_the_local_workspace(sparks: SparkEngine, schema: str) -> None:
    one, other = sparks.session(), sparks.session()
    one.execute("CREATE TABLE t AS SELECT id, timestamp'2026-01-01T00:00:00Z' AS at FROM range(3)")
    assert other.execute("INSERT INTO t SELECT 9, now()") == 1
    assert other.execute("USE SCHEMA main.default") is None
    found = one.fetch(f"SELECT * FROM main.{schema}.t WHERE id < :n ORDER BY id", {"n": 1})
    assert found == [{"id": 0, "at": datetime(2026, 1, 1, tzinfo=UTC)}]
    assert one.execute("SELECT * FROM t") is None
    with pytest.raises(NotFound, match="TABLE_OR_VIEW_NOT_FOUND"):
        other.execute("SELECT * FROM t")
    with pytest.raises(Rejected, match="SYNTAX"):
        one.execute("SELEC 1")
    with pytest.raises(Rejected, match="too late"):  # a query is seen through to its end
        one.execute("SELECT if(id < 9, id, raise_error('too late')) FROM t")
    one.execute("CREATE TEMPORARY VIEW v AS SELECT 1 AS x")
    one.close()
    with pytest.raises(NotFound):
        sparks.session().execute("SELECT * FROM v")
    with pytest.raises(Unreachable, match="gone"):
        one.execute("SELECT 1")


# What is not on this machine, or takes too long on it


class Classic:
    """A SparkSession of a cluster: it shares its context with all others."""

    def __init__(self, answer: Callable[[str], list[Any]] = lambda _sql: [], context: Any = None) -> None:
        self.answer, self.ran = answer, []
        self.sparkContext = context or Context()

    def newSession(self) -> Classic:  # noqa: N802 - Spark's name
        return Classic(self.answer, self.sparkContext)

    def sql(self, sql: str, args: Any = None) -> Any:
        del args
        self.ran.append(sql)
        return Frame(self.answer(sql))


class Connected(Classic):
    """A SparkSession over Spark Connect, which gives others or does not."""

    __module__ = "pyspark.sql.connect.session"

    def __init__(self, answer: Callable[[str], list[Any]], *, more: bool) -> None:
        super().__init__(answer)
        self.tags: set[str] = set()
        self.tagged: list[str] = []
        self.interrupted: list[str] = []
        self._more = more

    def cloneSession(self) -> Classic | None:  # noqa: N802
        return Connected(self.answer, more=True) if self._more else None

    def interruptAll(self) -> None:  # noqa: N802
        self.interrupted.append("all")

    def interruptTag(self, tag: str) -> None:  # noqa: N802
        self.interrupted.append(tag)

    def addTag(self, tag: str) -> None:  # noqa: N802
        self.tags.add(tag)
        self.tagged.append(tag)

    def removeTag(self, tag: str) -> None:  # noqa: N802
        self.tags.remove(tag)


class Context:
    def __init__(self) -> None:
        self.group, self.cancelled = "", []

    def setJobGroup(self, group: str, _text: str, _interrupt: bool) -> None:  # noqa: N802
        self.group = group

    def cancelJobGroup(self, group: str) -> None:  # noqa: N802
        self.cancelled.append(group)


class Frame:
    def __init__(self, rows: list[Any]) -> None:
        self.rows, self.columns = rows, [*(rows[0] if rows else ())]

    def collect(self) -> list[Any]:
        return self.rows


def raising(text: str) -> Callable[[str], list[Any]]:
    def answer(sql: str) -> list[Any]:
        if sql.startswith("USE"):
            return []
        raise RuntimeError(text)

    return answer


def test_a_classic_session_is_new_and_in_its_place() -> None:
    spark = Classic(lambda _sql: [{"num_affected_rows": 4, "num_inserted_rows": 4}])
    engine = SparkEngine(spark, **PLACE)
    session = engine.session()
    assert engine.alone is None
    assert session.execute("INSERT INTO t SELECT 1") == 4
    assert spark.ran == []
    session.cancel()
    assert spark.sparkContext.cancelled == []  # nothing runs


def test_a_statement_of_a_classic_session_is_cancelled_by_its_group() -> None:
    going = threading.Event()
    session: Any = None

    def answer(sql: str) -> list[Any]:
        if sql.startswith("INSERT"):
            session.cancel()
            going.set()
            raise RuntimeError("Job 3 cancelled part of cancelled job group")
        return []

    spark = Classic(answer)
    session = SparkEngine(spark, **PLACE).session()
    with pytest.raises(Rejected, match=r"\[CANCELED\] Job 3"):
        session.execute("INSERT INTO t SELECT 1")
    assert spark.sparkContext.cancelled == [spark.sparkContext.group]
    assert going.is_set()


@pytest.mark.parametrize("shared", [False, True])
def test_a_statement_over_spark_connect_is_cancelled_alone(shared: bool) -> None:
    session: Any = None

    def answer(sql: str) -> list[Any]:
        if sql.startswith("INSERT"):
            session.cancel()
            raise RuntimeError("[OPERATION_CANCELED] Operation was cancelled.")
        return []

    spark = Connected(answer, more=not shared)
    engine = SparkEngine(spark, **PLACE)
    assert (engine.alone is not None) == shared
    session = engine.session()
    with pytest.raises(Rejected, match=r"\[CANCELED\]"):
        session.execute("INSERT INTO t SELECT 1")
    if shared:
        assert spark.interrupted == [*spark.tagged]  # others run in the same session
    else:
        assert session._spark.interrupted == ["all"]
        assert spark.interrupted == []
    assert spark.tags == set()


@pytest.mark.parametrize(
    ("text", "kind", "alive"),
    [
        ("[INVALID_HANDLE.SESSION_CLOSED] The handle is invalid.", Unreachable, False),
        ("[NO_ACTIVE_SESSION] none", Unreachable, False),
        ("<_InactiveRpcError: StatusCode.UNAVAILABLE>", Unreachable, True),
        ("[DELTA_CONCURRENT_APPEND] Files were added.", Conflict, True),
        ("[INSUFFICIENT_PERMISSIONS] No.", Forbidden, True),
        ("[PARSE_SYNTAX_ERROR] Syntax error.\n== SQL ==\nSELEC", Rejected, True),
        ("", Rejected, True),
    ],
)
def test_errors_are_ours(text: str, kind: type[RlmError], alive: bool) -> None:
    session = SparkEngine(Classic(raising(text)), **PLACE).session()
    with pytest.raises(kind) as caught:
        session.execute("DELETE FROM t")
    assert isinstance(caught.value, kind)
    assert session.alive is alive
    assert "\n" not in caught.value.what


def test_a_missing_schema_is_an_error_when_a_session_opens() -> None:
    def answer(sql: str) -> list[Any]:
        raise RuntimeError(f"[SCHEMA_NOT_FOUND] {sql}")

    with pytest.raises(NotFound, match="USE CATALOG `main`"):
        SparkEngine(Classic(answer), **PLACE).session()


def test_who_shares_a_session_finds_its_own_place_there() -> None:
    class Lonely(Classic):
        def newSession(self) -> Classic:  # noqa: N802
            raise RuntimeError("[NOT_IMPLEMENTED] newSession\nnot here")

    spark = Lonely()
    engine = SparkEngine(spark, **PLACE)
    assert engine.alone == "Spark gives no second session: [NOT_IMPLEMENTED] newSession."
    one, other = engine.session(), engine.session()
    assert isinstance(one, SparkSession)
    one.execute("USE SCHEMA x")
    other.execute("DROP TABLE t")
    one.execute("DROP TABLE u")
    place = ["USE CATALOG `main`", "USE SCHEMA `main`.`s`"]
    assert spark.ran == [
        *place,
        "USE SCHEMA x",
        *place,
        "DROP TABLE t",
        *place,
        "USE SCHEMA x",
        "DROP TABLE u",
    ]
