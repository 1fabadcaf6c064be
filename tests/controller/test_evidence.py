from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from databricks_rlm_agent.controller.evidence import FOUND_CHARS, CheckFinding, Evidence, refusal
from databricks_rlm_agent.errors import (
    Conflict,
    Forbidden,
    NotFound,
    Rejected,
    RlmError,
    Throttled,
    Unauthorized,
    Unreachable,
)
from databricks_rlm_agent.ports import FileEntry
from databricks_rlm_agent.runs.checks import Check, parse_check

FILE = "/Volumes/main/rlm/files/report.csv"


@dataclass
class Workspace:
    """Answers every query with the same rows; ``error`` is raised by everything."""

    rows: Sequence[Mapping[str, Any]] = ()
    columns: Sequence[tuple[str, str]] = (("Carrier", "string"), ("delay", "double"))
    entry: FileEntry | None = None
    error: Exception | None = None
    statements: list[str] = field(default_factory=list)

    def verify(self, *checks: Check) -> list[CheckFinding]:
        return Evidence(sql=self, catalog=self, volume=self).verify(checks)  # type: ignore[arg-type]

    def find(self, text: str) -> tuple[bool, str]:
        (finding,) = self.verify(parse_check(text))
        assert len(finding.found) <= FOUND_CHARS
        return finding.passed, finding.found

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Mapping[str, Any]]:
        self.statements.append(sql)
        if self.error:
            raise self.error
        return self.rows

    def describe(self, table: str) -> Sequence[tuple[str, str]]:
        if self.error:
            raise self.error
        return self.columns

    def look(self, path: str) -> FileEntry | None:
        if self.error:
            raise self.error
        return self.entry


@pytest.mark.parametrize(
    ("value", "passed", "found"),
    [
        (True, True, "true"),
        (False, False, "false"),
        (None, False, "null, which is not true"),
        (1, False, "1, which is not true"),
        ("true", False, "true, which is not true"),
    ],
)
def test_a_query_must_return_true(value: Any, passed: bool, found: str) -> None:
    workspace = Workspace(rows=[{"x": value}])
    assert workspace.find("sql: SELECT a FROM t -- why") == (passed, found)
    assert workspace.statements == ["SELECT * FROM (SELECT a FROM t\n) LIMIT 2"]


@pytest.mark.parametrize(
    ("value", "wanted", "passed"),
    [
        (42, "42", True),
        (42, "42.0", True),
        (43, "42", False),
        (Decimal("1.50"), "1.5", True),
        (0.1, "0.1", True),
        (1e300, "1e300", True),
        (float("nan"), "nan", False),
        (42, "many", False),
        ("New York", "'New York'", True),
        ("new york", "'New York'", False),
        ("42", "42", True),
        ("42", "42.0", False),
        (True, "TRUE", True),
        (False, "true", False),
        (None, "NULL", True),
        (0, "null", False),
        (dt.date(2024, 1, 2), "'2024-01-02'", True),
        (dt.datetime(2024, 1, 2, 3, tzinfo=dt.UTC), "'2024-01-02 03:00:00'", True),
    ],
)
def test_a_query_must_return_a_value(value: Any, wanted: str, passed: bool) -> None:
    assert Workspace(rows=[{"x": value}]).find(f"sql: SELECT a FROM t => {wanted}")[0] is passed


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([], "no row"),
        ([{"x": True}, {"x": True}], "more than one row"),
        ([{"x": True, "y": True}], "2 columns"),
        ([{"x": "long" * 1_000}], "characters left out"),
    ],
)
def test_an_answer_that_is_not_one_value(rows: Any, found: str) -> None:
    passed, said = Workspace(rows=rows).find("sql: SELECT a FROM t")
    assert not passed
    assert found in said


@pytest.mark.parametrize(
    ("text", "passed", "found"),
    [
        ("table: a.b.c", True, "2 columns"),
        ("table: a.b.c columns=carrier,DELAY", True, "2 columns"),
        ("table: a.b.c columns=carrier,year", False, "no column year; its columns are Carrier, delay"),
        ("table: a.b.c rows>=10", True, "10 rows"),
        ("table: a.b.c rows>=11", False, "10 rows"),
    ],
)
def test_a_table(text: str, passed: bool, found: str) -> None:
    assert Workspace(rows=[{"n": 10}]).find(text) == (passed, found)


@pytest.mark.parametrize(
    ("entry", "passed", "found"),
    [
        (None, False, "there is no such file"),
        (FileEntry(path=FILE, is_directory=True), False, "it is a folder"),
        (FileEntry(path=FILE, is_directory=False, size=0), False, "0 bytes"),
        (FileEntry(path=FILE, is_directory=False, size=2_000), True, "2,000 bytes"),
    ],
)
def test_a_file(entry: FileEntry | None, passed: bool, found: str) -> None:
    assert Workspace(entry=entry).find(f"file: {FILE}") == (passed, found)


EACH = [parse_check("sql: SELECT true"), parse_check("table: a.b.c"), parse_check(f"file: {FILE}")]


@pytest.mark.parametrize("check", EACH, ids=lambda check: check.kind)
@pytest.mark.parametrize("error", [Unreachable, Throttled, Unauthorized, Conflict])
def test_a_passing_fault_is_neither_yes_nor_no(check: Check, error: type[RlmError]) -> None:
    with pytest.raises(error):
        Workspace(error=error("Later.")).verify(check)


@pytest.mark.parametrize("check", EACH, ids=lambda check: check.kind)
@pytest.mark.parametrize(
    "error", [NotFound("No such table x."), Rejected("Bad SQL."), Forbidden("Not for you."), KeyError(21)]
)
def test_any_other_fault_fails_the_check_and_says_why(check: Check, error: Exception) -> None:
    (finding,) = Workspace(error=error).verify(check)
    assert not finding.passed
    assert str(error) in finding.found


def test_a_refusal_says_what_failed_and_what_was_found() -> None:
    findings = Workspace(rows=[{"x": 3}]).verify(
        parse_check("sql: SELECT count(*) FROM t => 42"), parse_check("table: a.b.c")
    )
    said = refusal(findings)
    assert said is not None
    assert "1 of 2 acceptance checks failed" in said
    assert "- sql: SELECT count(*) FROM t => 42 (found: 3)" in said
    assert "table:" not in said
    assert refusal(findings[1:]) is None
    assert refusal([]) is None
    assert findings[1].to_dict() == {"check": "table: a.b.c", "passed": True, "found": "2 columns"}


def test_a_refusal_is_bounded() -> None:
    check = parse_check("sql: SELECT " + "x," * 3_000 + "y")
    said = refusal([CheckFinding(check=check, passed=False, found="z" * FOUND_CHARS)] * 16)
    assert said is not None
    assert len(said) < 2_000
    assert "and 10 more" in said
