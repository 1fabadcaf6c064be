"""What a task brings along, and what must hold before its answer is believed: through the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from acceptance_support import Serving, finish, program

from databricks_rlm_agent.controller.evidence import Evidence
from databricks_rlm_agent.controller.input_profile import InputProfiler
from databricks_rlm_agent.databricks.services import WorkspaceCatalog, WorkspaceVolume
from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.runs.checks import parse_check

SCHEMA = "inputs_and_checks"
ROOT = f"/Volumes/main/{SCHEMA}/artifacts"


@pytest.fixture(scope="module")
def looks(serving: Serving) -> Iterator[dict[str, Any]]:
    """Volume, catalog and warehouse as the controller has them, with a table, a view and some files."""
    workspace = Workspace(host=serving.host, token=serving.token)
    warehouse = WarehouseEngine(workspace, http_path=serving.http_path).session()
    warehouse.execute("CREATE SCHEMA IF NOT EXISTS main.seen")
    warehouse.execute(
        "CREATE TABLE main.seen.trips (id INT, who STRING, tags ARRAY<STRING>, at DATE, `odd name` DOUBLE, "
        "raw BINARY)"
    )
    warehouse.execute(
        "INSERT INTO main.seen.trips SELECT CAST(id AS INT), concat('person ', id, repeat('!', 500)), "
        "array('a', 'b'), DATE '2024-01-02', 0.5, X'00' FROM range(1000)"
    )
    warehouse.execute("CREATE VIEW main.seen.few AS SELECT id FROM main.seen.trips WHERE id < 7")
    yield {
        "sql": warehouse,
        "volume": WorkspaceVolume(workspace),
        "catalog": WorkspaceCatalog(workspace, catalog="main"),
    }
    warehouse.close()


@pytest.fixture(scope="module")
def volume(looks: dict[str, Any]) -> WorkspaceVolume:
    kept: WorkspaceVolume = looks["volume"]
    return kept


@pytest.fixture
def ready(here, serving: Serving) -> dict[str, str]:
    """The environment of a workspace that has its tables and its Volume."""
    assert here("init", env=serving.environment).code == 0
    return serving.environment


def show(here, run_id: str, env: dict[str, str]) -> Any:
    return here("show", run_id, "--json", env=env).document


# Inputs


def test_inputs_become_handles(here, ready, script, volume: WorkspaceVolume, tmp_path: Path) -> None:
    volume.put(f"{ROOT}/given/day1/a.csv", b"x,y\n1,2\n", overwrite=True)
    notes = tmp_path / "notes.txt"
    notes.write_text("local größe", encoding="utf-8")
    submitted = here(
        *("submit", "Look", "--run-id", "handles", "--model", script([finish()])),
        *("--input", "trips=main.seen.trips", "--input", f"one={ROOT}/given/day1/a.csv"),
        *("--input", f"all={ROOT}/given", "--input", f"slash={ROOT}/given/", "--input", "word=hello"),
        *("--input", f"mine=@{notes}", "--input", f"long={'many words ' * 1_000}"),
        env=ready,
    )
    assert submitted.code == 0, submitted.err
    assert show(here, "handles", ready)["capsule"]["inputs"] == {
        "trips": {"kind": "table", "name": "main.seen.trips"},
        "one": {"kind": "file", "path": f"{ROOT}/given/day1/a.csv"},
        "all": {"kind": "folder", "path": f"{ROOT}/given"},
        "slash": {"kind": "folder", "path": f"{ROOT}/given"},
        "word": {"kind": "text", "text": "hello"},
        "mine": {"kind": "file", "path": f"{ROOT}/scratchpad/run_handles/inputs/mine.txt"},
        "long": {"kind": "file", "path": f"{ROOT}/scratchpad/run_handles/inputs/long.txt"},
    }
    assert volume.get(f"{ROOT}/scratchpad/run_handles/inputs/mine.txt") == "local größe".encode()
    assert volume.get(f"{ROOT}/scratchpad/run_handles/inputs/long.txt") == b"many words " * 1_000
    here("cancel", "handles", env=ready)


def test_a_program_reads_what_was_brought(here, ready, script, tmp_path: Path) -> None:
    source = tmp_path / "numbers.bin"
    source.write_bytes(bytes(range(256)) * 4_000)
    code = """
