"""One local workspace for the whole folder, and the command line as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

USER = dict(os.environ)
CANARY = "canary-8c1f-do-not-show"


@dataclass(frozen=True, kw_only=True)
class Finished:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


@dataclass(frozen=True, kw_only=True)
class Serving:
    host: str
    token: str
    http_path: str
    root: Path
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DATABRICKS_HOST": self.host,
            "DATABRICKS_TOKEN": self.token,
            "RLM_WAREHOUSE_HTTP_PATH": self.http_path,
        }

    @contextmanager
    def statements(self) -> Iterator[Any]:
        """A cursor of the real connector."""
        from databricks import sql

        connection = sql.connect(
            server_hostname="127.0.0.1",
            http_path=self.http_path,
            access_token=self.token,
            _connection_uri=f"{self.host}{self.http_path}",
            enable_telemetry=False,
        )
        with connection, connection.cursor() as cursor:
            yield cursor


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """A user's environment without anything of the developer's own."""
    kept = {name: USER[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in USER}
    return kept | dict(extra)


@pytest.fixture(scope="session")
def agent() -> Callable[..., Finished]:
    def call(*arguments: str, env: Mapping[str, str] | None = None, timeout: float = 150) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "databricks_rlm_agent.cli.main", *arguments],
            env=environment(env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Finished(code=done.returncode, out=done.stdout, err=done.stderr)

    return call


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """The same in this process: for the many small cases that need no process of their own."""
    from databricks_rlm_agent.cli.main import main

    def call(*arguments: str, env: Mapping[str, str] | None = None) -> Finished:
        with monkeypatch.context() as patch:
            for name in [*os.environ]:
                patch.delenv(name)
            for name, value in environment(env or {}).items():
                patch.setenv(name, value)
            capsys.readouterr()
            try:
                code = main(arguments)
            except SystemExit as stop:
                code = int(stop.code or 0)
        said = capsys.readouterr()
        return Finished(code=code, out=said.out, err=said.err)

    return call


@contextmanager
def workspace(root: Path, *arguments: str) -> Iterator[Serving]:
    """`rlm-agent workspace start --json`, as a user starts it."""
    with (root.parent / f"{root.name}.err").open("w") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "databricks_rlm_agent.cli.main", "workspace", "start"),
                *("--root", str(root), "--json", "--allow-faults", *arguments),
            ],
            env=environment({}),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, Path(errors.name).read_text()
        info = json.loads(line)
        yield Serving(
            host=info["host"],
            token=info["token"],
            http_path=info["http_path"],
            root=Path(info["root"]),
            pid=info["pid"],
        )
        process.terminate()
        process.stdout.close()
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A workspace without a model behind its serving endpoints."""
    with workspace(tmp_path_factory.mktemp("workspace")) as found:
        yield found


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Write a script and return the model setting that replays it."""

    def write(*planner: list[dict[str, Any]], name: str = "script.json") -> str:
        path = tmp_path / name
        path.write_text(json.dumps({"planner": planner, "summarizer": [], "sub": [], "latency_s": 0}))
        return f"scripted:{path}"

    return write


def program(code: str, **arguments: Any) -> dict[str, Any]:
    return {"call": "run_python", "args": {"code": code, "purpose": "test", **arguments}}


def finish(answer: str = "done", evidence: str = "the last result") -> dict[str, Any]:
    return {"call": "finish", "args": {"answer": answer, "evidence": evidence}}
