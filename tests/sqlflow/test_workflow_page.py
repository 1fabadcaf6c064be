"""The report as a page: whole, self-contained, and nothing of what others wrote becomes markup."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_rlm_agent.sqlflow.plan.declarations import parse_declarations
from databricks_rlm_agent.sqlflow.report.charts import el, seconds, short, timeline
from databricks_rlm_agent.sqlflow.report.page import as_page
from databricks_rlm_agent.sqlflow.run.events import EventKind
from databricks_rlm_agent.sqlflow.run.outcome import (
    Coverage,
    LoopEnd,
    Measure,
    Report,
    RunStatus,
    StepOutcome,
    StepStatus,
    TableCheck,
)
from databricks_rlm_agent.sqltext.errors import Cause, Problem, Severity

AT = datetime(2026, 1, 1, tzinfo=UTC)
EVIL = "</style></script><script>alert(1)</script>\"'&<img src=x onerror=alert(1)>\x1b[2J\x00"


def problem(text: str, severity: Severity = Severity.CRITICAL) -> Problem:
    return Problem(
        kind=Cause.SYNTAX, severity=severity, message=text, hint=text, file=text, line=3, statement=text
    )


def report(text: str = "x") -> Report:
    """One of everything."""
    loop = tuple(
        Measure(n=n, changed=changed, rows=41, seconds=0.5)
        for n, changed in enumerate((None, 812, 33, 0), start=1)
    )
    steps = (
        StepOutcome(id=f"01_{text}", status=StepStatus.DONE, stage=1, started_at=AT, seconds=2.0, rows=1200),
        StepOutcome(
            id="02_loop",
            status=StepStatus.DONE,
            stage=2,
            started_at=AT + timedelta(seconds=2),
            seconds=1.5,
            iterations=loop,
            iterations_before=1,
            end=LoopEnd.CONVERGED,
            warnings=(problem(text, Severity.WARNING),),
        ),
        StepOutcome(id="03_kept", status=StepStatus.KEPT, stage=3),
        StepOutcome(
            id="03_bad",
            status=StepStatus.FAILED,
            stage=3,
            started_at=AT + timedelta(seconds=4),
            seconds=0.0,
            problem=problem(text),
        ),
        StepOutcome(id="zz", status=StepStatus.NOT_RUN, stage=None),
    )
    coverage = Coverage(table=text, on=(("a", text),), keys=3, found=2)
    tables = (
        TableCheck(table=text, exists=True, rows=3, key=(text,), duplicates=1, coverage=(coverage,)),
        TableCheck(table="v", exists=True, view=True),
        TableCheck(table="n", exists=True, errors=(text,)),
    )
    return Report(
        workflow_run_id="w1",
        workflow=text,
        status=RunStatus.FAILED,
        started_at=AT,
        finished_at=AT + timedelta(seconds=5),
        steps=steps,
        path=(f"01_{text}", "02_loop"),
        path_seconds=3.5,
        tables=tables,
        notices=(text,),
        next=(text,),
        place="main.s",
    )


class Reader(HTMLParser):
    """Tags, attributes that could run something, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]


ALLOWED = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "main",
    "header",
    "section",
    "footer",
    "h1",
    "h2",
}
ALLOWED |= {"p", "b", "i", "code", "pre", "span", "div", "ul", "li", "article", "figure", "figcaption"}
ALLOWED |= {"table", "thead", "tbody", "tr", "th", "td", "svg", "g", "rect", "line", "path", "text"}


def body(page: str) -> str:
    return re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


@settings(max_examples=40, derandomize=True, database=None, deadline=None)
@given(st.one_of(st.just(EVIL), st.text("<>&\"'/script=on \x00\x1b\u2028é", max_size=40)))
def test_what_others_wrote_never_becomes_markup(text: str) -> None:
    page = as_page(report(text).to_dict())
    read = Reader(page)
    assert read.tags <= ALLOWED
    assert not [name for name in read.attributes if name.startswith("on")]
    assert read.links == []
    assert not [c for c in page if not (c.isprintable() or c == "\n")]
    ET.fromstring(body(page).removeprefix("<!doctype html>"))  # every element is closed


def test_the_page_needs_nothing_else() -> None:
    page = as_page(report().to_dict())
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src &#x27;none&#x27;" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_the_page_has_all_of_the_report() -> None:
    page = as_page(report("flow").to_dict())
    for words in (
        "3 of 5",
        "critical path, 70% of it",
        "converged, 4 iterations, 41 rows",
        "iteration 3: 33 rows changed, 0.5 s",
        "flow:3",
        "critical, syntax",
        "66.67% of flow (2 of 3)",
        "flow: 1 rows twice",
        "done before",
        "Without a prefix",
        "main.s.sql_workflow_runs",
        "2026-01-01 00:00:00 UTC",
    ):
        assert words in page, words


def test_the_page_is_made_of_the_json_alone() -> None:
    document = report("flow").to_dict()
    assert as_page(json.loads(json.dumps(document, default=str))) == as_page(document)


