"""Mappings, tasks and decisions: pure, with examples that nobody thought of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intake_support import JIRA

from databricks_rlm_agent.attempts.records import EventRow
from databricks_rlm_agent.errors import ConfigError, InvalidData
from databricks_rlm_agent.intake.items import (
    ChangedRun,
    LatestRun,
    PollResult,
    WorkItem,
    WorkSource,
    answer_of,
    decide,
)
from databricks_rlm_agent.intake.mapping import WorkMapping, default_mapping, parse_mapping
from databricks_rlm_agent.intake.poll import Intake
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.runs.capsule.capsule import OBJECTIVE_CHARS
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import Run
from databricks_rlm_agent.settings import work_from_environment
from databricks_rlm_agent.storage.schema import to_json
from databricks_rlm_agent.storage.stores import to_row
from databricks_rlm_agent.values import check_id

NAMESPACE = Namespace(catalog="main", schema="rlm", volume="artifacts")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANY_TEXT = (
    st.none()
    | st.text(st.characters(exclude_categories=()), max_size=50)
    | st.sampled_from(["x" * 5_000, "y" * 20_001, "prod", " \n", "DEV"])
)
ITEMS = st.builds(
    WorkItem,
    item_id=ANY_TEXT.map(lambda text: text or ""),
    revision=st.sampled_from(["u1", "u2", "u2.abcdef01", "v3.0123456789abcdef"]),
    title=ANY_TEXT,
    description=ANY_TEXT,
    status=ANY_TEXT,
    mode=ANY_TEXT,
    answer=ANY_TEXT,
    latest_run=st.none()
    | st.builds(
        LatestRun,
        run_id=st.just("prior"),
        state=st.sampled_from(list(set(State) - {State.WAITING_FOR_INPUT})),
    ),
)


def mapping(**changes: Any) -> WorkMapping:
    return WorkMapping.model_validate(JIRA | {"table": "main.jira.issues"} | changes)


@dataclass
class Memory:
    """A work table, runs and events in memory: what a poll does with them, without SQL."""

    items: Sequence[WorkItem]
    mapping: WorkMapping = field(default_factory=mapping)
    source: WorkSource = field(default_factory=lambda: WorkSource(table="main.jira.issues"))
    runs: dict[str, Run] = field(default_factory=dict)
    events: dict[tuple[str, int], EventRow] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)

    def read(self) -> PollResult:
        taken = {(run.item_id, run.item_revision) for run in self.runs.values()}
        return PollResult(items=[item for item in self.items if (item.item_id, item.revision) not in taken])

    def commit(self, result: PollResult) -> None: ...
    def enlarge_batch(self) -> None: ...
    def unreported(self) -> list[ChangedRun]:
        return []

    def report(self, result: Iterable[ChangedRun]) -> bool:
        return True

    def answer(self, run: Run, *, revision: str, write_id: str) -> None:
        raise AssertionError("nothing waits here")

    def insert(self, runs: Iterable[Run]) -> None:
        runs = list(runs)
        to_json(to_row(run) for run in runs).encode()
        for run in runs:
            self.runs.setdefault(run.run_id, run)

    def get(self, run_id: str) -> Run:
        if run_id not in self.runs:
            raise InvalidData("The run's row does not parse.", where=run_id)
        return self.runs[run_id]

    def request_cancel(self, run_id: str, *, reason: str) -> bool:
        self.cancelled.append(run_id)
        return True

    def append(self, rows: Sequence[EventRow]) -> None:
        to_json(rows).encode()
        for row in rows:
            self.events.setdefault((row.run_id, row.seq), row)

    def intake(self) -> Intake:
        return Intake(
            table=self,
            runs=self,
            ledger=self,
            clock=lambda: NOW,
            new_id=lambda prefix: prefix,
            actor="c1",
            monotonic=lambda: 0.0,
        )


@given(st.lists(ITEMS, max_size=6))
def test_whatever_the_table_holds_every_revision_ends_as_one_run(items: list[WorkItem]) -> None:
    memory = Memory(items)
    report = memory.intake().poll()
    assert report.created + report.rejected == len(set(items))
    rows = Counter(item.item_id for item in set(items))
    for item in items:
        run = memory.runs[memory.source.run_id(item.item_id, item.revision)]
        check_id(run.run_id)
        kinds = [event.kind for (run_id, _), event in memory.events.items() if run_id == run.run_id]
        if run.fsm_state is State.FAILED:
            assert kinds == ["rejected_item"]
            assert str(run.outcome.reason).startswith("The work item was rejected: ")
        else:
            assert kinds == ["work_item"]
            assert run.fsm_state is State.PENDING
            assert rows[item.item_id] == 1
            assert 0 < len(run.capsule.objective) <= OBJECTIVE_CHARS
            assert run.current_mode in {"DEV", "PROD"}


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=9), st.text(max_size=9))
def test_run_ids_are_valid_and_differ_as_their_items_do(a: str, b: str, one: str, two: str) -> None:
    source = WorkSource(table="main.jira.issues")
    assert check_id(source.run_id(a, one)) == source.run_id(a, one)
    assert (source.run_id(a, one) == source.run_id(b, two)) == ((a, one) == (b, two))
    assert source.run_id(a, one) != WorkSource(table="main.jira.other").run_id(a, one)
    assert source.prefix != WorkSource(table="main.jira.issues", by_version=True).prefix


@given(
    st.dictionaries(
        st.text(max_size=12), st.recursive(st.none() | st.text(max_size=5) | st.integers(), st.lists)
    )
)
def test_no_mapping_in_json_does_more_than_raise_a_config_error(document: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse_mapping(json.dumps(document | {"table": "main.a"}), where="here")


@given(st.text(max_size=40))
def test_names_are_plain_or_refused(name: str) -> None:
    try:
        table = mapping(columns={"id": name, "title": "t", "updated_at": "u", "status": "s", "assignee": "a"})
    except ValueError:
        return
    assert not set(table.columns.id) & set("`'\"\\;.\n\r\0")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"table": "issues"}, "catalog.schema.table"),
        ({"table": "main.jira.`x`"}, "plain name"),
        ({"columns": {"id": "k", "updated_at": "u"}}, "title"),
        ({"columns": {"id": "k"}}, "title"),
        (
            {"columns": {"id": "k", "title": "t"}, "change_feed": False, "write": {}, "assignees": []},
            "updated_at",
        ),
        ({"columns": {"id": "k", "title": "t", "updated_at": "u"}, "assignees": []}, "status"),
        ({"columns": {"id": "k", "title": "t", "updated_at": "u", "status": "s"}}, "assignee"),
        ({"write": {"waiting": "reopened"}}, "reopened"),
        ({"write": {"begun": "x"}}, "write.begun"),
        ({"lookback_s": -1}, "lookback_s"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_wrong_mapping_says_what_is_wrong(change: dict[str, Any], said: str) -> None:
    text = json.dumps(JIRA | {"table": "main.jira.issues"} | change)
    with pytest.raises(ConfigError, match=said):
        parse_mapping(text, where="RLM_WORK_MAPPING")


def test_the_environment_names_the_table(tmp_path: Path) -> None:
    file = tmp_path / "mapping.json"
    file.write_text(json.dumps(JIRA | {"table": "main.jira.issues"}))
    assert work_from_environment({}, NAMESPACE) == default_mapping("main.rlm.work_items")
    assert work_from_environment({"RLM_WORK_TABLE": "none"}, NAMESPACE) is None
    assert work_from_environment({"RLM_WORK_MAPPING": f"@{file}"}, NAMESPACE) == mapping()
    both = {"RLM_WORK_MAPPING": file.read_text(), "RLM_WORK_TABLE": "main.jira.copy"}
    assert work_from_environment(both, NAMESPACE) == mapping(table="main.jira.copy")
    for bad in ({"RLM_WORK_TABLE": "a b"}, {"RLM_WORK_MAPPING": "{"}, {"RLM_WORK_MAPPING": "@/nowhere"}):
        with pytest.raises(ConfigError, match=r"RLM_WORK|nowhere"):
            work_from_environment(bad, NAMESPACE)


def item(**changes: Any) -> WorkItem:
    return replace(WorkItem(item_id="J-1", revision="u2", title="Count", description="it"), **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": " Blue. "}, "Blue."),
        ({"description": "it\n\nBlue."}, "Blue."),
        ({}, "(The item was opened again without a word more: decide with what is known.)"),
        ({"status": "needs info"}, None),
        ({"status": "needs info", "description": "it\nBlue."}, "Blue."),
    ],
)
def test_what_counts_as_an_answer(changes: dict[str, Any], said: str | None) -> None:
    assert answer_of(item(**changes), "Count\n\nit", waiting="Needs Info") == said


def test_a_newer_revision_supersedes_what_goes_on_and_answers_what_waits() -> None:
    def only(state: State) -> tuple[str, str | None]:
        (decision,) = decide([item(latest_run=LatestRun(run_id="r1", state=state))])
        return decision.action, decision.supersedes

    assert only(State.EXECUTING) == ("run", "r1")
    assert only(State.SUCCEEDED) == ("run", None)
    assert only(State.WAITING_FOR_INPUT) == ("answer", None)


def test_a_damaged_run_keeps_nothing_waiting() -> None:
    """Its row does not parse any more: the item that would answer it is left, the others begin."""
    waiting = item(latest_run=LatestRun(run_id="gone", state=State.WAITING_FOR_INPUT))
    memory = Memory([waiting, item(item_id="J-2")])
    report = memory.intake().poll()
    assert (report.created, report.answered) == (1, 0)


def test_polls_are_as_far_apart_as_the_mapping_says() -> None:
    now = {"s": 0.0}
    memory = Memory([item()])
    intake = memory.intake()
    intake.monotonic = lambda: now["s"]
    assert intake().created == 1
    memory.items = [item(revision="u3")]
    now["s"] = 4.9
    assert intake().idle
    now["s"] = 5.0
    assert intake().created == 1
