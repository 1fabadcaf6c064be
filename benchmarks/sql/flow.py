"""A workflow of 24 files in 7 stages, whose statements take the time that they say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from databricks_rlm_agent.sqlflow.model import Plan
from databricks_rlm_agent.sqlflow.run.outcome import critical_path

ITERATIONS = 4  # until nothing changes; there is a file for each, for scripts that generate none
LOOP = "spread_loop"
_MARK = "/* takes {} s */"
_MARKED = re.compile(r"/\* takes ([0-9.]+) s \*/")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A file that makes one table. ``more``: seconds of a second statement, which adds to it."""

    table: str
    seconds: float
    reads: Sequence[str] = ()
    more: float | None = None

    def text(self) -> str:
        """The file."""
        rows = " UNION ALL ".join(f"SELECT id, v FROM {name}" for name in self.reads)
        source = f"({rows})" if rows else "(SELECT id, id % 7 AS v FROM range(60))"
        made = (
            f"-- {self.table}: it stands for one whose statement takes so long on a warehouse\n"
            f"CREATE OR REPLACE TABLE {self.table} USING DELTA AS\n"
            f"SELECT {_MARK.format(self.seconds)} id, max(v) AS v FROM {source} GROUP BY id;\n"
        )
        if self.more is None:
            return made
        return made + f"\nINSERT INTO {self.table} SELECT {_MARK.format(self.more)} -1 AS id, 0 AS v;\n"


_EXTRACTS = (
    ("people", 1.6),
    ("devices", 0.8),
    ("orders", 0.4),
    ("visits", 1.2),
    ("mails", 0.2),
    ("calls", 0.6),
)
_ENRICHED = (("ages", 0.4), ("places", 1.0), ("spend", 0.6), ("habits", 0.8), ("tenure", 0.2), ("risk", 0.4))
# Stage, and the tasks of it. Within a stage they need one another where they read what another makes.
STAGES: tuple[tuple[str, tuple[Task, ...]], ...] = (
    ("01_extract", tuple(Task(table=name, seconds=s) for name, s in _EXTRACTS)),
    (
        "02_edges",
        (
            Task(table="edges_a", seconds=0.4, reads=("people", "devices")),
            Task(table="edges_b", seconds=0.6, reads=("orders", "visits", "mails", "calls")),
            Task(table="edges_joined", seconds=0.4, reads=("edges_a", "edges_b"), more=0.2),
        ),
    ),
    ("03", ()),  # the loop
    ("04_canonical", (Task(table="canonical", seconds=0.6, reads=(f"{LOOP}_final",)),)),
    ("05_enrich", tuple(Task(table=name, seconds=s, reads=("canonical",)) for name, s in _ENRICHED)),
    (
        "06_master",
        (
            Task(table="master", seconds=0.8, reads=("ages", "places", "spend")),
            Task(table="master_wide", seconds=0.6, reads=("habits", "tenure", "risk"), more=0.2),
            Task(table="summary", seconds=0.4, reads=("master",)),
        ),
    ),
    ("07_metadata", (Task(table="metadata", seconds=0.2, reads=("summary", "master_wide")),)),
)
_LOOP_S = 0.4


def write(folder: Path) -> Path:
    """The workflow as files; the folder."""
    folder.mkdir(parents=True)
    for stage, tasks in STAGES:
        for task in tasks:
            (folder / f"{stage}_{task.table}.sql").write_text(task.text())
    for n in range(1, ITERATIONS + 1):
        before = "edges_joined" if n == 1 else f"{LOOP}_{n - 1}"
        (folder / f"03_{LOOP}_iteration_{n:02d}.sql").write_text(
            f"CREATE OR REPLACE TABLE {LOOP}_{n} USING DELTA AS\n"
            f"SELECT {_MARK.format(_LOOP_S)} id, greatest(v - 2, 0) AS v FROM {before};\n"
        )
    return folder


def latency(text: str) -> float:
    """The seconds that the statements in a text say that they take, in all."""
    return sum(float(found) for found in _MARKED.findall(text))


def delays(own_s: float) -> list[Mapping[str, object]]:
    """Rules for the workspace's fault control: what the statements say, and ``own_s`` for every other one."""
    marks = {task.seconds for _, tasks in STAGES for task in tasks} | {_LOOP_S}
    marks |= {task.more for _, tasks in STAGES for task in tasks if task.more is not None}
    always = {"action": "delay", "times": 1_000_000}
    rules: list[Mapping[str, object]] = [
        always | {"sql": re.escape(_MARK.format(mark)), "delay_s": mark} for mark in sorted(marks)
    ]
    return [*rules, always | {"sql": ".", "delay_s": own_s}] if own_s else rules


def known_path(plan: Plan, own_s: float) -> float:
    """The critical path by the latencies alone. To count changed rows, and the alias, take ``own_s`` each."""
    return critical_path(plan, _seconds(plan, own_s))[1]


def known_sum(plan: Plan, own_s: float) -> float:
    """The same, one statement after another."""
    return sum(_seconds(plan, own_s).values())


def _seconds(plan: Plan, own_s: float) -> dict[str, float]:
    found = {}
    for step in plan.steps:
        files = (step.file,) if step.file else step.loop.files if step.loop else ()
        found[step.id] = sum(latency(statement.text) for file in files for statement in file.statements)
        # The first iteration has nothing to be compared with; the alias is one more.
        found[step.id] += 0.0 if step.file else own_s * (ITERATIONS - 1 + 1)
    return found
