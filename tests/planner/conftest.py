from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from model_fakes import create_planner

from databricks_rlm_agent.errors import AlreadyExists, NotFound
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.ports import FileEntry, Planner, PlanningContext
from databricks_rlm_agent.runs.budget import Budget
from databricks_rlm_agent.runs.capsule.capsule import Capsule

NAMESPACE = Namespace(catalog="main", schema="rlm", volume="files")
ROOT = NAMESPACE.volume_root


class MemoryVolume:
    """A Volume in memory."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = files or {}

    def put(self, path: str, content: bytes, *, overwrite: bool) -> None:
        if path in self.files and not overwrite:
            raise AlreadyExists("There is such a file.", where=path)
        self.files[path] = content

    def get(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        if path not in self.files:
            raise NotFound("There is no such file.", where=path)
        return self.files[path][offset : None if length is None else offset + length]

    def list(self, path: str, *, limit: int | None = None) -> Sequence[FileEntry]:
        found = [name for name in self.files if name.startswith(path + "/")]
        if not found:
            raise NotFound("There is no such folder.", where=path)
        return [FileEntry(path=name, is_directory=False, size=len(self.files[name])) for name in found][
            :limit
        ]


class MemoryCatalog:
    """A catalog in memory."""

    def __init__(self, tables: dict[str, list[tuple[str, str]]]) -> None:
        self.tables = tables

    def search(self, text: str, *, limit: int) -> Sequence[str]:
        return [name for name in self.tables if text in name][:limit]

    def describe(self, table: str) -> Sequence[tuple[str, str]]:
        if table not in self.tables:
            raise NotFound("There is no such table.", where=table)
        return self.tables[table]


class MemorySql:
    """Answers every query with the same rows, and keeps the statements."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.statements: list[str] = []

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Mapping[str, Any]]:
        self.statements.append(sql)
        return self.rows

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        raise AssertionError("the planner's tools only read")


@pytest.fixture
def world() -> dict[str, Any]:
    """The workspace as the planner's tools see it."""
    return {
        "volume": MemoryVolume({f"{ROOT}/notes.txt": b"hello"}),
        "catalog": MemoryCatalog({"main.rlm.flights": [("origin", "string"), ("dep_delay", "double")]}),
        "sql": MemorySql([{"origin": "JFK", "dep_delay": 2.0}]),
        "namespace": NAMESPACE,
    }


@pytest.fixture
def scripted(tmp_path: Path, world: dict[str, Any]) -> Callable[..., Planner]:
    """A planner that plays the given replies of iteration 1 (or a whole script)."""

    def make(*replies: Any, script: dict[str, Any] | None = None, **options: Any) -> Planner:
        file = tmp_path / "script.json"
        file.write_text(json.dumps(script or {"planner": [list(replies)]}))
        return create_planner(f"scripted:{file}", **world, **options)

    return make


def a_context(iter_n: int = 1, **capsule: Any) -> PlanningContext:
    capsule.setdefault("objective", "Which airport has the worst delays?")
    return PlanningContext(
        run_id="r1", iter_n=iter_n, mode="DEV", capsule=Capsule(**capsule), budget=Budget()
    )


@pytest.fixture
def context() -> PlanningContext:
    return a_context()


@pytest.fixture
def make_context() -> Callable[..., PlanningContext]:
    return a_context
