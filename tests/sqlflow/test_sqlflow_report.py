"""The report for a person, the page's file, and who is asked for what before a run."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from databricks_rlm_agent.cli.sql import run as sqlrun
from databricks_rlm_agent.cli.sql.lines import report_lines
from databricks_rlm_agent.cli.sql.run import check_page, write_page
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.errors import ConfigError, UsageError
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


def step(id_: str, status: StepStatus = StepStatus.DONE, **more: Any) -> StepOutcome:
    ran = status not in {StepStatus.KEPT, StepStatus.NOT_RUN, StepStatus.SKIPPED}
    return StepOutcome(id=id_, status=status, started_at=AT if ran else None, **more)


def report(*steps: StepOutcome, **more: Any) -> Report:
    values: dict[str, Any] = {
        "workflow_run_id": "w1",
        "workflow": "flow",
        "status": RunStatus.SUCCEEDED,
        "started_at": AT,
        "finished_at": AT + timedelta(seconds=10),
        "steps": steps,
    }
    return Report(**(values | more))


def test_steps_stand_in_columns_with_time_and_rows() -> None:
    lines = report_lines(
        report(
            step("01_a", seconds=0.5, rows=1),
            step("02_long_name", seconds=120.0, rows=1_234_567),
            step("03_kept", StepStatus.KEPT),
        )
    )
    assert lines[1] == "✓ flow: succeeded, 3 of 3 steps in 10.0 s (run w1)"
    assert lines[2:5] == [
        "  ✓ 01_a              0.5 s          1 row",
        "  ✓ 02_long_name 2 min 00 s  1,234,567 rows",
        "  ✓ 03_kept                                  done before",
    ]


def test_a_loop_is_reported_with_its_end_and_history() -> None:
    history = tuple(Measure(n=n, changed=many) for n, many in enumerate([None, 8120, 0], start=1))
    loop = step("04_loop", seconds=3.0, iterations=history, iterations_before=1, end=LoopEnd.CONVERGED)
    lines = report_lines(report(loop))
    assert lines[2].endswith("converged, 3 iterations, 1 of them before")
    assert lines[3] == "      rows changed: - → 8,120 → 0"


def test_problems_and_warnings_stand_under_their_step() -> None:
    wrong = Problem(
        kind=Cause.DATA, severity=Severity.CRITICAL, message="no", hint="h", file="05_x.sql", line=7
    )
    lines = report_lines(report(step("05_x", StepStatus.FAILED, problem=wrong, warnings=(wrong,))))
    assert lines[3:5] == ["      ! 05_x.sql:7 no", "      ✗ 05_x.sql:7 no"]


def test_the_critical_path_is_broken_between_steps() -> None:
    steps = [step(f"{n:02d}_a_long_name_of_a_step", seconds=1.0) for n in range(8)]
    lines = report_lines(report(*steps, path=tuple(each.id for each in steps), path_seconds=8.0))
    start = lines.index("critical path: 8.0 s, 80% of the time")
    path_lines = lines[start + 1 : start + 5]
    assert all(len(line) <= 101 for line in path_lines)
    assert " ".join(path_lines).count("→") == 7


def test_the_average_number_of_steps_at_once_is_reported() -> None:
    lines = report_lines(
        report(step("a", seconds=9.0), step("b", seconds=9.0), path=("a",), path_seconds=9.0)
    )
    assert "  all steps together 18.0 s: 1.8 at once on average" in lines


def test_tables_stand_in_columns_with_what_holds_and_what_does_not() -> None:
    good = Coverage(table="n", on=(("a", "a"),), keys=200, found=199, wanted=0.99)
    bad = Coverage(table="m", on=(("a", "a"),), keys=2, found=1)
    tables = (
        TableCheck(table="main.s.a", exists=True, rows=1000, key=("id",), duplicates=0, coverage=(good, bad)),
        TableCheck(table="main.s.view", exists=True, view=True),
    )
    lines = report_lines(report(tables=tables, next=("Do this.",), notices=("Mind that.",)))
    start = lines.index("tables and views: 2 checked, 1 not as they should be")
    assert lines[start + 1 : start + 5] == [
        "  ✗ main.s.a    1,000  key id is unique",
        "      covers 99.50% of n: 199 of 200 keys",
        "      ✗ 1 of 2 keys of m are missing (50% are there, 100% are the least)",
        "  ✓ main.s.view  view",
    ]
    assert lines[-5:] == ["notices", "  • Mind that.", "", "next", "  → Do this."]


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    check_page(str(file))
    assert write_page(str(file), report(step("01_a", seconds=1.0)).to_dict()).endswith(str(file))
    assert file.read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "nowhere" / "page.html"):
        with pytest.raises(UsageError, match="No page can be written there"):
            check_page(str(file))
    assert "could not be written" in write_page(str(tmp_path / "nowhere" / "page.html"), report().to_dict())


def options(**more: Any) -> Namespace:
    values = {"server_hostname": "host.example", "auth_type": None, "access_token": None, "profile": None}
    return Namespace(**(values | more))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"access_token": "t"}, {"token": "t"}),
        ({"auth_type": "pat"}, {"token": "from the environment"}),
        ({"auth_type": "oauth"}, {"auth_type": "external-browser"}),
        ({"auth_type": "profile", "profile": "p"}, {"profile": "p"}),
        ({}, {"profile": None}),
        (
            {"server_hostname": "127.0.0.1:80", "access_token": "t"},
            {"host": "http://127.0.0.1:80", "token": "t"},
        ),
    ],
)
def test_each_way_to_authenticate_reaches_the_sdk(
    given: dict[str, Any], wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "from the environment")
    made: list[dict[str, Any]] = []
    sqlrun._workspace(options(**given), lambda **values: made.append(values))  # type: ignore[arg-type,func-returns-value]
    assert made == [{"host": "https://host.example"} | wanted]


def test_the_sdk_takes_the_browser_for_oauth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the point where a browser would open."""
    from databricks.sdk import config

    seen: list[config.Config] = []

    def stopped(self: config.Config) -> None:
        seen.append(self)
        raise ValueError("no browser here")

    monkeypatch.setattr(config.Config, "init_auth", stopped)
    monkeypatch.setattr(config.Config, "_resolve_host_metadata", lambda _self: None, raising=False)
    workspace = sqlrun._workspace(options(auth_type="oauth"), Workspace)
    with pytest.raises(Exception, match="no browser here"):
        workspace.access  # noqa: B018
    assert (seen[0].auth_type, seen[0].host) == ("external-browser", "https://host.example")


def test_off_a_terminal_nobody_is_asked_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABRICKS_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="nobody can be asked"):
        sqlrun._workspace(options(auth_type="pat"), Workspace)
