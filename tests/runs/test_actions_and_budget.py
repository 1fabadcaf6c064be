from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.errors import InvalidData, UsageError
from databricks_rlm_agent.runs.actions import (
    MAX_CODE_BYTES,
    MAX_TEXT_CHARS,
    MAX_TIMEOUT_S,
    check_python,
    check_text,
    check_timeout,
)
from databricks_rlm_agent.runs.budget import PLAN_CALLS, Budget, Usage
from databricks_rlm_agent.runs.fsm import TERMINAL, Event, State
from databricks_rlm_agent.runs.run import RunOutcome, new_run
from executor_harness.protocol import compiled

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("x = (", "does not compile: line 1"),
        ("def f(:\n  pass", "does not compile: line 1"),
        ("a\0b", "does not compile"),
        ("x = '\ud800'", "does not compile"),
        ("(" * 5_000 + ")" * 5_000, "does not compile"),
        ("#" * (MAX_CODE_BYTES + 1), f"the limit is {MAX_CODE_BYTES:,}"),
        ("#" + "ü" * (MAX_CODE_BYTES // 2), "bytes; the limit"),
    ],
    ids=lambda value: value[:20].encode("ascii", "replace").decode() if isinstance(value, str) else None,
)
def test_a_program_that_cannot_be_published(code: str, reason: str) -> None:
    with pytest.raises(InvalidData, match=reason):
        check_python(code)


@pytest.mark.fault("A11")
@pytest.mark.parametrize(
    ("code", "reason", "fix"),
    [
        ("import asyncio\nawait asyncio.sleep(0)", r"line 2: 'await' outside function", r"call asyncio\.run"),
        ("async with a: pass", r"line 1: 'async with' outside async function", r"call asyncio\.run"),
        ("x = [y async for y in z]", "line 1: asynchronous comprehension outside", r"call asyncio\.run"),
        ("if 1:\n  return 3", "line 2: 'return' outside function", r"rlm\.finish"),
        ("x = 1\nbreak", "line 2: 'break' outside loop", "Correct it"),
        ("def f():\n  global x\n  nonlocal y", "line 3: no binding for nonlocal 'y'", "Correct it"),
        ("x = 1\nfrom __future__ import annotations", "line 2: from __future__ imports", "Correct it"),
        ("# coding: nonsense\n1", "unknown encoding: nonsense", "Correct it"),
        ("# coding: ascii\nx = '\u00fc'", "ordinal not in range", "Correct it"),
        ("x = 1\0", "null byte", "Correct it"),
        ("x = '\udce9'", "surrogates not allowed", "Correct it"),
    ],
)
def test_what_the_harness_could_not_compile_costs_no_job(code: str, reason: str, fix: str) -> None:
    with pytest.raises(InvalidData, match=reason) as refused:
        check_python(code)
    assert refused.value.fix is not None
    assert re.search(fix, refused.value.fix)
    with pytest.raises((SyntaxError, ValueError)):
        compiled(code.encode("utf-8"), "entrypoint.py")


@pytest.mark.fault("A11")
def test_the_caller_s_future_imports_do_not_reach_the_program() -> None:
    namespace: dict[str, Any] = {}
    code = check_python("# coding: latin-1\ndef f(x: int) -> str: ...\nnot_ascii = '\u00fc'")
    exec(compiled(code.encode(), "m"), namespace)
    assert namespace["f"].__annotations__ == {"x": int, "return": str}
    assert namespace["not_ascii"] == "\u00c3\u00bc", "as Python reads a file with that first line"


@pytest.mark.parametrize(
    "code", ["1", "#" * MAX_CODE_BYTES, "print('ü')", "async def f(): await g()"], ids=len
)
def test_a_program_that_can(code: str) -> None:
    assert check_python(code) == code


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@given(st.text(st.characters(), max_size=80))
def test_any_text_is_a_program_or_invalid_data(code: str) -> None:
    with contextlib.suppress(InvalidData):
        check_python(code).encode()


@given(st.none() | st.integers())
def test_timeouts(timeout: int | None) -> None:
    if timeout is None or 1 <= timeout <= MAX_TIMEOUT_S:
        assert check_timeout(timeout) == timeout
    else:
        with pytest.raises(InvalidData, match="timeout_s"):
            check_timeout(timeout)


@pytest.mark.parametrize(
    "value", ["", "  ", "x" * (MAX_TEXT_CHARS + 1), "a\udcff"], ids=["", " ", "long", "half"]
)
def test_texts_that_are_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidData, match="question"):
        check_text(value, name="question")


