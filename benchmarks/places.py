"""Where things run: a local workspace, or the engine alone in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from local_workspace import WorkspaceInfo

_ENGINE = """
import os, sys
from pysail.spark import SparkConnectServer
server = SparkConnectServer(ip="127.0.0.1", port=0)
server.start(background=True)
print(server.listening_address[1], flush=True)
sys.stdin.read()
os._exit(0)
"""
_CATALOG = {
    "SAIL_CATALOG__LIST": '[{type="memory", name="main", initial_database=["default"]}]',
    "SAIL_CATALOG__DEFAULT_CATALOG": "main",
    "RUST_LOG": "error",
}


@contextmanager
def engine_alone() -> Iterator[str]:
    """Sail with nothing of ours around it; yields its Spark Connect address."""
    process = subprocess.Popen(
        [sys.executable, "-c", _ENGINE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | _CATALOG,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"sc://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()  # it ends by itself
        process.wait(15)
        process.stdout.close()


def connect(info: WorkspaceInfo) -> Any:
    """A connection of the real SQL connector, with the settings that ``databricks/sql.py`` uses."""
    from databricks import sql

    return sql.connect(
        server_hostname=info.host.split("://")[1],
        http_path=info.http_path,
        access_token=info.token,
        _connection_uri=f"{info.host}{info.http_path}",
        enable_telemetry=False,
        use_cloud_fetch=False,
    )
