"""What must be true of a run when it is over, whatever happened on its way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from databricks_rlm_agent.errors import NotFound
from databricks_rlm_agent.layout import RESULT
from databricks_rlm_agent.runs.fsm import State
from tools.crash.programs import ANSWER, ITERATIONS
from tools.crash.rig import Rig

if TYPE_CHECKING:
    from databricks.sdk.service.jobs import BaseRun

KEYS = {
    "run_state": "run_id",
    "execution_requests": "run_id, iter_n, attempt",
    "execution_results": "run_id, iter_n, attempt",
    "run_events": "run_id, seq",
}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """How the run ends without a fault: its state, its answer, the statuses and values of its attempts."""

    attempts: Sequence[tuple[int, int, str]] = ((1, 1, "FAILED"), (2, 1, "SUCCESS"))
    state: State = State.SUCCEEDED
    answer: str | None = ANSWER
    tables: bool = True
    calls: int = ITERATIONS  # of the model, if none had to be repeated
    values: dict[int, Any] | None = None  # what the programs finished with, by iteration; None: not compared
    # Programs that really ran, by iteration; where an attempt was killed on purpose it may have none.
    ran: dict[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found: figures, and problems in words (none if all is well)."""

    duplicates: int
    lost: int
    problems: tuple[str, ...]
    # Model calls that the run made and its budget does not show: the controller died before it could save.
    unspent: int = 0


def audit(
    rig: Rig,
    run_id: str,
    expected: Expected = Expected(),
    *,
    listed: Sequence[BaseRun] | None = None,
) -> Audit:
    """Compare the tables, the Jobs API and the files with what is expected.

    ``listed``: all job runs of the Jobs API, where many runs are looked at; else they are asked for.
    """
    problems = [*_end(rig, run_id, expected), *_epochs(rig, run_id)]
    twice = [*_ledgers(rig, run_id, expected), *_job_runs(rig, run_id, expected, listed)]
    twice += _programs(rig, run_id, expected)
    duplicates = sum(number for _, number in twice if number > 0)
    lost = -sum(number for _, number in twice if number < 0)
    return Audit(
        duplicates=duplicates,
        lost=lost + bool(problems),
        problems=(*problems, *(text for text, number in twice if number)),
        unspent=expected.calls - rig.app.store.get(run_id).budget.usage.calls,
    )


def _end(rig: Rig, run_id: str, expected: Expected) -> list[str]:
    run, problems = rig.app.store.get(run_id), []
    iterations = max((iter_n for iter_n, _, _ in expected.attempts), default=0) + 1
    if (run.fsm_state, run.outcome.answer, run.iter_n) != (expected.state, expected.answer, iterations):
        problems.append(f"ended as {run.fsm_state}, {run.outcome}, iteration {run.iter_n}")
    if run.lease_owner is not None:
        problems.append("a lease is left")
    found = [(row["iter_n"], row["attempt"], row["status"]) for row in rig.app.ledger.results(run_id)]
    if found != list(expected.attempts):
        problems.append(f"results are {found}")
    if expected.values is not None:
        files = {
            n: f"{rig.app.settings.namespace.attempt_dir(run_id, n, 1)}/{RESULT}" for n in expected.values
        }
        values = {n: json.loads(rig.app.volume.get(path))["value"] for n, path in files.items()}
        problems += [] if values == expected.values else [f"the values are {values}"]
    if expected.tables:
        name = f"main.rlm.t_{run_id.replace('-', '_')}"
        try:
            rows = rig.app.warehouse.fetch(f"SELECT total FROM {name}")
        except NotFound as error:
            problems.append(str(error))
        else:
            problems += [] if [row["total"] for row in rows] == [42] else [f"the table holds {rows}"]
    return problems


def _ledgers(rig: Rig, run_id: str, expected: Expected) -> list[tuple[str, int]]:
    found = []
    for table, key in KEYS.items():
        (row,) = rig.app.warehouse.fetch(
            f"SELECT count(*) AS n, count(DISTINCT {key}) AS k FROM main.rlm.{table} WHERE run_id = :run",
            {"run": run_id},
        )
        found.append((f"{table}: {row['n']} rows of {row['k']} keys", row["n"] - row["k"]))
        if table.startswith("execution_"):
            wanted = len(expected.attempts)
            found.append((f"{table}: {row['k']} keys for {wanted} attempts", row["k"] - wanted))
    return found


def _job_runs(
    rig: Rig, run_id: str, expected: Expected, every: Sequence[BaseRun] | None
) -> list[tuple[str, int]]:
    """Exactly one job run per attempt, and the ledger names it."""
    names = {f"rlm {run_id} iteration {n} attempt {k}" for n, k, _ in expected.attempts}
    if every is None:
        every = rig.job_runs(start_time_from=rig.since_ms)
    listed = [run for run in every if f" {run_id} " in (run.run_name or "")]
    count = Counter(run.run_name for run in listed)
    found = [(f"job runs {name!r}: {count[name]}", count[name] - 1) for name in names]
    found += [(f"unexpected job runs {name!r}: {n}", n) for name, n in count.items() if name not in names]
    ledger = {row["databricks_run_id"] for row in rig.app.ledger.requests(run_id)}
    if ledger != {run.run_id for run in listed}:
        found.append((f"the ledger names job runs {ledger}", -1))
    return found


def _programs(rig: Rig, run_id: str, expected: Expected) -> list[tuple[str, int]]:
    folder = rig.volume / "scratchpad" / f"run_{run_id}"
    ran = Counter(
        int(mark.relative_to(folder).parts[0].removeprefix("iter_")) for mark in folder.rglob("ran-*")
    )
    wanted = expected.ran if expected.ran is not None else Counter(n for n, _, _ in expected.attempts)
    every = {*ran, *wanted}
    return [(f"the program of iteration {n} ran {ran[n]} times", ran[n] - wanted.get(n, 0)) for n in every]


def _epochs(rig: Rig, run_id: str) -> list[str]:
    """Epochs rise with the sequence of events, and one controller acts in each."""
    problems: list[str] = []
    actors: dict[int, str] = {}
    last = 0
    for row in rig.app.ledger.events(run_id):
        if row["epoch"] < last:
            problems.append(f"event {row['seq']} is of epoch {row['epoch']}, after {last}")
        last = row["epoch"]
        if actors.setdefault(last, row["actor"]) != row["actor"]:
            problems.append(f"two controllers acted in epoch {last}")
        json.loads(row["payload"])
    return problems
