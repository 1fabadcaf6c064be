"""Job runs that are waited for, or kept from starting while something is timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

_TIMEOUT_S = 120.0
_BLOCKER = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists():\n    time.sleep(0.02)\n"


class JobRuns:
    """The job runs of a workspace that runs one process at a time; ``folder`` is below its root."""

    def __init__(self, client: WorkspaceClient, folder: Path) -> None:
        self._client, self._folder, self._count = client, folder, 0
        self._program = folder / "blocker.py"
        self._program.write_text(_BLOCKER)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Inside, runs that are submitted stay queued: a starting process would take half of two cores."""
        self._count += 1
        end = self._folder / f"end{self._count}"
        blocker = self._submit(end)
        self._wait(blocker, "RUNNING")
        try:
            yield
        finally:
            end.touch()
            self.finish(blocker)

    def hold(self) -> None:
        """Runs that are submitted from now on stay queued until the workspace ends."""
        self._wait(self._submit(self._folder / "never"), "RUNNING")

    def finish(self, job_run: int) -> None:
        """Wait until a run is over; RuntimeError if that takes too long."""
        self._wait(job_run, "TERMINATED")

    def _submit(self, end: Path) -> int:
        from databricks.sdk.service.jobs import SparkPythonTask, SubmitTask

        task = SparkPythonTask(python_file=str(self._program), parameters=[str(end)])
        return self._client.jobs.submit(tasks=[SubmitTask(task_key="t", spark_python_task=task)]).run_id

    def _wait(self, job_run: int, state: str) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            status = self._client.jobs.get_run(job_run).status
            if status and status.state and status.state.value == state:
                return
            time.sleep(0.02)
        raise RuntimeError(f"job run {job_run} did not become {state} within {_TIMEOUT_S:g} s")
