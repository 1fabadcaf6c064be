"""llm_map on the embedded engine, with a stub endpoint that counts what it is asked."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_support import Bench, create_schema, eventually, keep_session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llm_support import CREATE, TABLE, Said, access, calls_of, echo, run_folder, serving, spent

from executor_harness.rlm import chat, map_sql
from executor_harness.rlm.chat import BudgetExhausted, Options
from executor_harness.rlm.map import PROMPT, llm_map


@pytest.fixture(scope="module")
def shared(sail: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A session by its id: memory catalogs belong to a session, and a harness is to see the table, too."""
    from pyspark.sql.connect.session import SparkSession

    remote = f"{sail};session_id={uuid.uuid4()}"
    spark = SparkSession.builder.remote(remote).create()
    create_schema(spark, "main.rlm", tmp_path_factory.mktemp("warehouse"))
    spark.sql(CREATE).collect()
    yield spark, remote
    spark.client.close()


@pytest.fixture
def spark(shared: Any) -> Any:
    shared[0].sql(f"DELETE FROM {TABLE}").collect()
    return shared[0]


def frame(spark: Any, rows: int, distinct: int) -> Any:
    return spark.sql(f"SELECT id, concat('p', id % {distinct}) AS t FROM range({rows})")


def answers(out: Any) -> dict[int, tuple[str | None, str | None]]:
    found = out.collect()
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: (row["a"], row["a_error"]) for row in found}


def test_each_distinct_prompt_is_asked_once_and_never_again(spark: Any, tmp_path: Path) -> None:
    df = frame(spark, 3_000, 300)
    with serving() as stub:
        first = calls_of(tmp_path, stub, session=lambda: spark)
        out = llm_map(first, df, "Say {t}", "a")
        assert out.columns == ["id", "t", "a", "a_error"]
        assert answers(out) == {n: (f"re: Say p{n % 300}", None) for n in range(3_000)}
        assert sorted(stub.prompts) == sorted(f"Say p{n}" for n in range(300))
        assert 1 < stub.most_busy <= 64
        usage = first.usage()
        assert (usage.calls, usage.input_tokens, usage.output_tokens) == stub.billed
        assert spent(tmp_path) == usage
        assert not list(run_folder(tmp_path).glob("calls/*")), "the answers are in the table"
        assert first.query("Say p7") == "re: Say p7", "what was mapped is known to single calls"

        other = calls_of(tmp_path, stub, run_id="r2", session=lambda: spark)
        assert answers(llm_map(other, df, "Say {t}", "a")) == answers(out)
        assert len(stub.asked) == 300
        assert (other.usage().calls, other.usage().cached) == (0, 300)
        assert any("300 had an answer" in line for line in other.close())


def test_what_single_calls_were_answered_is_not_asked(spark: Any, tmp_path: Path) -> None:
    with serving() as stub:
        calls = calls_of(tmp_path, stub, session=lambda: spark)
        calls.query_batched(["Say p0", "Say p1"])  # in the journal, not in the table yet
        llm_map(calls, frame(spark, 10, 4), "Say {t}", "a")
        assert sorted(stub.prompts) == ["Say p0", "Say p1", "Say p2", "Say p3"]
        calls.close()


def test_what_a_map_was_answered_is_found_although_it_was_not_there_before(
    spark: Any, tmp_path: Path
) -> None:
    with serving(lambda prompt, before: Said() if before else Said(status=400, tokens=None)) as stub:
        calls = calls_of(tmp_path, stub, session=lambda: spark)
        assert not calls.query_batched(["Say p0"])[0]
        assert answers(llm_map(calls, frame(spark, 1, 1), "Say {t}", "a")) == {0: ("ok", None)}
        assert calls.query("Say p0") == "ok"
        assert len(stub.asked) == 2
        calls.close()


