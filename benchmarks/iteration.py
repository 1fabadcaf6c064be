"""One agent iteration with a scripted model that answers at once, over the bare calls that it needs.

The iteration is one tick that finds the last result reported and ends with the next job submitted. The floor
sends the statements and requests of that tick again by the bare connector and SDK. No job runs meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn

from benchmarks.bare import Bare, Said, Step
from benchmarks.jobruns import JobRuns
from benchmarks.measure import Line, Report, median, seconds, size
from benchmarks.requestlog import Asked, RequestLog
from databricks_rlm_agent.app import App
from databricks_rlm_agent.attempts.manifest import Manifest
from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.layout import MANIFEST, RESULT
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.runs.budget import Budget
from databricks_rlm_agent.runs.run import new_run
from databricks_rlm_agent.settings import from_environment
from databricks_rlm_agent.values import Row, SqlSession

ROUNDS, WARM_UP = 6, 1
_PROGRAM = "rlm.metric('n', 3)\nprint('hello')\nrlm.finish({'total': 42})\n"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A SqlSession that remembers what it was asked."""

    session: SqlSession
    alive = True
    said: list[Said] = field(default_factory=list)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """As the session does."""
        self.said.append((sql, parameters or {}))
        return self.session.fetch(sql, parameters)

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        """As the session does."""
        self.said.append((sql, parameters or {}))
        return self.session.execute(sql, parameters)

    def cancel(self) -> None:
        """As the session does."""
        self.session.cancel()

    def close(self) -> None:
        """As the session does."""
        self.session.close()

    def taken(self) -> list[Said]:
        """What was asked since the last time."""
        said = list(self.said)
        self.said.clear()
        return said


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a round."""

    seconds: float
    asked: Asked


@dataclass(kw_only=True)
class Pair:
    """The agent's iteration and the bare calls, over the same states of the same run."""

    app: App
    bare: Bare
    jobs: JobRuns
    log: RequestLog
    recording: Recording
    result_path: str | None = None

    def start(self, run_id: str, *, rounds: int) -> None:
        """Store the run on both sides."""
        budget = Budget(max_iterations=rounds + 2, max_model_calls=rounds + 2)
        self.app.init()
        self.bare.init()
        self.recording.said.clear()
        self.app.store.insert([new_run("Bench", run_id=run_id, clock=self.app.clock, budget=budget)])
        self.bare.insert(self.recording.taken())

    def iterate(self, run_id: str) -> tuple[Side, Side]:
        """One iteration on each side, each job carried out before the other side begins."""
        ours = self._timed(self.app.tick)
        said = self.recording.taken()
        run = self.app.store.get(run_id)
        request = run.last_request
        assert request is not None
        self.jobs.finish(request.databricks_run_id)
        manifest = Manifest.parse(self.app.volume.get(f"{request.output_dir}/{MANIFEST}"), where="bench")
        step = Step(
            said=said,
            program=self.app.volume.get(manifest.request.artifact.path),
            manifest=manifest,
            result_path=self.result_path,
        )
        started: list[int] = []
        floor = self._timed(lambda: started.append(self.bare.iterate(step)))
        self.jobs.finish(*started)
        self.bare.copy_result(run.iter_n)
        self.recording.said.clear()
        self.result_path = f"{request.output_dir}/{RESULT}"
        return ours, floor

    def _timed(self, work: Callable[[], object]) -> Side:
        with self.jobs.held_back():
            self.log.clear()
            took = seconds(work)
            return Side(seconds=took, asked=self.log.asked())


def iteration(root: Path, repeat: int) -> Report:
    """Both sides in turn, iteration by iteration; the first ones import and connect, and do not count."""
    rounds = WARM_UP + size(ROUNDS * repeat, 1)
    step = [{"call": "run_python", "args": {"code": _PROGRAM, "purpose": "bench"}}]
    script = root / "script.json"
    script.write_text(json.dumps({"planner": [step] * rounds}))
    options = WorkspaceOptions(root=root / "workspace", allow_faults=True, max_processes=1)
    with spawn(options) as workspace:
        app = _app(workspace.info, model=f"scripted:{script}")
        like = app.settings.namespace
        engine = WarehouseEngine(app.workspace, http_path=workspace.info.http_path)
        recording = Recording(session=engine.session())
        with closing(recording), closing(Bare(workspace.info, like=like)) as bare:
            app.__dict__["warehouse"] = RetryingSession(lambda: recording, time.sleep)
            jobs = JobRuns(bare.client, options.root)
            pair = Pair(app=app, bare=bare, jobs=jobs, log=RequestLog(workspace.info), recording=recording)
            pair.start("bench", rounds=rounds)
            return _report([pair.iterate("bench") for _ in range(rounds)][WARM_UP:])


def _app(info: WorkspaceInfo, *, model: str) -> App:
    settings = from_environment({"RLM_WAREHOUSE_HTTP_PATH": info.http_path}, model=model)
    return App(settings=settings, environ={}, host=info.host, token=info.token)


def _report(pairs: Sequence[tuple[Side, Side]]) -> Report:
    def line(what: str, take: Callable[[Side], float], **rest: Any) -> Line:
        ours, floor = (median([take(pair[side]) for pair in pairs]) for side in (0, 1))
        return Line(bench="iteration", what=what, ours=ours, floor=floor, samples=len(pairs), **rest)

    ours, floor = pairs[-1][0].asked.kinds, pairs[-1][1].asked.kinds
    more = ", ".join(f"{count} x {kind}" for kind, count in sorted((ours - floor).items()))
    return Report(
        lines=[
            line("time", lambda side: side.seconds * 1000, unit="ms", compare="ratio"),
            line(
                "of it outside the workspace",
                lambda side: (side.seconds - side.asked.seconds) * 1000,
                unit="ms",
                compare="extra",
            ),
            line("SQL statements", lambda side: side.asked.statements, unit="", compare="extra"),
            line("requests, statements included", lambda side: side.asked.requests, unit="", compare="extra"),
        ],
        notes=[
            f"The floor asks {', '.join(f'{count} x {kind}' for kind, count in sorted(floor.items()))}.",
            f"Ours asks in addition: {more or 'nothing'}.",
        ],
    )
