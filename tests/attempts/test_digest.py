from __future__ import annotations

from typing import Any

from databricks_rlm_agent.attempts.result import Result, digest
from databricks_rlm_agent.runs.capsule.capsule import DIGEST_CHARS
from executor_harness import protocol
from executor_harness.protocol import ChildTask, KeptVariables, Stream, VariableNote, VariablesRef

REF = VariablesRef(path="/Volumes/x", sha256="0" * 64, iter_n=2)


def a_result(**fields: Any) -> Result:
    return Result(**({"run_id": "r1", "iter_n": 2, "attempt": 1, "status": "SUCCESS"} | fields))


def test_model_calls_variables_and_children_are_told() -> None:
    notes = [VariableNote(name="a", type="list", size="3 items"), VariableNote(name="b", type="int")]
    result = a_result(
        usage=protocol.Usage(calls=12, input_tokens=3_400, output_tokens=900, cost_usd=0.0125, cached=3),
        variables=KeptVariables(ref=REF, count=5, shown=notes),
        spawned=[ChildTask(name="jfk", task="t"), ChildTask(name="lga", task="t")],
    )
    lines = digest(result, purpose="p").digest.splitlines()
    assert lines[1:] == [
        "Model calls: 12 paid, 3 answered from the cache, 3,400 tokens in, 900 out, $0.0125",
        "Saved variables: a (list, 3 items), b (int) and 3 more",
        "Child runs asked for: jfk, lga",
    ]


def test_a_program_that_failed_has_kept_nothing() -> None:
    result = a_result(
        status="FAILED",
        error_type="KeyError",
        error_summary="'x'",
        variables=KeptVariables(ref=REF, count=1, shown=[VariableNote(name="a", type="int")]),
        usage=protocol.Usage(),
        log=["the variables are those of iteration 1; changes to a were not kept"],
    )
    text = digest(result, purpose="p").digest
    assert "Saved variables" not in text
    assert "Model calls" not in text
    assert "changes to a were not kept" in text


def test_the_streams_take_what_room_there_is_and_no_more() -> None:
    long = Stream(path="/Volumes/o", bytes=60_000, head="h" * 4_000, tail="t" * 4_000)
    one = digest(a_result(stdout=long), purpose="p").digest
    both = digest(a_result(stdout=long, stderr=long), purpose="p").digest
    for text in (one, both):
        assert DIGEST_CHARS - 20 <= len(text) <= DIGEST_CHARS
    assert one.endswith("ttt")
    assert both.count("(60,000 bytes, all of it in /Volumes/o):") == 2


def test_failures_of_the_same_kind_have_one_key_though_numbers_differ() -> None:
    def key(**fields: Any) -> str:
        (item,) = digest(a_result(status="FAILED", **fields), purpose=f"p{len(fields)}").failed_approaches
        assert not isinstance(item, str)
        return item.key

    one = key(error_type="E", error_summary="line 3, at 0x7fe1: no column a")
    assert one == key(error_type="E", error_summary="line 14, at 0x1234: no column a", iter_n=3)
    assert one != key(error_type="E", error_summary="line 3, at 0x7fe1: no column b")
    assert one != key(error_type="F", error_summary="line 3, at 0x7fe1: no column a")


def test_every_item_says_where_it_is_from() -> None:
    delta = digest(a_result(), purpose="load the data")
    (item,) = delta.decisions
    assert not isinstance(item, str)
    assert (item.text, item.iter_n, item.by, item.count) == ("load the data", 2, "facts", 1)