def test_texts_that_are_taken() -> None:
    assert check_text("x" * MAX_TEXT_CHARS, name="answer") == "x" * MAX_TEXT_CHARS


def test_the_budget_names_what_is_used_up() -> None:
    budget = Budget(
        max_iterations=3,
        max_model_calls=5,
        max_tokens=1_000,
        max_cost_usd=0.5,
        max_executor_s=60,
        max_wall_s=100,
    )
    assert budget.exhausted(3, age_s=0) is None
    assert "3 iterations" in str(budget.exhausted(4, age_s=0))
    assert "5 model calls" in str(budget.spend(Usage(calls=5)).exhausted(1, age_s=0))
    assert "1,000 tokens" in str(
        budget.spend(Usage(input_tokens=600, output_tokens=400)).exhausted(1, age_s=0)
    )
    assert "0.5 US dollars" in str(budget.spend(Usage(cost_usd=0.51)).exhausted(1, age_s=0))
    assert "60 seconds of job runs" in str(budget.executed(59.5).exhausted(1, age_s=0))
    assert "100 seconds" in str(budget.exhausted(1, age_s=100))
    assert budget.spend(Usage(calls=4, input_tokens=999)).exhausted(1, age_s=98) is None


def test_a_claim_may_make_a_bounded_number_of_calls() -> None:
    budget = Budget(max_model_calls=30)
    assert budget.for_plan(used=0).calls_left == PLAN_CALLS
    spent = budget.spend(Usage(calls=3))
    assert spent.for_plan(used=3).calls_left == PLAN_CALLS - 3
    assert spent.spend(Usage(calls=26)).for_plan(used=0).calls_left == 1


def test_the_claims_since_the_last_save_have_not_reported() -> None:
    assert list(Budget().unreported(5)) == []  # a row of an earlier version does not tell
    budget = Budget().reported(3)
    assert list(budget.unreported(4)) == []
    assert list(budget.unreported(7)) == [4, 5, 6]


def test_a_plan_that_is_found_replaces_what_was_known_by_the_record() -> None:
    known = Usage(calls=2, input_tokens=10, cost_usd=0.25)
    budget = Budget().spend(Usage(calls=1)).spend(known)
    plan = Usage(calls=2, input_tokens=12, output_tokens=5, cost_usd=0.5)
    assert budget.adopt(plan, known=known).usage == Usage(calls=1) + plan


def test_a_programs_time_is_reserved_and_bounded_by_what_is_left() -> None:
    budget = Budget(max_executor_s=100, max_wall_s=1_000)
    assert budget.granted_s(60, age_s=0) == 60
    running = budget.starting(60)
    assert running.executor_left_s == 40
    assert running.executed(12.5).granted_s(90, age_s=0) == 87
    assert budget.granted_s(90, age_s=950) == 50


@given(st.lists(st.builds(Usage, calls=st.integers(0, 9), input_tokens=st.integers(0, 10**6)), max_size=6))
def test_spending_adds_up_and_changes_no_limit(spent: list[Usage]) -> None:
    budget = Budget()
    for usage in spent:
        budget = budget.spend(usage)
    assert budget.usage == sum(spent, Usage())
    assert budget.model_copy(update={"usage": Usage()}) == Budget()


def test_nothing_changes_a_run_that_has_ended() -> None:
    run = new_run("x", run_id="r1", clock=lambda: NOW)
    done = run.after(Event.CLAIM).after(Event.FINISH, outcome=RunOutcome(answer="42"))
    for event in Event:
        assert done.after(event, iter_n=9, outcome=RunOutcome(answer="43")) == done
    assert done.fsm_state in TERMINAL
    assert run.after(Event.CANCEL).fsm_state is State.CANCELLED


@pytest.mark.parametrize(
    ("task", "inputs", "reason"),
    [
        ("", {}, "empty"),
        (" \n", {}, "empty"),
        ("x" * 4_001, {}, "4,001 characters"),
        ("\udcff", {}, "not valid UTF-8"),
        ("x", {"a": "\udcff"}, "not valid UTF-8"),
        ("x", {"a": "y" * 20_000}, "more than 20,000"),
    ],
    ids=["empty", "blank", "long", "bytes", "bytes in an input", "long input"],
)
def test_a_task_that_cannot_be_a_run(task: str, inputs: dict[str, str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        new_run(task, run_id="r1", clock=lambda: NOW, inputs=inputs)


def test_a_run_needs_a_valid_id() -> None:
    with pytest.raises(UsageError, match="run id"):
        new_run("x", run_id="R/1", clock=lambda: NOW)