def test_the_json_has_every_part_under_its_name() -> None:
    document = json.loads(json.dumps(report().to_dict()))
    assert set(document) == {
        *("workflow_run_id", "workflow", "status", "exit_code", "started_at", "finished_at", "seconds"),
        *("step_seconds", "path", "path_seconds", "counts", "steps", "tables", "notices", "next"),
        *("place", "optimized"),
    }
    step = document["steps"][1]
    assert (step["started_at"], step["stage"], step["end"]) == ("2026-01-01T00:00:02+00:00", 2, "converged")
    assert [each["changed"] for each in step["iterations"]] == [None, 812, 33, 0]
    table = document["tables"][0]
    assert (table["unique"], table["good"], len(table["faults"])) == (False, False, 2)
    assert table["coverage"][0]["share"] == pytest.approx(2 / 3)


def test_the_document_on_reports_names_all_of_it() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sql-reports.md").read_text()
    made = report().to_dict()
    parts = [made, *made["steps"], *made["steps"][1]["iterations"], *made["tables"]]
    parts += [*made["tables"][0]["coverage"], made["steps"][3]["problem"]]
    names = {name for part in parts for name in part} | {kind.value for kind in EventKind}
    assert {name for name in names if f"`{name}`" not in text} - {"fingerprint"} == set()
    declared = text.partition("```yaml\n")[2].partition("```")[0]
    assert [rule.table for rule in parse_declarations(declared).tables] == [
        ("identity_lookup",),
        ("master_customers",),
    ]


def test_the_timeline_draws_each_step_that_ran_where_it_ran() -> None:
    picture = ET.fromstring(timeline(report().to_dict()))
    bars = [node for node in picture.iter("rect") if node.get("class", "").startswith("bar")]
    assert [node.get("class") for node in bars] == [
        "bar done path",
        "bar done path",
        "bar failed",
        "bar checks",
    ]
    first, loop, failed, _ = bars
    scale = float(first.get("width", "0")) / 2.0
    assert float(loop.get("x", "0")) - float(first.get("x", "0")) == pytest.approx(2 * scale, abs=0.2)
    assert float(loop.get("width", "0")) == pytest.approx(1.5 * scale, abs=0.2)
    assert float(failed.get("width", "0")) == 2.0  # it is seen
    iterations = [node for node in picture.iter("rect") if "iteration" in node.get("class", "")]
    assert len(iterations) == 3  # those of this run


@settings(max_examples=30, derandomize=True, database=None, deadline=None)
@given(
    st.floats(0, 1e6),
    st.lists(
        st.tuples(st.floats(-10, 1e6), st.floats(0, 1e6), st.sampled_from(list(StepStatus))), max_size=8
    ),
    st.lists(st.one_of(st.none(), st.integers(0, 10**12)), max_size=50),
)
def test_any_times_and_counts_make_a_page(
    wall: float, steps: list[tuple[float, float, StepStatus]], changed: list[int | None]
) -> None:
    outcomes = [
        StepOutcome(
            id=str(n), status=status, stage=n // 3, started_at=AT + timedelta(seconds=start), seconds=took
        )
        for n, (start, took, status) in enumerate(steps)
    ]
    loop = tuple(Measure(n=n, changed=many, seconds=1.0) for n, many in enumerate(changed))
    outcomes.append(StepOutcome(id="loop", status=StepStatus.FAILED, iterations=loop, started_at=AT))
    made = Report(
        workflow_run_id="w",
        workflow="f",
        status=RunStatus.FAILED,
        started_at=AT,
        finished_at=AT + timedelta(seconds=wall),
        steps=tuple(outcomes),
        path=tuple(step.id for step in outcomes),
    )
    page = as_page(made.to_dict())
    assert "nan" not in body(page)
    ET.fromstring(body(page).removeprefix("<!doctype html>"))


def test_a_workflow_of_nothing_but_skipped_steps_has_a_page() -> None:
    made = Report(
        workflow_run_id="w",
        workflow="f",
        status=RunStatus.INTERRUPTED,
        started_at=AT,
        finished_at=AT,
        steps=(StepOutcome(id="a", status=StepStatus.NOT_RUN),),
    )
    assert "not run" in as_page(made.to_dict())


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.04, "0.04 s"), (0.1, "0.1 s"), (99.9, "99.9 s"), (245, "4 min 05 s"), (7380, "2 h 03 min")],
)
def test_times_for_people(number: float, text: str) -> None:
    assert seconds(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9999, "9,999"), (50_000, "50k"), (12_345, "12.3k"), (999_999, "1000k"), (4_500_000, "4.5M")],
)
def test_numbers_in_little_room(number: int, text: str) -> None:
    assert short(number) == text


def test_elements_escape_text_and_attributes() -> None:
    made = el("p", "<b>", el("i", 1.0), None, ["&"], class_='a"b', id=None, data_x="<")
    assert made == '<p class="a&quot;b" data-x="&lt;">&lt;b&gt;<i>1</i>&amp;</p>'
