"""With a Spark Connect server: the row, the session that cannot be stopped, interrupts."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from harness_support import Bench, create_schema, keep_session
from hypothesis import given
from hypothesis import strategies as st

from executor_harness.spark import commit, literal

CREATE = (
    "CREATE TABLE main.rlm.execution_results (run_id STRING, iter_n INT, attempt INT, "
    "databricks_run_id BIGINT, "
    "run_url STRING, status STRING, error_type STRING, error_summary STRING, metrics STRING, "
    "produced_artifacts STRING, produced_tables STRING, started_at TIMESTAMP, finished_at TIMESTAMP, "
    "reported_by STRING) USING delta"
)


@pytest.fixture(scope="module")
def shared(sail: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A session whose tables the harness sees: memory catalogs belong to a session, so it is given by its
    id.
    """
    from pyspark.sql.connect.session import SparkSession

    remote = f"{sail};session_id={uuid.uuid4()}"
    spark = SparkSession.builder.remote(remote).create()
    create_schema(spark, "main.rlm", tmp_path_factory.mktemp("warehouse"))
    spark.sql(CREATE).collect()
    yield spark, remote
    spark.client.close()


@pytest.fixture
def spark_bench(bench: Bench, shared: Any) -> Bench:
    bench.env = {"SPARK_REMOTE": shared[1]}
    bench.run_id = "r" + uuid.uuid4().hex[:8]
    keep_session(bench)
    return bench


def rows(shared: Any, bench: Bench) -> list[dict[str, Any]]:
    found = (
        shared[0].sql(f"SELECT * FROM main.rlm.execution_results WHERE run_id = '{bench.run_id}'").collect()
    )
    return [row.asDict() for row in found]


def test_row_of_a_success(spark_bench: Bench, shared: Any) -> None:
    ended = spark_bench.run(
        "spark.range(5).createOrReplaceTempView('v')\n"
        "spark.sql('CREATE TABLE main.rlm.made USING delta AS SELECT id, id AS b FROM v').collect()\n"
        "rlm.table('made')\nrlm.metric('n', 2.5)\n"
    )
    assert ended.code == 0, ended.err
    assert "not added" not in ended.err
    made = [{"name": "main.rlm.made", "columns": ["id", "b"], "rows": 5}]
    assert ended.report["produced_tables"] == made, ended.report
    (row,) = rows(shared, spark_bench)
    assert (row["iter_n"], row["attempt"], row["status"], row["reported_by"]) == (1, 1, "SUCCESS", "executor")
    assert json.loads(row["metrics"]) == {"n": 2.5}
    assert json.loads(row["produced_tables"]) == made
    assert row["error_type"] is row["databricks_run_id"] is None
    assert row["started_at"] <= row["finished_at"]
    assert spark_bench.again().code == 0
    assert len(rows(shared, spark_bench)) == 1


def test_row_of_a_failure_carries_any_text(spark_bench: Bench, shared: Any) -> None:
    message = "it's \\' \"odd\" ${x} -- ; `\n\t\x00 ü \U0001f600"
    ended = spark_bench.run(f"raise ValueError({message!r})\n")
    (row,) = rows(shared, spark_bench)
    assert row["error_summary"] == ended.report["error_summary"]
    assert message in row["error_summary"]
    assert row["error_type"] == "ValueError"


def test_row_of_an_artifact_mismatch(spark_bench: Bench, shared: Any) -> None:
    spark_bench.publish("pass")
    (spark_bench.folder / "entrypoint.py").write_text("path")
    assert spark_bench.again().code == 1
    assert [row["error_type"] for row in rows(shared, spark_bench)] == ["ArtifactMismatch"]


@pytest.mark.parametrize(
    "stop",
    [
        "spark.stop()",
        "rlm.spark.stop()",
        "from pyspark.sql import SparkSession; SparkSession.builder.getOrCreate().stop()",
        "from pyspark.sql import SparkSession; SparkSession.getActiveSession().stop()",
    ],
)
def test_stop_is_ignored(spark_bench: Bench, shared: Any, stop: str) -> None:
    ended = spark_bench.run(f"{stop}\nrlm.finish(spark.sql('SELECT 41 + 1').collect()[0][0])\n")
    assert (ended.code, ended.report["value"]) == (0, 42), ended.err
    assert "spark.stop() was ignored" in ended.report["stderr"]["head"]
    assert len(rows(shared, spark_bench)) == 1


