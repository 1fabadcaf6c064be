"""The pure parts: when a loop ends, what an earlier run leaves, what an error means, the critical path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlflow_rig import Clock, plan, step

from databricks_rlm_agent.errors import (
    Conflict,
    Forbidden,
    NeverReached,
    NotFound,
    Rejected,
    RlmError,
    Throttled,
    Unreachable,
)
from databricks_rlm_agent.sqlflow.run.outcome import LoopEnd, Measure, critical_path
from databricks_rlm_agent.sqlflow.run.record import DONE, STALE, VOID, StepRow
from databricks_rlm_agent.sqlflow.run.resume import resume_state
from databricks_rlm_agent.sqlflow.run.steps import judge_loop
from databricks_rlm_agent.sqltext.errors import Cause, Severity, classify

AT = Clock()()
measures = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, 3)), st.one_of(st.none(), st.sampled_from("abcdef"))),
    max_size=8,
)


@given(measures, st.integers(1, 8))
def test_a_loop_ends_for_one_reason_and_always(seen: list[tuple[int | None, str | None]], limit: int) -> None:
    history = [Measure(n=n, changed=c, rows=1, fingerprint=f) for n, (c, f) in enumerate(seen, start=1)]
    verdict = judge_loop(history, limit=limit)
    assert (verdict.end is LoopEnd.CONVERGED) == bool(history and history[-1].changed == 0)
    if len(history) >= limit:
        assert verdict.end is not None
    if verdict.end is LoopEnd.OSCILLATING:
        assert history[-1].fingerprint in [measure.fingerprint for measure in history[:-1]]


CHAIN = plan(
    *(step(f"0{n}_s.sql", f"SELECT {n}", *([f"0{n - 1}_s.sql"] if n > 1 else [])) for n in range(1, 5))
)
NAMES = [each.id for each in CHAIN.steps]
rows = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from([DONE, "failed", VOID, STALE]), st.booleans()),
    max_size=12,
)


@given(rows)
def test_what_is_kept_is_done_with_its_text_and_so_is_all_before_it(
    seen: list[tuple[str, str, bool]],
) -> None:
    hashes = {each.id: each.file.sha256 for each in CHAIN.steps if each.file}
    made = [
        StepRow(
            step=name,
            status=status,
            file=name,
            sha256=hashes[name] if same else "other",
            started_at=AT,
            finished_at=AT,
        )
        for name, status, same in seen
    ]
    left = resume_state(CHAIN, made)
    kept = [name for name in NAMES if name in left.kept]
    assert kept == NAMES[: len(kept)]
    for name in kept:
        last = [row for row in made if row.step == name][-1]
        assert (last.status, last.sha256) == (DONE, hashes[name])
    # once that is on record, nothing else can count again
    more = [
        StepRow(step=name, iteration=n, status=s, file=name, sha256="", started_at=AT, finished_at=AT)
        for name, n, s in left.void
    ]
    again = resume_state(CHAIN, [*made, *more])
    assert (again.kept, again.void) == (left.kept, ())


@pytest.mark.parametrize(
    ("error", "kind", "severity"),
    [
        (Conflict("[DELTA_CONCURRENT_APPEND] x"), Cause.CONCURRENCY, Severity.TRANSIENT),
        (Throttled("slow"), Cause.RESOURCE, Severity.TRANSIENT),
        (Unreachable("gone"), Cause.CONNECTION, Severity.TRANSIENT),
        (NeverReached("where"), Cause.CONNECTION, Severity.CRITICAL),
        (Forbidden("[PERMISSION_DENIED] x"), Cause.PERMISSION, Severity.CRITICAL),
        (NotFound("[TABLE_OR_VIEW_NOT_FOUND] x"), Cause.MISSING, Severity.CRITICAL),
        (Rejected("[PARSE_SYNTAX_ERROR] near 'PERMISSION_DENIED'"), Cause.SYNTAX, Severity.CRITICAL),
        (Rejected("[RESOURCE_EXHAUSTED] memory"), Cause.RESOURCE, Severity.TRANSIENT),
        (Rejected("[DIVIDE_BY_ZERO] x"), Cause.DATA, Severity.CRITICAL),
        (Rejected("[SOMETHING_NEW] x"), Cause.STATEMENT, Severity.CRITICAL),
    ],
)
def test_what_an_error_means(error: RlmError, kind: Cause, severity: Severity) -> None:
    problem = classify(error, file="a.sql", line=3, statement="SELECT 1")
    assert (problem.kind, problem.severity, problem.where) == (kind, severity, "a.sql:3")
    assert problem.hint


def test_dropping_what_is_not_there_and_upkeep_are_warnings() -> None:
    gone = classify(NotFound("[TABLE_OR_VIEW_NOT_FOUND] x"), statement="drop table x")
    assert gone.severity is Severity.WARNING
    assert classify(Rejected("no"), statement="OPTIMIZE x").severity is Severity.WARNING


def test_the_critical_path_goes_through_the_slowest_of_every_stage() -> None:
    made = plan(
        step("01_a", "SELECT 1"),
        step("01_b", "SELECT 1", "01_a"),
        step("01_c", "SELECT 1"),
        step("02_d", "SELECT 1", "01_c"),
    )
    seconds = {"01_a": 2.0, "01_b": 2.0, "01_c": 3.0, "02_d": 1.0}
    assert critical_path(made, seconds) == (("01_a", "01_b", "02_d"), 5.0)
