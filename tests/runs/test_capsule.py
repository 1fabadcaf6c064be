from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.runs.capsule.capsule import (
    CAPSULE_CHARS,
    MAX_ANSWERS,
    MAX_ITEMS,
    MAX_TABLES,
    AnswerNote,
    Capsule,
    CapsuleDelta,
    TableNote,
)
from databricks_rlm_agent.runs.capsule.packing import CapsuleItem
from databricks_rlm_agent.runs.checks import Check
from databricks_rlm_agent.values import storable
from executor_harness.protocol import KeptVariables, VariableNote, VariablesRef

LONG = st.builds(lambda text, times: text * times, st.text(st.characters(), max_size=60), st.integers(1, 400))
ITEM = st.builds(
    CapsuleItem, text=LONG, iter_n=st.integers(1, 9), by=st.sampled_from(["facts", "summarizer"]), kind=LONG
)
ITEMS = st.lists(st.one_of(LONG, ITEM), max_size=30)
TABLES = st.lists(
    st.builds(TableNote, name=LONG, columns=LONG, rows=st.integers(0, 2**63), note=LONG, made=st.booleans()),
    max_size=20,
)
DELTAS = st.builds(
    CapsuleDelta, digest=LONG, decisions=ITEMS, failed_approaches=ITEMS, tables=TABLES, artifacts=ITEMS
)
REF = VariablesRef(path="/Volumes/a/b/c/variables.json", sha256="0" * 64, iter_n=1)
VARIABLES = st.builds(
    KeptVariables,
    ref=st.just(REF),
    count=st.just(200),
    shown=st.lists(st.builds(VariableNote, name=LONG, type=LONG, size=LONG), max_size=40),
)
ANSWERS = st.lists(
    st.builds(
        AnswerNote,
        name=st.from_regex(r"[a-z]{1,32}", fullmatch=True),
        run_id=st.just("r" * 64),
        state=st.just("SUCCEEDED"),
        path=st.sampled_from(["/Volumes/" + "p" * 150, ""]),
        says=LONG,
    ),
    max_size=16,
)
NOTES = st.dictionaries(LONG, LONG, max_size=30)
STEPS = st.lists(st.one_of(DELTAS, LONG, VARIABLES, ANSWERS, NOTES), max_size=8)


def size(capsule: Capsule) -> int:
    return len(capsule.model_dump_json(exclude={"objective", "inputs"}))


def after(capsule: Capsule, step: object) -> Capsule:
    match step:
        case str():
            return capsule.with_constraint(step)
        case CapsuleDelta():
            return capsule.fold(step)
        case KeptVariables():
            return capsule.with_variables(step)
        case dict():
            return capsule.with_input_notes(step)
        case list():
            return capsule.with_answers(step)
    raise AssertionError(step)


@settings(max_examples=60)
@given(LONG, STEPS, st.sampled_from([0, 16]))
def test_the_bound_holds_for_ever_and_the_capsule_can_always_be_stored(
    objective: str, steps: list[object], checks: int
) -> None:
    capsule = Capsule.begin(objective).model_copy(
        update={"checks": [Check(kind="sql", sql="SELECT '\"' = \n" * 35)] * checks}
    )
    for step in steps:
        capsule = after(capsule, step)
        assert size(capsule) <= CAPSULE_CHARS
        assert len(capsule.checks) == checks
        assert Capsule.parse(capsule.model_dump_json()) == capsule


def test_a_thousand_full_iterations_stay_within_the_bound() -> None:
    capsule = Capsule.begin("x").with_input_notes({f"input{n}": "i" * 600 for n in range(16)})
    sizes = []
    for n in range(1, 1_001):
        capsule = capsule.with_constraint(f"rule {n}: " + '"c"' * 300).fold(
            CapsuleDelta(
                digest='{"printed": "x"}\n' * 400,
                decisions=[CapsuleItem.of(f"decided {n} {'d' * 300}", iter_n=n, by="summarizer")],
                failed_approaches=[CapsuleItem.of(f"way {n} {'f' * 300}", iter_n=n, kind=f"E{n}")],
                tables=[TableNote(name=f"main.rlm.t{n}", columns="c string, " * 90, iter_n=n)],
                artifacts=[CapsuleItem.of(f"/Volumes/a/b/c/{n}", iter_n=n)],
            )
        )
        sizes.append(size(capsule))
    assert max(sizes) <= CAPSULE_CHARS
    assert sizes[-1] <= sizes[50] + 200  # the digits of counts and iterations
    # Whoever was the first to say something, and the last, is still heard; the rest is counted.
    assert capsule.constraints[0].startswith("rule 1:")
    assert capsule.constraints[-1].startswith("rule 1000:")
    assert capsule.earlier["constraints"].count + len(capsule.constraints) == 1_000
    assert capsule.earlier["decisions"].count + len(capsule.decisions) == 1_000
    assert capsule.earlier["decisions"].until is not None
    assert capsule.decisions[-1].iter_n == capsule.tables[-1].iter_n == 1_000
    assert set(capsule.input_notes) == {f"input{n}" for n in range(16)}


