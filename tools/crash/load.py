"""Many runs of several iterations, drawn by a seed, and how each of them must end."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from databricks_rlm_agent.runs.budget import Budget
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import Run, new_run
from tools.crash.audit import Expected
from tools.crash.programs import TASK, program
from tools.crash.rig import Rig

# Adds its number to a sum that lies in the Volume: a program that ran twice, or not at all, shows in the
# values of all that follow, whatever the ledgers say.
_ADDING = """import pathlib, uuid
pathlib.Path(rlm.path('ran-' + uuid.uuid4().hex)).touch()
tag = rlm.inputs["tag"].text()
held = pathlib.Path(rlm.path("/Volumes/main/rlm/artifacts/sum-" + tag))
total = {number} + (int(held.read_text()) if held.exists() else 0)
held.write_text(str(total))
rlm.finish({{"total": total}})
"""
_TABLE = """name = "main.rlm.t_" + tag.replace("-", "_")
spark.sql(f"CREATE OR REPLACE TABLE {name} AS SELECT 42 AS total")
rlm.table(name)
"""
_FAILING = "raise ValueError('no such shop')\n"
_PRINTING = "for line in range(4000):\n    print(line, 'x' * 40)\n"
KINDS = ("plain", "failing", "printing", "spark", "slow")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One program: what it does besides adding ``number``, and the seconds that a slow one sleeps."""

    kind: str
    number: int
    seconds: float = 0.0

    @property
    def code(self) -> str:
        """The program's text."""
        more = {
            "failing": _FAILING,
            "printing": _PRINTING,
            "spark": _TABLE,
            "slow": f"import time\ntime.sleep({self.seconds:.1f})\n",
        }
        return _ADDING.format(number=self.number) + more.get(self.kind, "")


@dataclass(frozen=True, kw_only=True)
class Load:
    """One run: its programs, and whether it ends by an answer or because its iterations are used up."""

    run_id: str
    steps: tuple[Step, ...]
    answers: bool
    latency_s: float  # of the model

    @property
    def totals(self) -> dict[int, int]:
        """The sum after each iteration."""
        return {n: sum(step.number for step in self.steps[:n]) for n in range(1, len(self.steps) + 1)}

    @property
    def expected(self) -> Expected:
        """How it ends without a fault."""
        statuses = ["FAILED" if step.kind == "failing" else "SUCCESS" for step in self.steps]
        printing = sum(step.kind == "printing" for step in self.steps)
        return Expected(
            attempts=[(n, 1, status) for n, status in enumerate(statuses, 1)],
            state=State.SUCCEEDED if self.answers else State.FAILED,
            answer=f"The total is {self.totals[len(self.steps)]}." if self.answers else None,
            tables=any(step.kind == "spark" for step in self.steps),
            calls=len(self.steps) + self.answers + printing,
            values={n: {"total": total} for n, total in self.totals.items()},
        )

    def run(self, rig: Rig, folder: Path) -> Run:
        """The run, not yet stored; its script is written into the folder."""
        answer = {"call": "finish", "args": {"answer": "The total is {{value.total}}.", "evidence": "sum"}}
        script = {
            "planner": [*(program(step.code) for step in self.steps), [answer]],
            "summarizer": [_summary(step) for step in self.steps],
            "sub": [],
            "latency_s": self.latency_s,
        }
        path = folder / f"{self.run_id}.json"
        path.write_text(json.dumps(script))
        return new_run(
            TASK,
            run_id=self.run_id,
            clock=rig.app.clock,
            inputs={"tag": {"kind": "text", "text": self.run_id}},
            budget=Budget() if self.answers else Budget(max_iterations=len(self.steps)),
            model=f"scripted:{path}",
        )


def draw(rng: random.Random, count: int, iterations: tuple[int, int] = (3, 5)) -> Sequence[Load]:
    """Runs with a number of programs between two bounds; every tenth uses its iterations up."""
    return [_draw(rng, f"r{number:03d}", iterations) for number in range(count)]


def _draw(rng: random.Random, run_id: str, iterations: tuple[int, int]) -> Load:
    steps = tuple(
        Step(kind=rng.choice(KINDS), number=rng.randint(1, 999), seconds=rng.uniform(1, 3))
        for _ in range(rng.randint(*iterations))
    )
    return Load(
        run_id=run_id, steps=steps, answers=rng.random() > 0.1, latency_s=round(rng.uniform(0, 0.6), 2)
    )


def _summary(step: Step) -> list[dict[str, Any]]:
    return [{"call": "remember", "args": {"digest": "Many lines."}}] if step.kind == "printing" else []
