"""The command line on the shared workspace, with a schema for each test file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from acceptance_support import Finished, Serving, call_here, call_process
from local_workspace import WorkspaceInfo


@pytest.fixture(scope="session")
def agent() -> Callable[..., Finished]:
    """The command line in a process of its own."""
    return call_process


@pytest.fixture(scope="session")
def here() -> Callable[..., Finished]:
    """The same in this process."""
    return call_here


@pytest.fixture(scope="module")
def serving(shared_workspace: WorkspaceInfo, request: pytest.FixtureRequest) -> Serving:
    """The workspace that tests share, without a model behind its serving endpoints."""
    serving = Serving(info=shared_workspace, schema=request.module.__name__.removeprefix("test_"))
    assert call_here("init", env=serving.environment).code == 0
    return serving


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Write a script and return the model setting that replays it."""

    def write(*planner: list[dict[str, Any]], name: str = "script.json") -> str:
        path = tmp_path / name
        path.write_text(json.dumps({"planner": planner, "summarizer": [], "sub": [], "latency_s": 0}))
        return f"scripted:{path}"

    return write
