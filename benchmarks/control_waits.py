"""From a job's end to its ingestion, with a controller that goes on as a deployed one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from local_workspace import WorkspaceOptions, spawn

from benchmarks.control_stage import Stage, script
from benchmarks.measure import Line, Report, median, progress, size
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import new_run

# What, runs at a time, iterations of each, seconds that a program takes besides its start.
_CASES = (("short jobs, one run", 1, 20, 0), ("jobs of 8 s, four runs", 4, 5, 8))
_CONTROLLER = "from databricks_rlm_agent.cli.main import main; raise SystemExit(main())"
_DEADLINE_S = 600.0


def waits(root: Path, repeat: int) -> Report:
    """The job's end is the workspace's own record, its ingestion the controller's event."""
    lines = []
    with spawn(WorkspaceOptions(root=root / "workspace")) as workspace:
        for number, (what, runs, iterations, takes) in enumerate(_CASES):
            iterations, takes = size(iterations * repeat, 3), size(takes, 0)
            progress(f"{what}: {iterations} iterations")
            program = f"import time\ntime.sleep({takes})\nrlm.finish(42)\n"
            model = script(root / f"script{number}.json", iterations=iterations, program=program, finish=True)
            stage = Stage.open(workspace.info, f"waits{number}", model=model)
            with closing(stage.app):
                # Ids of their own: an idempotency token is made of the run's id, and knows no schema.
                ids = [f"waits{number}x{n}" for n in range(runs)]
                stage.app.store.insert(
                    [new_run("Bench", run_id=run_id, clock=stage.app.clock, model=model) for run_id in ids]
                )
                with _controller(stage):
                    _wait(stage)
                found = sorted(delay for run_id in ids for delay in _delays(stage, run_id))
            lines += [
                Line(
                    bench="control",
                    what=f"job's end to ingestion, {what}, {kind}",
                    ours=value,
                    unit="s",
                    compare="value",
                    samples=len(found),
                )
                for kind, value in (("median", median(found)), ("worst", found[-1]))
            ]
    note = "From end_time of the workspace's run record to the transition in run_events."
    return Report(lines=lines, notes=[note])


@contextmanager
def _controller(stage: Stage) -> Iterator[None]:
    """``rlm-agent orchestrate`` in a process of its own."""
    arguments = [sys.executable, "-c", _CONTROLLER, "orchestrate", "--root", stage.info.root]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    environ = kept | {"ADK_DELTA_SCHEMA": stage.namespace.schema}
    process = subprocess.Popen(arguments, env=environ, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _wait(stage: Stage) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while stage.app.store.unfinished():
        if time.monotonic() > deadline:
            raise RuntimeError(f"The runs have not ended within {_DEADLINE_S:g} s.")
        time.sleep(2)  # a rare look: each takes time from the controller


def _delays(stage: Stage, run_id: str) -> Iterator[float]:
    from databricks.sdk import WorkspaceClient

    client = WorkspaceClient(host=stage.info.host, token=stage.info.token)
    run = stage.app.store.get(run_id)
    if run.fsm_state is not State.SUCCEEDED:
        raise RuntimeError(f"Run {run_id} is {run.fsm_state}: {run.outcome.reason}")
    taken_in = {
        (event["iter_n"], event["attempt"]): at
        for at, event in _transitions(stage, run_id)
        if event["from_state"] == State.INGESTING
    }
    for request in stage.app.ledger.requests(run_id):
        ended = client.jobs.get_run(request["databricks_run_id"]).end_time or 0
        yield taken_in[request["iter_n"], request["attempt"]] - ended / 1000


def _transitions(stage: Stage, run_id: str) -> Iterator[tuple[float, dict[str, Any]]]:
    for row in stage.app.ledger.events(run_id):
        if row["kind"] == "transition":
            yield row["at"].timestamp(), json.loads(row["payload"])
