"""The command line as a user calls it, and the workspace that it is called on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from local_workspace import WorkspaceInfo

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
    """A workspace, and the schema of one test file in it."""

    info: WorkspaceInfo
    schema: str = "rlm"

    @property
    def host(self) -> str:
        return self.info.host

    @property
    def token(self) -> str:
        return self.info.token

    @property
    def http_path(self) -> str:
        return self.info.http_path

    @property
    def root(self) -> Path:
        return Path(self.info.root)

    @property
    def volume(self) -> str:
        return f"/Volumes/main/{self.schema}/artifacts"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DATABRICKS_HOST": self.host,
            "DATABRICKS_TOKEN": self.token,
            "RLM_WAREHOUSE_HTTP_PATH": self.http_path,
            "ADK_DELTA_SCHEMA": self.schema,
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


def call_process(*arguments: str, env: Mapping[str, str] | None = None, timeout: float = 1_500) -> Finished:
    """Run ``rlm-agent`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "databricks_rlm_agent.cli.main", *arguments],
        env=environment(env or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Finished(code=done.returncode, out=done.stdout, err=done.stderr)


def call_here(*arguments: str, env: Mapping[str, str] | None = None) -> Finished:
    """Run ``rlm-agent`` in this process: a process of its own spends two seconds on imports."""
    from databricks_rlm_agent.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in [*os.environ]:
            patch.delenv(name)
        for name, value in environment(env or {}).items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(arguments)
            except SystemExit as stop:
                code = int(stop.code or 0)
    return Finished(code=code, out=out.getvalue(), err=err.getvalue())


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
        yield Serving(info=WorkspaceInfo.from_json(line))
        process.terminate()
        process.stdout.close()
        assert process.wait(120) == 0


def program(code: str, **arguments: Any) -> dict[str, Any]:
    return {"call": "run_python", "args": {"code": code, "purpose": "test", **arguments}}


def finish(answer: str = "done", evidence: str = "the last result") -> dict[str, Any]:
    return {"call": "finish", "args": {"answer": answer, "evidence": evidence}}