@pytest.mark.parametrize("at_once", [1, 2, 16])
def test_maps_and_single_calls_share_the_limit(spark: Any, tmp_path: Path, at_once: int) -> None:
    with serving(latency_s=0.02) as stub:
        calls = calls_of(tmp_path, stub, session=lambda: spark, concurrency=at_once)
        found: list[Any] = []

        def single(number: int) -> None:
            for turn in range(3):
                found.extend(calls.query_batched([f"q{number} {turn} {n}" for n in range(6)]))

        def mapped(text: str) -> None:
            out = llm_map(calls, frame(spark, 60, 40), text, "a").collect()
            found.extend(row["a"] for row in out)

        threads = [threading.Thread(target=single, args=(n,)) for n in range(3)]
        threads += [threading.Thread(target=mapped, args=(text,)) for text in ("Say {t}", "Sing {t}")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(found) == 3 * 3 * 6 + 2 * 60
        assert all(found)
        assert stub.most_busy <= at_once
        assert len(stub.asked) == 3 * 3 * 6 + 2 * 40
        assert (calls.pool._busy, calls.pool._lent) == (0, 0)
        calls.close()


def test_a_single_question_need_not_wait_for_a_large_map(spark: Any, tmp_path: Path) -> None:
    with serving() as stub:
        calls = calls_of(tmp_path, stub, session=lambda: spark, concurrency=16)
        with calls.pool.lend() as lent:
            assert lent == 15
            assert calls.query("q") == "re: q"
        calls.close()


def test_a_prompt_that_fails_for_good(spark: Any, tmp_path: Path) -> None:
    def rule(prompt: str, before: int) -> Said:
        if prompt == "Say p3":
            return Said(status=400, text="too odd, dapi-very-secret", tokens=None)
        busy = prompt == "Say p4" and not before
        return (
            Said(status=429, headers={"Retry-After": "0.01"}, tokens=None) if busy else echo(prompt, before)
        )

    with serving(rule) as stub:
        calls = calls_of(tmp_path, stub, session=lambda: spark, secrets=("dapi-very-secret",))
        found = answers(llm_map(calls, frame(spark, 20, 10), "Say {t}", "a"))
        assert {n for n, (text, _) in found.items() if text is None} == {3, 13}
        assert found[3][1] == found[13][1]
        assert str(found[3][1]).startswith("refused: small: HTTP 400: too odd")
        assert all(error is None for text, error in found.values() if text)
        assert stub.prompts.count("Say p4") == 2
        assert calls.usage().calls == stub.billed[0] == 9
    assert spark.sql(f"SELECT count(*) FROM {TABLE}").collect()[0][0] == 9, "a failure is not kept"


def test_too_small_a_budget_asks_nothing(spark: Any, tmp_path: Path) -> None:
    with serving() as stub:
        for short in ({"calls": 29}, {"tokens": 60}, {"cost_usd": 0.0001}):
            allowance = {"calls": 10_000, "tokens": 10_000_000, "cost_usd": None, **short}
            prices = {"small": {"input_usd": 1.0, "output_usd": 5.0}}
            calls = calls_of(tmp_path, stub, session=lambda: spark, allowance=allowance, prices=prices)
            with pytest.raises(BudgetExhausted, match=r"llm_map has 30 prompts .* and asked none"):
                llm_map(calls, frame(spark, 300, 30), "Say {t}", "a")
            assert calls.usage().calls == 0
        assert stub.asked == []


def test_waves_are_no_larger_than_what_is_left(spark: Any, tmp_path: Path) -> None:
    """The longest replies of all together would be too much; what is really said is not."""
    with serving() as stub:
        allowance = {"calls": 1_000, "tokens": 2_000, "cost_usd": None}
        calls = calls_of(tmp_path, stub, session=lambda: spark, allowance=allowance)
        found = answers(llm_map(calls, frame(spark, 300, 30), "Say {t}", "a", max_tokens=100))
        assert all(text for text, _ in found.values())
        assert len(stub.asked) == calls.usage().calls == 30


def test_null_is_not_asked_and_columns_of_any_type_are_filled(spark: Any, tmp_path: Path) -> None:
    df = spark.sql(
        "SELECT * FROM VALUES (1, 2.50, true, array('x')), (2, NULL, true, array('y')), "
        "(3, 1.00, false, NULL) AS v(id, `the price`, ok, tags)"
    )
    with serving() as stub:
        calls = calls_of(tmp_path, stub, session=lambda: spark)
        found = answers(llm_map(calls, df, "{{{id}}} {the price} {ok} {tags}", "a", system="Be kind."))
        assert stub.prompts == ['{1} 2.50 true ["x"]']
        assert stub.asked[0].body["messages"][0] == {"role": "system", "content": "Be kind."}
        assert found == {1: ('re: {1} 2.50 true ["x"]', None), 2: (None, None), 3: (None, None)}


def test_answers_of_a_shape(spark: Any, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    def rule(prompt: str, before: int) -> Said:
        if "corrected JSON" in prompt:
            return Said(text='{"n": 1}')
        good = prompt in {"Say p0", "Say p2"}
        return Said(text='```json\n{"n": 7}\n```' if good else "seven")

    with serving(rule) as stub:
        calls = calls_of(tmp_path, stub, session=lambda: spark)
        found = answers(llm_map(calls, frame(spark, 3, 3), "Say {t}", "a", schema=schema))
        assert [json.loads(found[n][0] or "") for n in range(3)] == [{"n": 7}, {"n": 1}, {"n": 7}]
        assert calls.usage().calls == stub.billed[0] == 4
        assert calls.query("Say p1", schema=schema) == {"n": 1}
        assert len(stub.asked) == 4


def test_waves_and_an_endpoint_that_refuses_everything(spark: Any, tmp_path: Path) -> None:
    with serving() as stub:
        calls = calls_of(tmp_path, stub, session=lambda: spark, concurrency=2)
        found = answers(llm_map(calls, frame(spark, 200, 200), "Say {t}", "a"))
        assert all(text for text, _ in found.values())
        assert Counter(stub.prompts).most_common(1)[0][1] == 1
        assert stub.most_busy <= 2
        assert (calls.usage().calls, calls.usage().input_tokens) == stub.billed[:2]
    with serving(lambda prompt, before: Said(status=403, text="no", tokens=None)) as stub:
        calls = calls_of(tmp_path, stub, session=lambda: spark, concurrency=2, endpoint="other")
        found = answers(llm_map(calls, frame(spark, 200, 200), "Say {t}", "a"))
        assert len(stub.asked) < 200, "the first wave tells enough"
        reasons = Counter(str(error).split(":")[0] for _, error in found.values())
        assert reasons == {"refused": len(stub.asked), "stopped": 200 - len(stub.asked)}


def test_misuse_is_said_before_anything_is_asked(spark: Any, tmp_path: Path) -> None:
    df = frame(spark, 3, 3)
    with serving() as stub:
        calls = calls_of(tmp_path, stub, session=lambda: spark)
        with pytest.raises(ValueError, match="the columns are: id, t"):
            llm_map(calls, df, "Say {title}", "a")
        with pytest.raises(TypeError, match="must be a Spark DataFrame, not list"):
            llm_map(calls, [{"t": 1}], "Say {t}", "a")
        for taken in ("t", "T", ""):
            with pytest.raises(ValueError, match="cannot be a new column"):
                llm_map(calls, df, "Say {t}", taken)
        with pytest.raises(ValueError, match="max_tokens"):
            llm_map(calls, df, "Say {t}", "a", max_tokens=10**6)
        assert stub.asked == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=20),
    st.sampled_from([None, 'Be "kind"\\.\n']),
    st.sampled_from([None, {"type": "string", "enum": ["é"]}]),
)
def test_the_engine_spells_keys_as_single_calls_do(
    spark: Any, prompts: list[str], system: str | None, schema: Any
) -> None:
    options = Options(model="m", max_tokens=9, system=system, schema=schema, temperature=0.25)
    df = spark.createDataFrame([(text,) for text in prompts], f"{PROMPT} string")
    from pyspark.sql import functions as F  # noqa: N812 -- everybody's name for it

    column = F.col(PROMPT)
    found = {row[0]: row[1] for row in df.select(column, map_sql.key(column, options)).collect()}
    assert found == {text: chat.key_of(chat.messages_of(text, options), options) for text in prompts}


