from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.domain.capsule import MAX_ITEMS, Capsule, CapsuleDelta, TableNote
from databricks_rlm_agent.domain.text import storable
from databricks_rlm_agent.errors import InvalidData

LONG = st.builds(lambda text, times: text * times, st.text(st.characters(), max_size=60), st.integers(1, 400))
ITEMS = st.lists(LONG, max_size=30)
TABLES = st.lists(
    st.builds(TableNote, name=LONG, columns=LONG, rows=st.integers(0, 2**63), note=LONG), max_size=20
)
DELTAS = st.builds(
    CapsuleDelta, digest=LONG, decisions=ITEMS, failed_approaches=ITEMS, tables=TABLES, artifacts=ITEMS
)
STEPS = st.lists(st.one_of(DELTAS, LONG), max_size=8)
# Characters: objective 4,000, digest 3,000, 12 items of each list, names and numbers.
MAX_CHARS = 4_000 + 3_000 + MAX_ITEMS * (2 * 600 + 3 * 300 + 1_200) + 3_000


def characters(value: object) -> int:
    match value:
        case dict():
            return sum(len(key) + characters(item) for key, item in value.items())
        case list():
            return sum(map(characters, value))
        case _:
            return len(str(value))


def test_the_bound_holds_for_ever_and_the_capsule_can_always_be_stored() -> None:
    @given(LONG, STEPS)
    def check(objective: str, steps: list[CapsuleDelta | str]) -> None:
        capsule = Capsule.begin(objective)
        for step in steps:
            capsule = capsule.instructed(step) if isinstance(step, str) else capsule.fold(step)
            assert characters(capsule.model_dump()) <= MAX_CHARS
            assert Capsule.parse(capsule.model_dump_json()) == capsule

    check()


@given(st.lists(st.lists(st.integers(0, 99).map(str), max_size=15), min_size=1, max_size=10))
def test_the_newest_win_and_the_dropped_are_counted(batches: list[list[str]]) -> None:
    capsule = Capsule.begin("x")
    order: list[str] = []
    dropped = 0
    for batch in batches:
        capsule = capsule.fold(CapsuleDelta(decisions=batch))
        order = [item for item in order if item not in batch] + list(dict.fromkeys(batch))
        dropped += max(0, len(order) - MAX_ITEMS)
        order = order[-MAX_ITEMS:]
    assert capsule.decisions == order
    assert capsule.dropped == dropped


@given(st.lists(LONG, min_size=1, max_size=20))
def test_a_table_appears_once_with_the_newest_knowledge_last(names: list[str]) -> None:
    capsule = Capsule.begin("x")
    for rows, name in enumerate(names):
        capsule = capsule.fold(CapsuleDelta(tables=[TableNote(name=name, rows=rows)]))
    kept = [table.name for table in capsule.tables]
    assert len(kept) == len(set(kept)) <= MAX_ITEMS
    assert capsule.tables[-1].rows == len(names) - 1


def test_the_last_result_is_replaced_and_instructions_outlive_folds() -> None:
    capsule = Capsule.begin("x").instructed("only 2013")
    capsule = capsule.fold(CapsuleDelta(digest="one")).fold(CapsuleDelta(digest="two"))
    assert (capsule.last_result, capsule.constraints) == ("two", ["only 2013"])


@given(
    st.one_of(st.text(), st.sampled_from(["{}", "null", "[]", '{"objective": 1}', '{"objective":"x"', "NaN"]))
)
def test_garbage_is_invalid_data_and_nothing_else(text: str) -> None:
    with pytest.raises(InvalidData):
        Capsule.parse(storable(text))


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert Capsule.parse('{"objective": "x", "mood": "good"}') == Capsule.begin("x")
