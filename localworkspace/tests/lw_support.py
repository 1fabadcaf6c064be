"""Clients and helpers of this folder's tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from databricks.sdk.service import jobs
from local_workspace import WorkspaceInfo

VOLUME = "/Volumes/main/default/files"
# The script behind the serving endpoints of the shared workspace.
SUB = {
    "rules": [
        {"match": r"row (?P<n>\d+)", "text": r"it is \g<n>"},
        {"match": r"label (\w+)", "json": {"label": r"\1", "sure": True, "also": [r"\1!"]}},
        {"match": "row", "text": "never"},
    ],
    "otherwise": "hm",
    "latency_s": 0.2,
    "failures": [
        {"match": "busy", "status": 429, "retry_after": 1, "times": 2},
        {"match": "broken", "status": 400},
    ],
}


def sdk(info: WorkspaceInfo, *, retry_s: int = 10) -> WorkspaceClient:
    """The unmodified SDK against a server."""
    config = Config(host=info.host, token=info.token, auth_type="pat", retry_timeout_seconds=retry_s)
    return WorkspaceClient(config=config)


def eventually(ask: Callable[[], Any], good: Callable[[Any], bool], *, timeout_s: float = 120) -> Any:
    """Ask until the answer is good."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = ask()
        if good(answer):
            return answer
        assert time.monotonic() < deadline, f"still {answer!r}"
        time.sleep(0.02)


class Programs:
    """Puts Python programs into the Volume and submits them."""

    def __init__(self, client: WorkspaceClient, root: Path, name: str) -> None:
        self.client, self._root, self._name = client, root, name

    def put(self, code: str, name: str = "program.py") -> str:
        path = f"{VOLUME}/{self._name}/{name}"
        local = self._root / path.lstrip("/")
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_text(code)
        return path

    def task(self, code: str, *parameters: str, key: str = "main", **fields: Any) -> jobs.SubmitTask:
        path = self.put(code, f"{key}.py")
        python = jobs.SparkPythonTask(python_file=path, parameters=list(parameters))
        return jobs.SubmitTask(task_key=key, spark_python_task=python, **fields)

    def submit(self, code: str, *parameters: str, **fields: Any) -> int:
        run_id = self.client.jobs.submit(
            run_name=self._name, tasks=[self.task(code, *parameters, **fields)]
        ).run_id
        assert run_id is not None
        return run_id

    def finish(self, run_id: int, *, timeout_s: float = 120) -> jobs.Run:
        def over(run: jobs.Run) -> bool:
            return run.status is not None and run.status.state == jobs.RunLifecycleStateV2State.TERMINATED

        return eventually(lambda: self.client.jobs.get_run(run_id), over, timeout_s=timeout_s)

    def running(self, run_id: int) -> jobs.Run:
        def runs(run: jobs.Run) -> bool:
            return run.status is not None and run.status.state == jobs.RunLifecycleStateV2State.RUNNING

        return eventually(lambda: self.client.jobs.get_run(run_id), runs)

    def output(self, run: jobs.Run) -> jobs.RunOutput:
        assert run.tasks
        assert run.tasks[0].run_id
        return self.client.jobs.get_run_output(run.tasks[0].run_id)
