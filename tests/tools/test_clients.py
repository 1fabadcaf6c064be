"""What other people's clients can do is compared with what is on paper."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_workspace import WorkspaceInfo

from tools import clients
from tools.clients import __main__ as tool
from tools.clients import suites


def results(**right: tuple[int, int]) -> dict[str, tool.Result]:
    return {
        name: tool.Result(problems={f"check {n}": "" if n < good else "wrong" for n in range(total)})
        for name, (good, total) in right.items()
    }


def test_the_paper_says_what_the_comparison_reads() -> None:
    before = tool.paper(results(lsql=(2, 3), dagster=(0, 1)), "")
    text = tool.paper(results(dagster=(1, 1)), before)
    assert "- lsql, check 2: wrong" in text
    assert "- dagster" not in text
    found = {match["name"]: (match["right"], match["all"]) for match in tool._ROW.finditer(text)}
    assert found == {"lsql": ("2", "3"), "dagster": ("1", "1")}


@pytest.mark.parametrize(("right", "said"), [(1, True), (2, False), (3, False)])
def test_a_lower_figure_is_said(right: int, said: bool) -> None:
    found = tool.lower(results(lsql=(right, 3), dbt=(0, 1)), {"lsql": (2, 3)})
    assert bool(found) == said
    assert all("lsql: 1 of 3 are right, 2 in docs/coverage.md" in line for line in found)


def test_every_client_has_its_pins_its_script_and_its_row_on_paper() -> None:
    folder = tool.ROOT / "tools" / "clients"
    assert clients.__doc__
    for name in tool.CLIENTS:
        pins = (tool.ROOT / f"constraints-clients-{name}.txt").read_text()
        assert "--hash=sha256:" in pins
        assert "://" not in pins
        assert (folder / f"use_{name}.py").exists()
    assert set(tool.known()) == set(tool.CLIENTS)


REPORT = """<testsuites><testsuite>
<testcase name="a"/><testcase name="b[x]"><failure message="AssertionError: 1&#10;more">trace</failure>
</testcase><testcase name="c"><skipped message="why"/></testcase>
<testcase name="d"><error message="no such host"/></testcase>
<testcase name="e"/></testsuite></testsuites>"""


def test_a_report_of_pytest_is_counted() -> None:
    found = suites.outcome(REPORT)
    assert (found.passed, found.failed, found.skipped, found.errors) == (2, 1, 1, 1)
    assert found.problems == {"b[x]": "AssertionError: 1", "d": "no such host"}
    lines = suites.table({"test_x.py": found, "test_y.py": suites.Outcome(passed=3)}).splitlines()
    assert lines[0].split() == ["file", "passed", "failed", "errors", "skipped"]
    assert lines[-1].split() == ["all", "5", "1", "1", "1"]


@pytest.mark.parametrize("name", suites.SUITES)
def test_a_suite_is_told_where_the_workspace_is_and_of_no_other(name: str) -> None:
    info = WorkspaceInfo(
        host="https://127.0.0.1:4711",
        token="secret",
        http_path="/sql/x",
        root="/w",
        pid=1,
        ca_file="/w/ca.pem",
    )
    ours = {"DATABRICKS_CONFIG_PROFILE": "prod", "RLM_X": "1", "PATH": "/bin"}
    env = suites.environment(suites.SUITES[name], info, ours)
    assert env["PATH"] == "/bin"
    assert not {"DATABRICKS_CONFIG_PROFILE", "RLM_X"} & set(env)
    assert not [value for value in env.values() if "{" in value]
    assert "secret" in env.values()
    plugin = suites.SUITES[name].plugin
    assert not plugin or (tool.ROOT / "tools" / "clients" / f"{plugin}.py").exists()


def test_a_checkout_without_the_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no tests/e2e/test_\*\.py"):
        tool.main(["suite", "connector", str(tmp_path)])