_PROGRAM = """
df = spark.sql("SELECT id, concat('p', id) AS t FROM range(64)")
out = rlm.llm_map(df, "Say {t}", "a")
rlm.finish(out.where("a IS NOT NULL").count())
"""


def test_killed_in_the_midst_no_answered_prompt_is_asked_again(bench: Bench, shared: Any, spark: Any) -> None:
    with serving(echo, latency_s=0.3) as stub:
        bench.env = {
            "SPARK_REMOTE": shared[1],
            "DATABRICKS_HOST": stub.url,
            "DATABRICKS_TOKEN": "dapi-very-secret",
        }
        keep_session(bench)
        bench.publish(_PROGRAM, models=access(concurrency=8))
        process = bench.start()
        eventually(lambda: len(stub.asked) > 24)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        at_kill = stub.prompts
        # The engine may end the query at once, and what was on its way is lost; or go on with it for a while.
        eventually(lambda: stub.busy == 0 and time.monotonic() - stub.asked[-1].at > 1.5)
        before = stub.prompts
        assert len(at_kill) < 64
        dead = eventually(bench.read_result)["usage"]
        assert len(at_kill) <= dead["calls"] <= 64
        assert 2 * len(at_kill) <= dead["output_tokens"] <= 64 * 100

        bench.attempt = 2
        bench.publish(_PROGRAM, models=access(concurrency=8))
        ended = bench.again()
        assert (ended.code, ended.report["value"]) == (0, 64), ended.err
        assert set(stub.prompts) == {f"Say p{n}" for n in range(64)}
        assert len(stub.prompts) <= 64 + 8, "only what was on its way is asked again"
        usage = ended.report["usage"]
        assert usage["calls"] == len(stub.prompts) - len(before)
        assert usage["calls"] + usage["cached"] == 64
    kept = b"".join(path.read_bytes() for path in bench.root.rglob("*.json*") if path.is_file())
    assert b"dapi-very-secret" not in kept


def test_cancelled_in_the_midst(bench: Bench, shared: Any, spark: Any) -> None:
    with serving(echo, latency_s=0.3) as stub:
        bench.env = {
            "SPARK_REMOTE": shared[1],
            "DATABRICKS_HOST": stub.url,
            "DATABRICKS_TOKEN": "dapi-very-secret",
        }
        keep_session(bench)
        bench.publish(_PROGRAM, models=access(concurrency=8))
        process = bench.start()
        eventually(lambda: len(stub.asked) > 24)
        stub.latency_s = 5.0  # what is asked from now on is not done before the end arrives
        process.send_signal(signal.SIGTERM)
        ended = bench.wait(process)
        assert ended.report["status"] == "CANCELLED", ended.err
        eventually(lambda: stub.busy == 0)
        stub.latency_s = 0.0
        asked = len(stub.asked)
        assert asked < 64, "the query ended, too"
        calls = ended.report["usage"]["calls"]
        assert stub.billed[0] <= calls <= 64, "what nobody reported counts as asked"
        bench.attempt = 2
        bench.publish(_PROGRAM, models=access(concurrency=8))
        assert bench.again().report["value"] == 64
        assert len(stub.asked) <= 64 + 8
