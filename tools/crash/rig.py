"""One local workspace with fault control, and what the matrices do to the controllers that use it."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from databricks.sdk.service.jobs import BaseRun
from local_workspace import Spawned, WorkspaceInfo, WorkspaceOptions, spawn

from databricks_rlm_agent.app import App
from databricks_rlm_agent.runs.run import new_run
from databricks_rlm_agent.settings import from_environment
from tools.crash.controller import Controller
from tools.crash.programs import TASK, write_script, write_stub

T = TypeVar("T")
LEASE_S = 1.5
GIVE_UP_S = 180.0
CONCURRENCY = 16  # calls of models that a run may make at once
ORCHESTRATE = ("orchestrate", "--until-idle")


@dataclass(kw_only=True)
class Rig:
    """A workspace of its own, one run at a time."""

    spawned: Spawned
    app: App
    environ: dict[str, str]
    script: Path
    http: requests.Session = field(default_factory=requests.Session)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    since_ms: int = 0  # when the run of now was stored

    @property
    def info(self) -> WorkspaceInfo:
        return self.spawned.info

    @property
    def root(self) -> Path:
        return Path(self.info.root)

    @property
    def volume(self) -> Path:
        return self.root / self.app.settings.namespace.volume_root.lstrip("/")

    def job_runs(self, **filters: Any) -> list[BaseRun]:
        """Return what the Jobs API lists to a client of our own."""
        config = Config(host=self.info.host, token=self.info.token, auth_type="pat")
        return list(WorkspaceClient(config=config).jobs.list_runs(**filters))

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the fault control."""
        answer = self.http.request(method, f"{self.info.host}/_local/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def fault(self, *rules: Mapping[str, Any]) -> None:
        """Clear the log, and put these rules in the place of all others."""
        self.control("DELETE", "faults")
        self.control("DELETE", "requests")
        if rules:
            self.control("POST", "faults", {"rules": list(rules)})

    def fired(self) -> int:
        return sum(rule["fired"] for rule in self.control("GET", "faults")["rules"])

    def log(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.control("GET", "requests")["requests"]
        return found

    def submit(self, run_id: str, *, script: Path | None = None) -> None:
        """Store a run, as ``rlm-agent submit`` does."""
        self.since_ms = int(time.time() * 1000)
        tag = {"tag": {"kind": "text", "text": run_id}}
        model = f"scripted:{script or self.script}"
        self.app.store.insert([new_run(TASK, run_id=run_id, clock=self.app.clock, inputs=tag, model=model)])

    def controller(self, *arguments: str, **environ: str) -> Controller:
        log = self.root.parent / f"controller-{next(self.numbers)}.log"
        return Controller(arguments or ORCHESTRATE, self.environ | environ, log)

    def controller_logs(self) -> str:
        """Return the ends of the logs of the last three controllers."""
        logs = sorted(self.root.parent.glob("controller-*.log"), key=lambda log: log.stat().st_mtime)[-3:]
        return "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in logs)

    def kill_workspace(self) -> float:
        """SIGKILL for the workspace, and another one in its place; the time of the kill."""
        port = urlsplit(self.info.host).port or 0
        self.spawned.process.kill()
        killed = time.time()
        self.spawned.stop()
        self.spawned = spawn(_options(self.root, port=port))
        return killed

    def held(self, controller: Controller) -> int | None:
        """The id of the request that is held; None if the controller ended before there was one."""

        def look() -> tuple[int | None] | None:
            ended = not controller.alive
            held = self.control("GET", "held")["held"]
            if held:
                return (int(held[0]["id"]),)
            return (None,) if ended else None

        return eventually(look, GIVE_UP_S)[0]

    def release(self, held: int, *, drop: bool) -> None:
        self.control("POST", f"held/{held}/release", {"drop": drop})
        eventually(lambda: all(item["id"] != held for item in self.control("GET", "held")["held"]) or None)


def eventually(look: Callable[[], T | None], timeout_s: float = 60.0) -> T:
    """What ``look`` finds, asked again until it is not None."""
    deadline = time.monotonic() + timeout_s
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing within {timeout_s:g} s")
        time.sleep(0.01)
    return found


@contextlib.contextmanager
def start_rig(folder: Path) -> Iterator[Rig]:
    """Start a workspace below ``folder``, create our tables, and stop it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        spawned = spawn(_options(folder / "workspace"))
        info = spawned.info
        environ = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ
        }
        environ |= {
            "DATABRICKS_HOST": info.host,
            "DATABRICKS_TOKEN": info.token,
            "RLM_WAREHOUSE_HTTP_PATH": info.http_path,
            "RLM_LEASE_S": str(LEASE_S),
            "RLM_SUSPECT_AFTER_S": "4",
            # Its polls would be points that come again and again; the work table has tests of its own.
            "RLM_WORK_TABLE": "none",
            "RLM_SUB_CONCURRENCY": str(CONCURRENCY),
        }
        app = App(settings=from_environment(environ), environ=environ, host=info.host, token=info.token)
        made = Rig(
            spawned=spawned,
            app=app,
            environ=environ,
            script=write_script(folder / "script.json"),
        )
        stack.callback(lambda: made.spawned.stop())
        stack.callback(app.close)
        stack.callback(made.http.close)
        made.http.trust_env = False
        made.http.headers["Authorization"] = f"Bearer {info.token}"
        app.init()
        yield made


def _options(root: Path, *, port: int = 0) -> WorkspaceOptions:
    stub = write_stub(root.parent / "stub.json")
    return WorkspaceOptions(root=root, port=port, allow_faults=True, model=f"scripted:{stub}")