def test_timeout_interrupts_spark(spark_bench: Bench, shared: Any) -> None:
    ended = spark_bench.run(
        "spark.sql('SELECT sum(id % 7) FROM range(1000000000000)').collect()\n",
        timeout_s=4,
        limits={"grace_s": 3},
    )
    assert (ended.code, ended.report["status"]) == (124, "TIMEOUT"), ended.err
    assert "line 1 of entrypoint.py" in ended.report["error_summary"]
    assert [row["status"] for row in rows(shared, spark_bench)] == ["TIMEOUT"]


def test_engine_errors_are_the_programs(spark_bench: Bench) -> None:
    ended = spark_bench.run("print('x')\nspark.sql('SELECT nothing FROM range(1)').collect()\n")
    assert ended.report["error_type"] == "AnalysisException", ended.report
    assert "line 2 of entrypoint.py" in ended.report["error_summary"]
    assert "nothing" in ended.report["error_summary"]


def test_missing_table_is_said_and_the_result_stands(spark_bench: Bench) -> None:
    ended = spark_bench.run("rlm.finish(1)", results_table="main.rlm.absent")
    assert (ended.code, ended.report["value"]) == (0, 1)
    assert "the row was not added (main.rlm.absent" in ended.err


def test_no_thread_of_the_client_is_called_a_leftover(spark_bench: Bench) -> None:
    ended = spark_bench.run("spark.sql('SELECT 1').collect()\nspark.range(3).toPandas()\n")
    assert ended.report["log"] == []
    assert ended.code == 0


def test_a_released_session_ends_well(bench: Bench, sail: str) -> None:
    bench.env = {"SPARK_REMOTE": sail}
    ended = bench.run("spark.sql('SELECT 1').collect()\n")
    assert ended.code == 0, ended.err


def test_literals_mean_what_they_say(shared: Any) -> None:
    texts = [
        "",
        "plain",
        "it's",
        "\\",
        "a--b",
        "/* */",
        "${x}",
        "\x00",
        "日本",
        "a\nb",
        "*** '' \"",
        "x" * 5000,
    ]
    columns = ", ".join(f"{literal(text)} AS c{at}" for at, text in enumerate(texts))
    assert list(shared[0].sql(f"SELECT {columns}").collect()[0]) == texts


@given(st.text(max_size=40))
def test_literals_are_plain_or_hexadecimal(text: str) -> None:
    spelt = literal(text)
    if spelt.startswith("CAST"):
        digits = spelt.removeprefix("CAST(X'").removesuffix("' AS STRING)")
        assert bytes.fromhex(digits) == text.encode("utf-8", "replace")
    else:
        assert spelt == f"'{text}'"
        assert not set(text) & set("'\\\n\r\"`$#{}*")


def test_numbers_and_null() -> None:
    assert [literal(value) for value in (None, 3, -1)] == ["NULL", "3", "-1"]


class ConflictError(Exception):
    pass


def test_conflicts_are_retried_within_bounds() -> None:
    waits: list[float] = []
    left = [ConflictError("[DELTA_CONCURRENT_APPEND] …"), ConflictError("Failed to commit transaction: 3")]

    def execute(_text: str) -> None:
        if left:
            raise left.pop()

    commit(execute, "MERGE", sleep=waits.append)
    assert waits == [0.2, 0.4]

    def always(_text: str) -> None:
        raise ConflictError("ConcurrentAppendException")

    with pytest.raises(ConflictError):
        commit(always, "MERGE", sleep=waits.append)
    assert len(waits) == 2 + 7

    def other(_text: str) -> None:
        raise ValueError("TABLE_OR_VIEW_NOT_FOUND")

    with pytest.raises(ValueError):
        commit(other, "MERGE", sleep=pytest.fail)