with rlm.inputs["blob"].open("rb") as file:
    size = len(file.read())
rlm.finish({"size": size, "long": len(rlm.inputs["long"].text())})
"""
    done = here(
        *("run", "Measure", "--model", script([program(code)], [finish("{{value.size}} {{value.long}}")])),
        *("--input", f"blob=@{source}", "--input", f"long={'ü' * 5_000}", "--json"),
        env=ready,
    )
    assert done.code == 0, done.err
    assert done.document["answer"] == "1024000 5000"


def test_a_repeat_replaces_files_only_where_there_is_no_run(
    here, ready, script, volume: WorkspaceVolume, tmp_path: Path
) -> None:
    path = f"{ROOT}/scratchpad/run_again/inputs/a.txt"
    volume.put(path, b"left by a command that died", overwrite=True)
    source = tmp_path / "a.txt"
    command = (
        "submit",
        "Look",
        "--run-id",
        "again",
        "--model",
        script([finish()]),
        "--input",
        f"a=@{source}",
    )
    for content in ("first", "second"):
        source.write_text(content)
        assert here(*command, env=ready).code == 0
        assert volume.get(path) == b"first"  # what a run was given does not change under it
    here("cancel", "again", env=ready)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--input", "a=1", "--input", "a=2"), "--input a is given 2 times"),
        (("--input", "a b=1"), "NAME=VALUE"),
        (("--input", "a=@/nowhere/x.txt"), "cannot be sent: No such file"),
        (("--input", "a=@/"), "not a plain file"),
        (("--input", "a=@"), "not a plain file"),
        (("--input", f"a={ROOT}/nothing/here"), "there is nothing at"),
        (("--input", f"a={ROOT}/../../etc"), "not a path in a Volume"),
        (("--check", "it works"), "not an acceptance check"),
        (("--check", "sql: DROP TABLE main.seen.trips"), "cannot run"),
        (("--check", "sql: SELECT 1; SELECT 2"), "not one query"),
        (("--check", "table: trips"), "not a full table name"),
        (("--check", "sql: SELECT true") * 17, "17 checks"),
    ],
)
def test_wrong_inputs_and_checks_get_one_clear_message(here, ready, arguments, said) -> None:
    done = here("submit", "x", "--run-id", "wrong", *arguments, env=ready)
    assert (done.code, done.out) == (2, ""), done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert here("status", "wrong", env=ready).code == 2  # nothing was stored


# The looks themselves, on a real engine


def test_a_survey(looks: dict[str, Any], volume: WorkspaceVolume) -> None:
    notes = InputProfiler(**looks).notes(
        {
            "trips": {"kind": "table", "name": "main.seen.trips"},
            "few": {"kind": "table", "name": "main.seen.few"},
            "none": {"kind": "table", "name": "main.seen.nothing"},
        }
    )
    assert notes["trips"].startswith(
        "table main.seen.trips; 1,000 rows; 6 columns: id int, who string, tags array"
    )
    assert '["0", "person 0!!!!!!!!!!!…", "[a, b]", "2024-01-02", "0.5"]'[:40] in notes["trips"]
    assert "first rows of id, who, tags, at, odd name:" in notes["trips"]
    assert notes["few"].startswith("table main.seen.few; 7 rows; 1 column: id int; first rows: ")
    assert "does not exist" in notes["none"]


@pytest.mark.parametrize(
    ("check", "passed", "found"),
    [
        ("sql: SELECT count(*) = 1000 FROM main.seen.trips", True, "true"),
        ("sql: SELECT count(*) FROM main.seen.trips -- all\n => 1000", True, "1000"),
        ("sql: WITH t AS (SELECT * FROM main.seen.few) SELECT sum(id) FROM t => 21", True, "21"),
        ("sql: SELECT id FROM main.seen.trips ORDER BY id DESC LIMIT 1 => 999", True, "999"),
        ("sql: SELECT max(at) FROM main.seen.trips => '2024-01-02'", True, "2024-01-02"),
        ("sql: SELECT id > 0 FROM main.seen.trips", False, "more than one row"),
        ("sql: SELECT id, who FROM main.seen.trips LIMIT 1", False, "2 columns"),
        ("sql: SELECT nope FROM main.seen.trips", False, "nope"),
        ("sql: SELECT true FROM main.seen.nothing", False, "cannot be found"),
        ("sql: SELECT interval 1 month", False, "which is not true"),
        ("table: main.seen.trips columns=ID,who rows>=1000", True, "1,000 rows"),
        ("table: main.seen.trips rows>=1001", False, "1,000 rows"),
        ("table: main.seen.few columns=id,who", False, "no column who"),
        ("table: main.seen.nothing", False, "does not exist"),
        ("file: /Volumes/main/seen/none/x", False, "no such file"),
    ],
)
def test_evidence(looks: dict[str, Any], check: str, passed: bool, found: str) -> None:
    (finding,) = Evidence(**looks).verify([parse_check(check)])
    assert (finding.passed, found in finding.found) == (passed, True), finding


# Evidence before finish

WORK = """
spark.sql("CREATE TABLE main.inputs_and_checks.{table} AS SELECT id, id * 2 AS twice FROM range(42)")
rlm.table("main.inputs_and_checks.{table}")
with open(rlm.path("{root}/reports/{table}.csv"), "w") as file:
    file.write("id,twice\\n0,0\\n")