@given(st.lists(st.lists(st.integers(0, 99).map(str), max_size=15), min_size=1, max_size=10))
def test_the_newest_win_and_nothing_is_forgotten_uncounted(batches: list[list[str]]) -> None:
    capsule = Capsule.begin("x")
    for batch in batches:
        capsule = capsule.fold(CapsuleDelta(decisions=batch))
        kept = [item.text for item in capsule.decisions]
        assert len(kept) == len(set(kept)) <= MAX_ITEMS
        newest = list(dict.fromkeys(reversed(batch)))[:4]
        assert set(newest) <= set(kept)
    condensed = capsule.earlier["decisions"].count if "decisions" in capsule.earlier else 0
    assert sum(item.count for item in capsule.decisions) + condensed == sum(map(len, batches))
    assert capsule.dropped <= condensed


def test_constraints_outlast_decisions() -> None:
    capsule = Capsule.begin("x").with_constraint("only 2013")
    for n in range(200):
        capsule = capsule.fold(CapsuleDelta(decisions=[f"decision {n}"], digest="d" * 5_000))
    assert capsule.constraints == ["only 2013"]
    for n in range(40):
        capsule = capsule.with_constraint(f"rule {n}")
    assert capsule.constraints[:2] == ["only 2013", "rule 0"]
    assert capsule.constraints[-1] == "rule 39"
    assert capsule.earlier["constraints"].count == 41 - MAX_ITEMS
    assert "rule 30" in capsule.earlier["constraints"].heads


def test_a_repeated_constraint_is_kept_once_as_the_newest() -> None:
    capsule = Capsule.begin("x").with_constraint("a").with_constraint("b").with_constraint("a")
    assert capsule.constraints == ["b", "a"]


def test_the_same_decision_in_other_letters_is_one_with_a_count() -> None:
    capsule = Capsule.begin("x")
    for n, text in enumerate(["Use the table main.a.t.", "use table main.a.t", "Use table main.a.u"], 1):
        capsule = capsule.fold(CapsuleDelta(decisions=[CapsuleItem.of(text, iter_n=n)]))
    found = [(item.text, item.count, item.since, item.iter_n) for item in capsule.decisions]
    assert found == [("use table main.a.t", 2, 1, 2), ("Use table main.a.u", 1, 3, 3)]


def test_failures_of_one_kind_merge_before_any_is_forgotten() -> None:
    capsule = Capsule.begin("x")
    for n in range(1, 31):
        capsule = capsule.fold(
            CapsuleDelta(
                failed_approaches=[
                    CapsuleItem.of(f"column {n} is missing", iter_n=n, kind="AnalysisException")
                ]
            )
        )
    assert len(capsule.failed_approaches) == MAX_ITEMS
    assert sum(item.count for item in capsule.failed_approaches) == 30
    assert "failed_approaches" not in capsule.earlier
    assert capsule.failed_approaches[-1].text == "column 30 is missing"


def test_a_summarizers_items_outlast_facts() -> None:
    capsule = Capsule.begin("x").fold(
        CapsuleDelta(decisions=[CapsuleItem.of("an insight", iter_n=1, by="summarizer")])
    )
    for n in range(2, 40):
        capsule = capsule.fold(CapsuleDelta(decisions=[CapsuleItem.of(f"step {n}", iter_n=n)]))
    assert (capsule.decisions[0].text, capsule.decisions[0].by) == ("an insight", "summarizer")
    assert [item.iter_n for item in capsule.decisions[-4:]] == [36, 37, 38, 39]


