"""Where the next poll of a change feed starts: a table of versions, no engine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from fake_sql import FakeSession, repeating
from intake_support import JIRA, JIRA_COLUMNS, Clock

from databricks_rlm_agent.errors import ConfigError, Rejected
from databricks_rlm_agent.intake.mapping import WorkMapping
from databricks_rlm_agent.intake.table import DeltaWorkTable
from databricks_rlm_agent.layout import Namespace

NAMESPACE = Namespace(catalog="main", schema="rlm", volume="artifacts")
COLUMNS = {name: column for name, column in JIRA_COLUMNS.items() if name != "updated_at"}
BY_VERSION = WorkMapping.model_validate(JIRA | {"table": "main.jira.issues", "columns": COLUMNS})
BY_DATE = WorkMapping.model_validate(JIRA | {"table": "main.jira.issues"})


@dataclass
class FeedTable(FakeSession):
    """A table with versions from ``earliest`` to ``latest``; ``asked`` says from where it was read."""

    identity: str = "t1"
    earliest: int = 0
    latest: int = 0
    items: dict[int, str] = field(default_factory=dict)
    feed: bool = True
    refuses: bool = False
    marks: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        (row,) = json.loads((parameters or {})["rows"])
        if row["last_version"] is not None:
            before = self.marks.setdefault(row["source"], row["last_version"])
            if "WHEN MATCHED" in sql:
                self.marks[row["source"]] = max(before, row["last_version"])
        return 1

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Mapping[str, Any]]:
        if sql.startswith("SHOW TBLPROPERTIES"):
            return [{"key": "delta.enableChangeDataFeed", "value": "true"}] if self.feed else []
        if sql.startswith("DESCRIBE HISTORY"):
            return [{"version": self.latest}]
        if sql.startswith("DESCRIBE DETAIL"):
            return [{"id": self.identity}]
        if "intake_watermarks" in sql:
            key = (parameters or {})["value"]
            return [{"last_version": self.marks[key]}] if key in self.marks else []
        if found := re.search(r"table_changes\('main.jira.issues', (\d+)\)", sql):
            return self._changes(int(found[1]), probe=sql.startswith("SELECT 1 "))
        snapshot = re.search(r"VERSION AS OF (\d+)", sql)
        upto = int(snapshot[1]) if snapshot else self.latest
        self.asked.append(f"as of {upto}" if snapshot else "table")
        return self._rows(0, upto, last=None, numbered=upto)

    def _changes(self, start: int, *, probe: bool) -> list[dict[str, Any]]:
        if self.refuses or not self.earliest <= start <= self.latest:
            raise Rejected("[DELTA_INVALID_CDC_RANGE] no such version")
        if probe:
            return []
        self.asked.append(f"from {start}")
        return self._rows(start, self.latest, last=self.latest, numbered=None)

    def _rows(self, start: int, end: int, *, last: int | None, numbered: int | None) -> list[dict[str, Any]]:
        nothing = dict.fromkeys(("title", "description", "status", "mode", "answer", "run_id", "fsm_state"))
        items = [
            nothing | {"kind": "item", "item_id": name, "n": numbered or n, "digest": "ab", "rank": 1}
            for n, name in self.items.items()
            if start <= n <= end
        ]
        return [*items, {"kind": "clock", "n": 10**15, "rank": last, "mark": None}]


def table_of(backend: FeedTable, mapping: WorkMapping = BY_VERSION) -> tuple[DeltaWorkTable, Clock]:
    clock = Clock()
    table = DeltaWorkTable(session=repeating(backend), namespace=NAMESPACE, mapping=mapping, monotonic=clock)
    return table, clock


def read(table: DeltaWorkTable) -> list[str]:
    result = table.read()
    table.commit(result)
    return [f"{item.item_id} {item.revision}" for item in result.items]


def test_a_first_reading_is_of_one_version_and_the_feed_goes_on_from_there() -> None:
    backend = FeedTable(latest=5, items={2: "a"})
    table, _ = table_of(backend)
    assert read(table) == ["a v5.ab"]
    assert backend.marks == {"main.jira.issues|t1|from None": 5, "main.jira.issues|t1": 5}
    assert read(table) == []
    backend.latest, backend.items[6] = 6, "b"
    assert read(table) == ["b v6.ab"]
    assert backend.asked == ["as of 5", "from 5", "from 5"]
    assert backend.marks["main.jira.issues|t1"] == 6


def test_all_controllers_agree_on_the_first_version() -> None:
    backend = FeedTable(latest=5, items={2: "a"})
    slow, _ = table_of(backend)
    result = slow.read()  # and then it is stopped for a while
    backend.latest, backend.items[6] = 6, "b"
    other, _ = table_of(backend)
    assert read(other) == ["a v5.ab"]
    assert read(other) == ["b v6.ab"]
    slow.commit(result)
    assert backend.marks["main.jira.issues|t1"] == 6  # never backwards
    assert read(slow) == ["b v6.ab"]


def test_who_comes_later_goes_on_where_the_others_are() -> None:
    backend = FeedTable(latest=9, items={2: "a", 8: "b"}, marks={"main.jira.issues|t1": 7})
    table, _ = table_of(backend)
    assert read(table) == ["b v8.ab"]
    assert backend.asked == ["from 7"]


@pytest.mark.parametrize("change", [{"identity": "t2", "latest": 1}, {"earliest": 7, "latest": 9}])
def test_a_feed_that_broke_off_is_read_anew(change: dict[str, Any]) -> None:
    backend = FeedTable(latest=5, items={2: "a"})
    table, _ = table_of(backend)
    read(table)
    for name, value in change.items():
        setattr(backend, name, value)
    backend.items = {1: "c"}
    assert read(table) == [f"c v{backend.latest}.ab"]
    assert read(table) == ([f"c v{backend.latest}.ab"] if backend.latest == 1 else [])
    assert backend.asked[-2:] == [f"as of {backend.latest}", f"from {backend.latest}"]


def test_what_was_not_taken_care_of_is_read_again() -> None:
    backend = FeedTable(latest=5, items={2: "a"})
    table, _ = table_of(backend)
    assert [item.item_id for item in table.read().items] == ["a"]
    assert [item.item_id for item in table.read().items] == ["a"]
    other, _ = table_of(backend)
    assert read(other) == ["a v5.ab"]


def test_with_dates_the_feed_only_tells_where_to_look() -> None:
    backend = FeedTable(latest=5, items={2: "a"})
    table, clock = table_of(backend, BY_DATE)
    read(table)
    read(table)
    clock.now_s = BY_DATE.rescan_s
    read(table)
    assert backend.asked == ["table", "from 5", "table"]


@pytest.mark.parametrize("backend", [FeedTable(feed=False), FeedTable(refuses=True)], ids=["none", "refused"])
def test_without_a_feed_dates_are_needed(backend: FeedTable, caplog: pytest.LogCaptureFixture) -> None:
    by_date, clock = table_of(backend, BY_DATE)
    read(by_date)
    clock.now_s = BY_DATE.rescan_s
    read(by_date)
    assert backend.asked == ["table", "table"]
    assert len(caplog.records) == (1 if backend.refuses else 0)
    by_version, _ = table_of(backend)
    with pytest.raises(ConfigError, match="updated_at"):
        by_version.read()
