from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from databricks_rlm_agent.cli.main import main
from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.handover import read_directory

FILES = {
    "01_graph.sql": "\ufeff-- a; b\r\nCREATE OR REPLACE TABLE {c}.s.x_loop_0 AS\r\nSELECT 'a;b' AS a;\r\n",
    "02_loop_iteration_01.sql": "CREATE OR REPLACE TABLE {c}.s.x_loop_1 AS SELECT * FROM {c}.s.x_loop_0;",
    "03_a.sql": "CREATE OR REPLACE TABLE {c}.s.a AS SELECT * FROM {c}.s.x_loop_final;",
    "03_b.sql": "CREATE OR REPLACE TABLE {c}.s.b AS SELECT * FROM {c}.s.x_loop_final;",
    "notes.txt": "no SQL",
    ".hidden.sql": "nor this '",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    return tmp_path


def run(*arguments: str | Path) -> int:
    return main(["sql", "plan", *map(str, arguments)])


def test_the_plan_as_a_table(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(directory, "--var", "c=main") == 0
    output = capsys.readouterr().out
    assert "Stage 3: 2 steps, 2 at once" in output
    assert "after 02_loop_iteration: reads main.s.x_loop_final" in output
    assert "notes" not in output


def test_the_plan_as_json(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = []
    for option in (["--json"], ["--format", "json"]):
        assert run(directory, "--var", "c=main", *option) == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert documents[0] == documents[1]
    stages = documents[0]["stages"]
    assert [stage["stage"] for stage in stages] == [1, 2, 3]
    assert stages[1]["steps"][0]["loop"]["alias"] == "main.s.x_loop_final"
    assert stages[2]["steps"][1]["needs"] == [
        {"step": "02_loop_iteration", "reason": "reads main.s.x_loop_final"}
    ]


@pytest.mark.parametrize(("kind", "start"), [("mermaid", "flowchart TB"), ("dot", "digraph plan {")])
def test_the_plan_as_a_picture(
    kind: str, start: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(directory, "--var", "c=main", "--format", kind, "--only", "03_*") == 0
    assert capsys.readouterr().out.startswith(start)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("04_x.sql", b"SELECT 1;\nSELECT '\xff'", "04_x.sql:2) Save it as UTF-8"),
        ("04_x.sql", "SELECT 1".encode("utf-16"), "not valid UTF-8"),
        ("04_x.sql", b"SELECT 1;\n\nSELECT 'a", "(04_x.sql:3)"),
        ("04_x.sql", b"SELECT {d}", "The variable {d} has no value"),
        ("04_LOOP_iteration_3.sql", b"", None),
        ("03_A.sql", b"SELECT 1", "Two steps have the name"),
        ("workflow.yml", b"loops:\n  - limt: 1", "(workflow.yml:2)"),
    ],
)
def test_what_is_wrong_is_one_clear_message(
    name: str, content: bytes, words: str | None, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / name).write_bytes(content)
    code = run(directory, "--var", "c=main")
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    assert code == (2 if words else 0)
    assert (words or "") in output.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "99_x"], "--only 99_x: there is no such step"),
        (["--skip", "*"], "No step is left"),
        (["--var", "c"], "--var 'c' is not a variable"),
    ],
)
def test_wrong_options_are_errors(
    arguments: list[str], words: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(directory, "--var", "c=main", *arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(directory: Path) -> None:
    (directory / "03_a.sql").chmod(0)
    with pytest.raises(UsageError, match=r"03_a\.sql"):
        read_directory(directory)


def test_wrong_directories(tmp_path: Path) -> None:
    (tmp_path / "a.sql").mkdir()
    for path, words in [
        (tmp_path / "nope", "no such directory"),
        (tmp_path, r"no \.sql file"),
        (Path(__file__), "It is a file"),
        (tmp_path / "a\0b", "cannot be read"),
    ]:
        with pytest.raises(UsageError, match=words):
            read_directory(path)


def test_directories_below_have_a_notice(directory: Path) -> None:
    (directory / "more").mkdir()
    (directory / "more" / "a.sql").write_text("SELECT 1")
    assert read_directory(directory).notices == ("more/ is not looked into.",)


def test_planning_imports_neither_the_sdk_nor_the_connector(directory: Path) -> None:
    code = (
        "import sys; from databricks_rlm_agent.cli.main import main; "
        f"assert main(['sql', 'plan', {str(directory)!r}, '--var', 'c=m']) == 0; "
        "heavy = {'databricks', 'google', 'pyspark', 'pydantic'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
