"""The identity example: its generator, its proof, and the whole workflow once on the local workspace."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import networkx
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.sqlflow.handover import read_directory
from databricks_rlm_agent.sqlflow.plan.plan import plan_of
from databricks_rlm_agent.sqlflow.run.outcome import LoopEnd, RunStatus
from databricks_rlm_agent.sqlflow.run.workflow import run_workflow
from examples.identity_unification import proof
from examples.identity_unification.interrupting import differences, rows
from examples.identity_unification.landing import landing
from examples.identity_unification.people import LIMITS, NONE, PLACES, people
from examples.identity_unification.stage import CATALOG, FLOW, SCHEMA, variables, workspace
from examples.identity_unification.texts import clean, written


def test_the_workflow_finds_every_person(tmp_path: Path) -> None:
    delivered = landing(people(300))
    with workspace(tmp_path, delivered) as stage:
        remote = Workspace(host=stage.info.host, token=stage.info.token)
        engine = WarehouseEngine(remote, http_path=stage.info.http_path, catalog=CATALOG, schema=SCHEMA)
        report = run_workflow(FLOW, engine, catalog=CATALOG, schema=SCHEMA, variables=variables())
        found = proof.prove(stage.folder(), delivered.truth, delivered.edges)
        tables = rows(stage.folder())
    assert report.status is RunStatus.SUCCEEDED, report.next
    assert [step.end for step in report.steps if step.end] == [LoopEnd.CONVERGED]
    assert found.problems == ()
    assert found.edges == 300
    assert found.components == found.persons
    assert {"master_customers", "unify_loop_final", "unification_metadata"} <= tables.keys()
    assert list(differences(tables, tables)) == []


@given(edges=st.integers(200, 1_500), seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_records_of_a_person_hang_together_and_of_two_persons_do_not(edges: int, seed: int) -> None:
    made = people(edges, seed)
    assert made.edges == edges
    graph: Any = networkx.Graph()
    graph.add_nodes_from(range(len(made.person)))
    records, places = (made.places >= 0).nonzero()
    graph.add_edges_from(
        (record, ("identifier", number))
        for record, number in zip(records.tolist(), made.places[records, places].tolist(), strict=True)
    )
    owners = [
        {int(made.person[node]) for node in component if isinstance(node, int)}
        for component in networkx.connected_components(graph)
    ]
    assert sorted(map(sorted, owners)) == [[person] for person in range(made.persons)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_who_may_join_is_within_the_limits_and_who_may_not_is_beyond(seed: int) -> None:
    made = people(5_000, seed)
    for namespace, limit in enumerate(LIMITS):
        column = made.places[:, namespace]
        shared = Counter(column[column != NONE].tolist())
        assert all(shared[number] <= limit for number in shared if number >= 0)
        assert all(shared[number] > limit for number in shared if number < NONE)
        assert {PLACES[source][namespace] for source in made.source[column != NONE].tolist()} <= {1}
    assert (made.places < NONE).any()
    sizes = Counter(made.person.tolist()).values()
    assert max(sizes) >= 60
    assert 1 in sizes


def test_the_same_seed_gives_the_same_deliveries() -> None:
    one, other, third = landing(people(400)), landing(people(400)), landing(people(400, 1), 1)
    assert one.tables == other.tables
    assert one.truth == other.truth
    assert one.edges != third.edges


def test_too_few_edges_are_refused() -> None:
    with pytest.raises(ValueError, match="200 are the least"):
        people(199)


@given(namespace=st.sampled_from(range(4)), numbers=st.sets(st.integers(0, 10**7), min_size=2, max_size=2))
def test_different_identifiers_are_different_when_cleaned(namespace: int, numbers: set[int]) -> None:
    assert len({clean(namespace, number) for number in numbers}) == 2


@given(
    namespace=st.sampled_from(range(4)),
    number=st.integers(0, 10**6),
    chance=st.randoms(use_true_random=False),
)
def test_what_is_written_is_the_clean_form_in_disguise(namespace: int, number: int, chance: Any) -> None:
    text = written(namespace, number, chance)
    assert text is not None
    kept = {0: r"[+]news|\s", 1: r"[^0-9]|^\+49|^0049|^49|^0", 2: r"[^0-9a-f]", 3: r"[^0-9a-z]"}[namespace]
    bare = re.sub(kept, "", re.sub(kept, "", text.strip().lower(), count=1))
    assert bare == clean(namespace, number).removeprefix("49" if namespace == 1 else "").lower()


def tables(**columns: list[Any]) -> pa.Table:
    return pa.table(columns)


def test_the_proof_sees_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = tables(record_key=["a", "b", "c"], namespace=["email"] * 3, value=["x@y.z", "x@y.z", "z@y.x"])
    truth = tables(record_key=["a", "b", "c"], person=[0, 0, 1])
    ids = proof.canonical_ids(proof._pairs(edges), ["a", "b", "c"])
    nodes = sorted(ids)
    good = {
        "edges": edges,
        "identity_graph": tables(
            namespace=[n[0] for n in nodes], value=[n[1] for n in nodes], canonical_id=[ids[n] for n in nodes]
        ),
        "identity_lookup": tables(record_key=["a", "b", "c"], canonical_id=[ids["record", r] for r in "abc"]),
    }

    def problems(**changed: pa.Table) -> str:
        monkeypatch.setattr(proof, "read", lambda folder: {**good, **changed}[folder.name])
        return " ".join(proof.prove(Path(), truth, edges).problems)

    assert problems() == ""
    assert "1 persons share" in problems(
        identity_lookup=tables(record_key=["a", "b", "c"], canonical_id=["P"] * 3)
    )
    assert "who has another one" in problems(
        identity_lookup=tables(record_key=["a", "b", "c"], canonical_id=["P", "Q", "R"])
    )
    assert "2 rows for 3" in problems(identity_lookup=tables(record_key=["a", "b"], canonical_id=["P", "Q"]))
    wrong = good["identity_graph"].set_column(2, "canonical_id", pa.array(["P"] * 5))
    assert "another canonical id than by networkx" in problems(identity_graph=wrong)
    assert "1 are missing" in problems(edges=edges.slice(0, 2))


def test_the_files_are_as_generators_name_them_and_run_in_parallel_where_they_may() -> None:
    plan = plan_of(read_directory(FLOW, variables=variables(), catalog=CATALOG, schema=SCHEMA))
    assert len(list(FLOW.glob("*.sql"))) >= 20
    assert [step.loop is not None for step in plan.steps].count(True) == 1
    assert max(Counter(step.stage for step in plan.steps).values()) >= 4
    assert all("alone" not in notice for notice in plan.notices)


def test_the_picture_of_the_plan_has_every_step() -> None:
    plan = plan_of(read_directory(FLOW, variables=variables(), catalog=CATALOG, schema=SCHEMA))
    text = (FLOW.parent / "PLAN.md").read_text(encoding="utf-8")
    assert [step.id for step in plan.steps if f'"{step.id}<br/>' not in text] == []
    readme = (FLOW.parent / "README.md").read_text(encoding="utf-8")
    assert f"{len(list(FLOW.glob('*.sql')))} SQL files" in readme
    assert readme.count("\n") <= 50
