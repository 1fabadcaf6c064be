"""``rlm-agent sql run`` on the local workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from local_workspace import WorkspaceInfo

from databricks_rlm_agent.cli.main import main
from databricks_rlm_agent.databricks.sql import WarehouseSession

FILES = {
    "01_edges.sql": "-- a; path\nCREATE OR REPLACE TABLE edges AS SELECT id AS a, id + 1 AS b FROM range(2)",
    "02_start.sql": "CREATE OR REPLACE TABLE l_iter_0 AS SELECT id, id AS label FROM range(3)",
    "03_l_loop_iteration_01.sql": (
        "CREATE OR REPLACE TABLE l_iter_1 AS SELECT l.id, "
        "least(l.label, coalesce(min(x.label), l.label)) AS label FROM l_iter_0 l "
        "LEFT JOIN edges e ON e.b = l.id LEFT JOIN l_iter_0 x ON x.id = e.a GROUP BY l.id, l.label"
    ),
    "04_use.sql": "CREATE OR REPLACE TABLE used AS SELECT * FROM l_loop_final",
}


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def sql_run(info: WorkspaceInfo, schema: str, flow: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*more: str) -> tuple[int, str, str]:
        place = {"--server-hostname": info.host, "--http-path": info.http_path, "--access-token": info.token}
        place |= {"--catalog": "main", "--schema": schema, "--on-error": "stop"}
        given = [part for name, value in place.items() if name not in more for part in (name, value)]
        code = main(["sql", "run", str(flow), *given, *more])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_directory_fails_is_corrected_and_resumed(
    sql_run: Any, flow: Path, session: WarehouseSession, schema: str
) -> None:
    (flow / "05_last.sql").write_text("SELECT 1;\nSELEC 2")
    declared = "tables:\n  used: {key: id, covers: {table: l_loop_final, on: id}}\n"
    (flow / "workflow.yml").write_text(declared)
    code, out, err = sql_run("--statements", "--page", str(flow / "page.html"))
    assert (code, "05_last.sql:1 query" in out) == (1, True), out + err
    assert "05_last.sql:2" in (flow / "page.html").read_text()
    assert "05_last.sql:2" in out
    assert "iteration 3: 0 rows changed" in out
    (flow / "05_last.sql").write_text("SELECT 2")
    code, out, err = sql_run("--resume", "--json", "--progress", "json")
    assert code == 0, out + err
    report = json.loads(out)
    kinds = {json.loads(line)["kind"] for line in err.splitlines() if line.startswith("{")}
    assert {"step_kept", "checking", "run_finished"} <= kinds
    statuses = [step["status"] for step in report["steps"]]
    assert statuses == ["kept"] * 4 + ["done"], report
    used = next(table for table in report["tables"] if table["table"].endswith(".used"))
    assert (used["unique"], used["coverage"][0]["keys"], used["good"]) == (True, 3, True)
    query = f"SELECT report FROM main.{schema}.sql_workflow_runs WHERE status = 'succeeded'"
    assert json.loads(session.fetch(query)[0]["report"]) == report
    assert {table["table"].rpartition(".")[2] for table in report["tables"]} >= {"used", "l_loop_final"}


def test_a_dry_run_shows_the_plan_and_runs_nothing(sql_run: Any) -> None:
    code, out, _ = sql_run("--dry-run", "--json")
    assert code == 0
    assert len(json.loads(out)["stages"]) == 4


@pytest.mark.parametrize(
    ("option", "value", "code", "words"),
    [
        ("--catalog", "nowhere", 2, "no catalog nowhere"),
        ("--schema", "nowhere", 2, "no schema main.nowhere"),
        ("--access-token", "wrong", 3, "token"),
        ("--http-path", "/sql/1.0/warehouses/other", 3, "404"),
        ("--server-hostname", "http://127.0.0.1:1", 3, "Nothing answers"),
        ("--resume-run", "w0", 2, "No unfinished run w0"),
    ],
)
def test_errors_are_reported_before_anything_runs(
    sql_run: Any, option: str, value: str, code: int, words: str
) -> None:
    got, _out, err = sql_run(option, value)
    assert (got, words in err) == (code, True), err
