"""Answers in the calls table: found by other runs, brought in once, whatever they contain."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_support import create_schema
from hypothesis import given
from hypothesis import strategies as st
from llm_support import CREATE, TABLE, Said, calls_of, run_folder, serving

from executor_harness.rlm import answers
from executor_harness.rlm.journal import Record


@pytest.fixture(scope="module")
def spark(sail: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from pyspark.sql.connect.session import SparkSession

    session = SparkSession.builder.remote(f"{sail};session_id={uuid.uuid4()}").create()
    create_schema(session, "main.rlm", tmp_path_factory.mktemp("warehouse"))
    session.sql(CREATE).collect()
    yield session
    session.client.close()


@pytest.fixture
def table(spark: Any) -> Any:
    spark.sql(f"DELETE FROM {TABLE}").collect()
    return spark


class Counting:
    """A session that keeps the statements it was given."""

    def __init__(self, spark: Any) -> None:
        self.spark = spark
        self.texts: list[str] = []

    def sql(self, text: str) -> Any:
        self.texts.append(text)
        return self.spark.sql(text)

    def __call__(self) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.spark, name)


ODD = ["'", "a\\b", "${x} -- ; /*", "\n\t", "ünï", "日本", "\U0001f600", '"', " ", "NULL", "$1"]


def test_another_run_finds_the_answers(table: Any, tmp_path: Path) -> None:
    session = Counting(table)
    with serving() as stub:
        first = calls_of(tmp_path, stub, session=session)
        assert first.query_batched(ODD) == [f"re: {prompt}" for prompt in ODD]
        assert first.close() == []
        assert len([text for text in session.texts if text.startswith("SELECT")]) == 1
        assert len([text for text in session.texts if text.startswith("MERGE")]) == 1
        assert not list(run_folder(tmp_path).glob("calls/*")), "they are in the table now"

        other = calls_of(tmp_path, stub, run_id="r2", session=session)
        assert other.query_batched(ODD) == [f"re: {prompt}" for prompt in ODD]
        assert len(stub.asked) == len(ODD)
        assert (other.usage().calls, other.usage().cached) == (0, len(ODD))
        assert other.close() == []
    row = table.sql(f"SELECT * FROM {TABLE} LIMIT 1").collect()[0].asDict()
    assert (row["run_id"], row["iter_n"], row["attempt"], row["model"]) == ("r1", 1, 1, "small")
    assert (row["input_tokens"], row["output_tokens"], row["error"]) == (10, 2, None)
    assert row["at"] is not None


def test_left_overs_are_brought_in_by_the_next_program(table: Any, tmp_path: Path) -> None:
    with serving() as stub:
        calls_of(tmp_path, stub).query_batched(["a", "b"])  # never closed: as if it was killed
        second = calls_of(tmp_path, stub, attempt=2, session=lambda: table)
        assert second.query_batched(["a", "b", "c"]) == ["re: a", "re: b", "re: c"]
        assert second.close() == []
        assert len(stub.asked) == 3
    assert table.sql(f"SELECT count(*) FROM {TABLE}").collect()[0][0] == 3
    assert not list(run_folder(tmp_path).glob("calls/*"))


def test_bringing_in_twice_adds_nothing(table: Any, tmp_path: Path) -> None:
    with serving() as stub:
        calls = calls_of(tmp_path, stub, session=lambda: table)
        calls.query_batched(["a", "b"])
        kept = {file: file.read_bytes() for file in run_folder(tmp_path).glob("calls/*")}
        assert kept
        calls.close()
        for file, data in kept.items():  # killed between the table and the removal
            file.write_bytes(data)
        again = calls_of(tmp_path, stub, iter_n=2, session=lambda: table)
        again.query("a")
        assert again.close() == []
    assert table.sql(f"SELECT count(*) FROM {TABLE}").collect()[0][0] == 2


def test_failures_are_not_kept(table: Any, tmp_path: Path) -> None:
    with serving(lambda prompt, before: Said(status=400, text="no", tokens=None)) as stub:
        calls = calls_of(tmp_path, stub, session=lambda: table)
        calls.query_batched(["a"])
        assert calls.close() == []
    assert table.sql(f"SELECT count(*) FROM {TABLE}").collect()[0][0] == 0


def test_a_table_that_is_not_there_is_said_once_and_costs_no_answer(spark: Any, tmp_path: Path) -> None:
    with serving() as stub:
        calls = calls_of(tmp_path, stub, session=lambda: spark, calls_table="main.rlm.nowhere")
        assert calls.query("a") == "re: a"
        assert calls.query("b") == "re: b"
        notes = calls.close()
    assert len(notes) == 2, notes
    assert "could not be looked up" in notes[0]
    assert "2 answers of models are not in" in notes[1]
    assert list(run_folder(tmp_path).glob("calls/*")), "nothing is lost"


def test_a_look_up_is_one_statement_and_not_repeated(table: Any, tmp_path: Path) -> None:
    session = Counting(table)
    with serving() as stub:
        calls = calls_of(tmp_path, stub, session=session)
        calls.query_batched([f"p{n}" for n in range(500)])
        calls.query_batched([f"p{n}" for n in range(500)])
        assert len(session.texts) == 1
        calls.close()


def record(n: int, answer: str) -> Record:
    return {
        "call_key": f"{n:064x}",
        "run_id": "r",
        "iter_n": 1,
        "attempt": 1,
        "model": "m",
        "answer": answer,
        "error": None,
        "input_tokens": 1,
        "output_tokens": 1,
        "cost_usd": 1e-07,
        "seconds": 0.5,
        "at": "2026-01-01T00:00:00.000Z",
    }


@given(st.lists(st.integers(0, 9), max_size=40))
def test_what_goes_to_the_engine_at_once_is_bounded(sizes: list[int]) -> None:
    records = [record(n, "x" * size) for n, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(answers, "_ROWS", 5)
        patched.setattr(answers, "_CHARS", 12)
        parts = list(answers.parts_of(records))
    assert [one for part in parts for one in part] == records
    assert all(0 < len(part) <= 5 for part in parts)
    assert all(len(part) == 1 or sum(len(one["answer"]) for one in part) <= 12 for part in parts)


def test_answers_of_any_content_and_size(table: Any) -> None:
    odd = [*ODD, "lone \ud800", "", "x" * 3_000_000]
    records = [record(n, text) for n, text in enumerate(odd)]
    answers.append(table, TABLE, records)
    answers.append(table, TABLE, records)
    rows = table.sql(f"SELECT call_key, answer, cost_usd, at FROM {TABLE} ORDER BY call_key").collect()
    assert [row[1] for row in rows] == [text.replace("\ud800", "?") for text in odd]
    assert {(row[2], row[3].isoformat()) for row in rows} == {(1e-07, "2026-01-01T00:00:00")}