def test_tables_that_were_made_outrank_those_that_were_read() -> None:
    capsule = Capsule.begin("x").fold(CapsuleDelta(tables=[TableNote(name="a.b.made")]))
    for n in range(60):
        capsule = capsule.fold(CapsuleDelta(tables=[TableNote(name=f"a.b.read{n}", made=False)]))
    names = [table.name for table in capsule.tables]
    assert names[0] == "a.b.made"
    assert len(names) == MAX_TABLES
    # What is used again stays, and a table that was made does not become one that was read.
    again = capsule.fold(CapsuleDelta(tables=[TableNote(name="a.b.made", made=False)]))
    assert (again.tables[-1].name, again.tables[-1].made) == ("a.b.made", True)


@given(st.lists(LONG, min_size=1, max_size=20))
def test_a_table_appears_once_with_the_newest_knowledge_last(names: list[str]) -> None:
    capsule = Capsule.begin("x")
    for rows, name in enumerate(names):
        capsule = capsule.fold(CapsuleDelta(tables=[TableNote(name=name, rows=rows)]))
    kept = [table.name for table in capsule.tables]
    assert len(kept) == len(set(kept)) <= MAX_TABLES
    assert capsule.tables[-1].rows == len(names) - 1


def test_the_last_result_is_replaced_and_instructions_outlive_folds() -> None:
    capsule = Capsule.begin("x").with_constraint("only 2013")
    capsule = capsule.fold(CapsuleDelta(digest="one")).fold(CapsuleDelta(digest="two"))
    assert (capsule.last_result, capsule.constraints) == ("two", ["only 2013"])


def an_answer(name: str, **changes: str) -> AnswerNote:
    return AnswerNote(name=name, run_id="r" * 64, **({"state": "SUCCEEDED", "path": "/Volumes/x"} | changes))


def test_children_that_are_waited_for_are_never_dropped() -> None:
    old = [an_answer(f"old{n}", says="o" * 600, path="/Volumes/" + "p" * 150) for n in range(16)]
    new = [an_answer(f"new{n}", path="", state="PENDING") for n in range(16)]
    capsule = Capsule.begin("x").with_answers(old).with_answers(new)
    capsule = capsule.with_input_notes({f"i{n}": "n" * 600 for n in range(16)}).fold(
        CapsuleDelta(digest="d" * 3_000)
    )
    assert [note.name for note in capsule.answers] == [f"new{n}" for n in range(16)]
    capsule = capsule.with_answers([an_answer("new3", says="seven")])
    assert len(capsule.answers) == MAX_ANSWERS
    assert capsule.answers[-1].says == "seven"


def test_variables_are_those_of_the_last_index() -> None:
    notes = [VariableNote(name=f"v{n}", type="list", size="3 items") for n in range(40)]
    capsule = Capsule.begin("x").with_variables(KeptVariables(ref=REF, count=90, shown=notes))
    assert capsule.variables is not None
    assert (capsule.variables.ref, capsule.variables.count) == (REF, 90)
    assert capsule.variables.shown == notes
    far = KeptVariables(ref=replace(REF, path="/" * 10_000), count=0)
    assert capsule.with_variables(far) == capsule


@given(
    st.one_of(st.text(), st.sampled_from(["{}", "null", "[]", '{"objective": 1}', '{"objective":"x"', "NaN"]))
)
def test_garbage_is_invalid_data_and_nothing_else(text: str) -> None:
    with pytest.raises(InvalidData):
        Capsule.parse(storable(text))


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert Capsule.parse('{"objective": "x", "mood": "good"}') == Capsule.begin("x")


def test_a_capsule_of_the_first_version_is_read() -> None:
    old = Capsule.parse(
        '{"capsule_version": 1, "objective": "x", "constraints": ["c"],'
        ' "decisions": ["Iteration 3: load", "so"],'
        ' "failed_approaches": ["Iteration 4 (load) failed: KeyError: 1"], "artifacts": ["/Volumes/a"],'
        ' "tables": [{"name": "a.b.c", "columns": "", "rows": 3, "note": ""}],'
        ' "last_result": "r", "dropped": 2}'
    )
    assert [(item.text, item.iter_n) for item in old.decisions] == [("load", 3), ("so", None)]
    assert old.failed_approaches[0].text == "(load) failed: KeyError: 1"
    assert (old.tables[0].made, old.artifacts[0].text, old.dropped) == (True, "/Volumes/a", 2)
    assert old.fold(CapsuleDelta(digest="new")).decisions == old.decisions
