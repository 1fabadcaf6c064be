"""The table of retries, and the page that shows it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from databricks_rlm_agent import errors
from databricks_rlm_agent.attempts import result
from databricks_rlm_agent.errors import Conflict, Forbidden, NeverReached, RemoteError, Throttled, Unreachable
from databricks_rlm_agent.retry import (
    MODELS,
    REQUESTS,
    SAVES,
    STATEMENTS,
    TABLE,
    WORKFLOWS,
    RetryAction,
    rule_of,
)

PAGE = Path(__file__).parents[2] / "docs" / "retries.md"


def section(name: str) -> list[str]:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE.read_text(encoding="utf-8"), re.S)
    assert found
    return found[1].splitlines()


def limits() -> list[str]:
    lines = ["", "| | sent at most | in | waits |", "|---|---|---|---|"]
    for policy in (REQUESTS, STATEMENTS, SAVES, MODELS, WORKFLOWS):
        elapsed = "any time" if policy.max_elapsed_s == math.inf else f"{policy.max_elapsed_s:g} s"
        waits = f"up to {policy.first_wait_s:g} s, doubling, at most {policy.max_wait_s:g} s"
        lines.append(f"| {policy.name} | {policy.attempts} times | {elapsed} | {waits} |")
    return lines


def jobs() -> list[str]:
    def codes(names: frozenset[str]) -> str:
        return ", ".join(f"`{name}`" for name in sorted(names))

    return [
        "| termination | new attempt |",
        "|---|---|",
        f"| {codes(result.RETRY_CODES)} | yes |",
        f"| {codes(result.ONCE_CODES)} | once |",
        f"| {codes(result.FINAL_CODES)}, `INVALID_…` | no |",
        f"| any other of type {codes(result.RETRY_TYPES)} | yes |",
        "| anything else, unknown codes too | no |",
    ]


def test_the_page_shows_the_table() -> None:
    title, _, *rest = section("table")
    rows = [line.strip("| ").split(" | ") for line in rest[: len(TABLE)]]
    assert title == "| what happened | error | REST request | SQL statement | if it stays so |"
    told = [(f"`{rule.error.__name__}`", str(rule.request), str(rule.statement)) for rule in TABLE]
    assert [(error, request, statement) for _, error, request, statement, _ in rows] == told
    assert all(cell for row in rows for cell in row)
    assert rest[len(TABLE) :] == limits()


def test_the_page_shows_which_job_runs_are_tried_again() -> None:
    assert section("jobs") == jobs()


def test_the_page_is_short() -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= 70


def test_every_answer_of_a_workspace_has_a_rule() -> None:
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, RemoteError) and kind is not RemoteError
    }
    assert {rule.error for rule in TABLE} == kinds
    assert len(TABLE) == len(kinds)


def test_the_nearest_rule_counts() -> None:
    for rule in TABLE:
        assert rule_of(rule.error("x")) is rule
    assert rule_of(ValueError("x")) is None


@pytest.mark.parametrize("policy", [REQUESTS, STATEMENTS], ids=lambda policy: policy.name)
def test_what_is_repeated_is_what_the_table_says(policy: object) -> None:
    assert isinstance(policy, type(REQUESTS))
    for rule in TABLE:
        again = policy.answer(rule) in {RetryAction.AGAIN, RetryAction.AGAIN_AFTER}
        waits: list[float] = []
        calls = 0

        def call(error: RemoteError) -> None:
            nonlocal calls
            calls += 1
            raise error

        with pytest.raises(rule.error):
            policy.retrying(waits.append)(call, rule.error("x"))
        assert calls == (policy.attempts if again else 1)
        assert len(waits) == calls - 1
        assert all(wait <= policy.max_wait_s for wait in waits)
    assert not policy.repeats(NeverReached("x"))
    assert not policy.repeats(Forbidden("x"))
    assert policy.repeats(Unreachable("x"))
    assert policy.repeats(Conflict("x")) == (policy is STATEMENTS)


@pytest.mark.parametrize(("asked", "waited"), [(None, 0.0), (2.0, 2.0), (14.0, 14.0), (3600.0, None)])
def test_retry_after_is_waited_for_within_reason(asked: float | None, waited: float | None) -> None:
    answers: list[Exception] = [Throttled("x", retry_after=asked)]
    waits: list[float] = []

    def call() -> str:
        if answers:
            raise answers.pop()
        return "done"

    if waited is None:
        with pytest.raises(Throttled):
            REQUESTS.retrying(waits.append)(call)
        assert waits == []
    else:
        assert REQUESTS.retrying(waits.append)(call) == "done"
        assert waits[0] >= waited
