"""A published harness on a temporary Volume, and a Spark Connect server for all tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness_support import Bench
from local_workspace import WorkspaceInfo
from local_workspace.options import installed_engine

from databricks_rlm_agent.controller import bundle

_SERVER = """
import os, sys
from pysail.spark import SparkConnectServer
server = SparkConnectServer(ip="127.0.0.1", port=0)
server.start(background=True)
print(server.listening_address[1], flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture
def bench(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "main.py").write_bytes(bundle.published())
    (tmp_path / "tmp").mkdir()
    return Bench(root=tmp_path, cache=tmp_path_factory.getbasetemp() / "pycache")


@pytest.fixture(scope="session")
def sail(request: pytest.FixtureRequest) -> Iterator[str]:
    """A Spark Connect server of the installed engine, Sail as a rule; yields its URL, user included."""
    if installed_engine() == "spark":  # it knows catalogs by way of a local workspace only
        info: WorkspaceInfo = request.getfixturevalue("shared_workspace")
        yield info.spark_connect
        return
    server = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _SERVER,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "SAIL_CATALOG__LIST": '[{type="memory", name="main", initial_database=["default"]}]',
            "SAIL_CATALOG__DEFAULT_CATALOG": "main",
        },
    )
    assert server.stdout is not None
    yield f"sc://127.0.0.1:{int(server.stdout.readline())}/;user_id=t"
    server.send_signal(signal.SIGKILL)
    server.communicate()