rlm.finish({{"n": 42}})
"""


def checks_of(table: str) -> list[str]:
    checks = [
        f"table: main.inputs_and_checks.{table} columns=id,twice rows>=40",
        f"sql: SELECT count(*) FROM main.inputs_and_checks.{table} => 42",
        f"file: {ROOT}/reports/{table}.csv bytes>=10",
    ]
    return [word for check in checks for word in ("--check", check)]


def events(document: Any, kind: str) -> list[Any]:
    return [row["payload"] for row in document["events"] if row["kind"] == kind]


def test_an_answer_that_comes_too_early_is_refused_with_the_reason(
    here, ready, script, volume: WorkspaceVolume
) -> None:
    volume.put(f"{ROOT}/reports/readme.txt", b"x", overwrite=True)
    model = script(
        [finish("It is done, surely."), program(WORK.format(table="early", root=ROOT))],
        [finish("There are {{value.n}} rows.")],
    )
    done = here(
        *("run", "Make a table", "--run-id", "early", "--model", model, *checks_of("early"), "--json"),
        env=ready,
    )
    assert done.code == 0, done.err
    assert (done.document["answer"], done.document["iterations"]) == ("There are 42 rows.", 2)
    shown = show(here, "early", ready)
    (refused,) = events(shown, "refusal")
    assert refused["tool"] == "finish"
    assert "3 of 3 acceptance checks failed" in refused["reason"]
    assert "does not exist" in refused["reason"]
    assert "there is no such file" in refused["reason"]
    first, second = events(shown, "evidence")
    assert (first["iter_n"], second["iter_n"]) == (1, 2)
    assert [item["passed"] for item in first["findings"]] == [False] * 3
    assert [(item["passed"], item["found"]) for item in second["findings"]] == [
        (True, "42 rows"),
        (True, "42"),
        (True, "13 bytes"),
    ]


def test_a_run_whose_checks_never_hold_does_not_succeed(here, ready, script) -> None:
    model = script([finish("Done."), finish("Really."), finish("Believe me."), finish("Please.")])
    check = "sql: SELECT 1 => 2"
    done = here("run", "Lie", "--run-id", "liar", "--model", model, "--check", check, "--json", env=ready)
    assert (done.code, done.document["state"]) == (1, "FAILED")
    assert "SELECT 1 => 2 (found: 1)" in done.document["reason"]
    rows = events(show(here, "liar", ready), "evidence")
    assert rows
    assert not any(item["passed"] for row in rows for item in row["findings"])


def test_the_planner_is_told_of_inputs_and_checks(here, ready, looks, script) -> None:
    asked = here(
        *("run", "Look", "--run-id", "told", "--model", script([finish("Seen.")]), "--json"),
        *("--input", "trips=main.seen.trips", "--input", "word=hello", "--check", "sql: SELECT true"),
        env=ready,
    )
    assert asked.code == 0, asked.err
    capsule = show(here, "told", ready)["capsule"]
    assert capsule["checks"][0]["sql"] == "SELECT true"
    assert set(capsule["input_notes"]) == {"trips", "word"}
    assert "1,000 rows" in capsule["input_notes"]["trips"]
