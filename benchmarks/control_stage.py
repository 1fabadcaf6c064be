"""Runs in a schema of their own and a controller for them. Their job runs stay queued: no process starts.

What a job would leave behind, a row and a file, is put where the harness puts it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from local_workspace import WorkspaceInfo

from benchmarks.control_replay import Call, record
from benchmarks.measure import seconds
from benchmarks.requestlog import Asked, RequestLog
from databricks_rlm_agent.app import App
from databricks_rlm_agent.attempts.records import result_row
from databricks_rlm_agent.attempts.result import Result, Status
from databricks_rlm_agent.layout import RESULT, Namespace
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import Run, new_run
from databricks_rlm_agent.settings import from_environment

_PROGRAM = "rlm.metric('n', 3)\nprint('hello')\nrlm.finish({'total': 42})\n"
# No renewal falls into a measured tick, and no waiting run is asked of the Jobs API: both go by the clock.
_NEVER_S = 1e6


def script(path: Path, *, iterations: int, program: str = _PROGRAM, finish: bool = False) -> str:
    """A model that submits a program again and again, and may finish then, as a ``--model`` setting."""
    step = [{"call": "run_python", "args": {"code": program, "purpose": "bench"}}]
    end = [[{"call": "finish", "args": {"answer": "42", "evidence": "the result"}}]] if finish else []
    path.write_text(json.dumps({"planner": [step] * iterations + end}))
    return f"scripted:{path}"


@dataclass(frozen=True, kw_only=True)
class Ticked:
    """What a piece of work took, what it asked, and how many Delta commits it made."""

    seconds: float
    asked: Asked
    commits: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One schema, its runs and its controller; ``said`` is what the controller asked since ``forget``."""

    app: App
    info: WorkspaceInfo
    said: list[Call]

    @staticmethod
    def open(info: WorkspaceInfo, schema: str, *, model: str = "", batch: int | None = None) -> Stage:
        """Make the schema. ``batch`` is how many runs a tick may take; the product's own if None."""
        environ = {"RLM_WAREHOUSE_HTTP_PATH": info.http_path, "ADK_DELTA_SCHEMA": schema}
        settings = from_environment(environ, model=model)
        settings = replace(
            settings, suspect_after_s=_NEVER_S, lease_s=_NEVER_S, batch=batch or settings.batch
        )
        app = App(settings=settings, environ={}, host=info.host, token=info.token)
        said = record(app)
        app.init()
        return Stage(app=app, info=info, said=said)

    @property
    def namespace(self) -> Namespace:
        """Where its tables are."""
        return self.app.settings.namespace

    def fresh(self, count: int) -> list[Run]:
        """New runs, not yet stored."""
        return [new_run("Bench", run_id=bench_id(n), clock=self.app.clock) for n in range(count)]

    def add(self, count: int) -> None:
        """Store new runs."""
        self.app.store.insert(self.fresh(count))

    def forget(self) -> None:
        """Begin a new recording."""
        self.said.clear()

    def taken(self) -> list[Call]:
        """What was asked, and a new recording."""
        said = list(self.said)
        self.forget()
        return said

    def tick(self) -> Ticked:
        """One pass of the controller."""
        return self.measured(self.app.tick)

    def measured(self, work: Callable[[], object]) -> Ticked:
        """Do something and look at what it cost."""
        log = RequestLog(self.info)
        before = self._commits()
        log.clear()
        took = seconds(work)
        return Ticked(seconds=took, asked=log.asked(), commits=self._commits() - before)

    def report(self) -> int:
        """Have every executing run's job end with a result, as the harness would; return the iteration."""
        newest = [run for run in self.app.store.newest(limit=100_000) if isinstance(run, Run)]
        runs = [run for run in newest if run.fsm_state is State.EXECUTING]
        if not runs:
            raise RuntimeError("No run is executing: the tick before did not submit.")
        rows = [result_row(self._finish(run), databricks_run_id=None, run_url=None) for run in runs]
        self.app.ledger.append([replace(row, reported_by="executor") for row in rows])
        return max(run.iter_n for run in runs)

    def _finish(self, run: Run) -> Result:
        now, request = self.app.clock(), run.last_request
        assert request is not None
        result = Result(
            run_id=run.run_id,
            iter_n=run.iter_n,
            attempt=run.attempt,
            request_sha256=request.request_sha256,
            status=Status.SUCCESS,
            value={"total": 42},
            metrics={"n": 3},
            started_at=now,
            finished_at=now,
        )
        path = Path(self.info.root) / request.output_dir.lstrip("/") / RESULT
        path.write_text(result.model_dump_json())
        return result

    def _commits(self) -> int:
        return commits(Path(self.info.root), self.namespace)


def commits(root: Path, namespace: Namespace) -> int:
    """How many versions the Delta tables of a schema have, together."""
    return sum(
        1 + max((int(file.stem) for file in log.glob("*.json") if file.stem.isdigit()), default=-1)
        for log in (root / "tables" / namespace.catalog / namespace.schema).glob("*/_delta_log")
    )


def bench_id(number: int) -> str:
    """A run's id, as random as the product's own: files of a table cannot be told apart by it."""
    return f"r{hashlib.sha256(str(number).encode()).hexdigest()[:16]}"
