"""When silent job runs are asked about: never too late, never too often, never all at once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.storage.poll_schedule import DOUBLINGS, EVERY, SPREAD, looks, should_look, spread

AGES = st.floats(0, 10**6)
FIRSTS = st.floats(0.1, 60)
IDS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,12}", fullmatch=True)


@given(AGES, AGES, FIRSTS)
def test_the_number_of_looks_never_falls(one: float, other: float, first_s: float) -> None:
    young, old = sorted((one, other))
    assert looks(young, first_s=first_s) <= looks(old, first_s=first_s)


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [(0, 0), (9.9, 0), (10, 1), (19.9, 1), (20, 2), (40, 3), (80, 4), (160, 5), (320, 6), (619, 6), (620, 7)],
)
def test_looks_by_age(age_s: float, expected: int) -> None:
    assert looks(age_s, first_s=10) == expected


@given(IDS)
def test_the_spread_is_bounded_and_always_the_same(run_id: str) -> None:
    assert 1 <= spread(run_id) < 1 + SPREAD
    assert spread(run_id) == spread(run_id)


def test_runs_that_began_together_are_not_asked_together() -> None:
    first = [10 / spread(f"run-{number}") for number in range(1_000)]
    assert max(first) - min(first) > 1.5
    busiest = max(sum(start <= age < start + 0.1 for age in first) for start in first)
    assert busiest < 150  # of 1,000, within a tenth of a second


TICKS = st.lists(st.floats(0.01, 200), min_size=1, max_size=60)


@given(IDS, FIRSTS, TICKS)
def test_no_look_is_missed_whatever_the_gaps_between_ticks(
    run_id: str, first_s: float, gaps: list[float]
) -> None:
    """The looks that ticks see are those that fell due, none twice and none left out."""
    ages = [0.0]
    for gap in gaps:
        ages.append(ages[-1] + gap)
    for before, now in pairwise(ages):
        due = looks(now * spread(run_id), first_s=first_s) - looks(before * spread(run_id), first_s=first_s)
        assert should_look(run_id, age_s=now, gap_s=now - before, first_s=first_s) == (due > 0) or (
            _at_an_edge(run_id, before, first_s)
        )


@given(IDS, FIRSTS, TICKS, st.data())
def test_two_controllers_that_tick_in_turn_miss_none_either(
    run_id: str, first_s: float, gaps: list[float], data: st.DataObject
) -> None:
    now, last, asked = 0.0, [0.0, 0.0], 0
    for gap in gaps:
        now += gap
        which = data.draw(st.integers(0, 1))
        asked += should_look(run_id, age_s=now, gap_s=now - last[which], first_s=first_s)
        last[which] = now
    # Since the last tick of either, all that fell due was seen by it or by the other.
    due = looks(max(last) * spread(run_id), first_s=first_s)
    assert (asked > 0) == (due > 0)


@given(IDS, FIRSTS, st.floats(0, 10**5), st.integers(1, 400))
def test_there_are_few_looks_however_often_one_ticks(
    run_id: str, first_s: float, start_s: float, ticks: int
) -> None:
    every = first_s * EVERY / 40
    ages = [start_s + every * number for number in range(ticks + 1)]
    asked = sum(should_look(run_id, age_s=age, gap_s=every, first_s=first_s) for age in ages[1:])
    span = every * ticks * (1 + SPREAD)
    assert asked <= 1 + DOUBLINGS + 1 + span / (EVERY * first_s)


@given(IDS, FIRSTS, AGES, st.floats(0, 100))
def test_a_wider_gap_never_hides_a_look(run_id: str, first_s: float, age_s: float, gap_s: float) -> None:
    narrow, wide, ever = (
        should_look(run_id, age_s=age_s, gap_s=gap, first_s=first_s) for gap in (gap_s, gap_s + 1, 1e12)
    )
    assert narrow <= wide <= ever
    assert ever == (looks(age_s * spread(run_id), first_s=first_s) > 0)


def _at_an_edge(run_id: str, age_s: float, first_s: float) -> bool:
    """Whether floating point may see an age on the other side of a look: that is what the overlap is for."""
    scaled = age_s * spread(run_id)
    return looks(scaled * (1 - 1e-9), first_s=first_s) != looks(scaled * (1 + 1e-9) + 1e-9, first_s=first_s)
