"""Decides which steps of an earlier run still count, from its rows and the files as they are now. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Loop, Plan, Step
from databricks_rlm_agent.sqlflow.plan.iterations import iteration
from databricks_rlm_agent.sqlflow.run.exactly_once import Key, with_checkpoint
from databricks_rlm_agent.sqlflow.run.outcome import Measure
from databricks_rlm_agent.sqlflow.run.record import BEGUN, DONE, STALE, VOID, StepRow
from databricks_rlm_agent.sqlflow.run.versions import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ResumeState:
    """The state that an earlier run has left.

    ``kept``: steps that are done. ``history``: the measures of a loop's first iterations that are done.
    ``checkpoints``: those of steps and iterations. ``void``: steps and iterations on record that count no
    more, with the status to record for them; else a file that gets its old text back would count as done
    with what another text has made since.
    """

    kept: frozenset[str] = frozenset()
    history: Mapping[str, tuple[Measure, ...]] = field(default_factory=dict)
    checkpoints: Mapping[Key, tuple[Checkpoint, ...]] = field(default_factory=dict)
    void: tuple[tuple[str, int, str], ...] = ()

    def void_rows(self, plan: Plan, *, at: datetime) -> list[StepRow]:
        """Return the rows that record what counts no more."""
        hashes = {step.id: step_hash(step) for step in plan.steps}
        times: Any = {"started_at": at, "finished_at": at}
        return [
            StepRow(step=step, iteration=n, status=status, file=step, sha256=hashes[step], **times)
            for step, n, status in self.void
        ]


def step_hash(step: Step) -> str:
    """Return the content hash of a step: its file's, or that of all that determines how a loop runs."""
    if step.file is not None:
        return step.file.sha256
    assert step.loop is not None
    loop = step.loop
    parts = {
        "files": [file.sha256 for file in loop.files],
        "first": loop.first,
        "template": loop.template.text if loop.template else None,
        "key": loop.key_columns,
        "convergence": loop.convergence,
        "alias": loop.alias,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def resume_state(plan: Plan, rows: Sequence[StepRow]) -> ResumeState:
    """Judge the rows of an earlier run, in their order.

    A step counts if its last row says that it is done with the hash that it has now, and if all that it comes
    after counts: the steps that it needs, and all steps of earlier stages in the plan.
    """
    last_done, iterations = _read(rows)
    kept: set[str] = set()
    history: dict[str, tuple[Measure, ...]] = {}
    void: list[tuple[str, int, str]] = []
    earlier_stages_kept = True
    for _stage, steps in plan.stages:
        in_stage = {step.id for step in steps}
        for step in steps:
            row, done = last_done.get(step.id), iterations.get(step.id, {})
            if not earlier_stages_kept or any(need.step in in_stage - kept for need in step.needs):
                void += [(step.id, 0, VOID)] if done or row is not None else []
                continue
            if row is not None and row.sha256 == step_hash(step):
                kept.add(step.id)
            elif row is not None:
                void.append((step.id, 0, STALE))
            if step.loop is not None:
                history[step.id] = valid = _valid_measures(step.loop, done)
                after = 1 + len(valid)
                void += [(step.id, after, VOID)] if any(n >= after for n in done) else []
        earlier_stages_kept = earlier_stages_kept and in_stage <= kept
    return ResumeState(
        kept=frozenset(kept), history=history, checkpoints=_checkpoints(rows, void), void=tuple(void)
    )


def _checkpoints(
    rows: Sequence[StepRow], void: Sequence[tuple[str, int, str]]
) -> dict[Key, tuple[Checkpoint, ...]]:
    """Return the checkpoints in order, marked as void where what the step comes after has changed since."""
    found: dict[Key, list[Checkpoint]] = {}
    for row in rows:
        key = (row.step, row.iteration)
        if row.status == BEGUN and row.detail is not None:
            found[key] = with_checkpoint(found.get(key, ()), Checkpoint.from_dict(row.detail))
        elif row.status == VOID:
            _make_void(found, *key)
    for step, n, status in void:
        if status == VOID:
            _make_void(found, step, n)
    return {key: tuple(checkpoints) for key, checkpoints in found.items()}


def _make_void(found: dict[Key, list[Checkpoint]], step: str, n: int) -> None:
    for key, checkpoints in found.items():
        if key[0] == step and key[1] >= n:
            found[key] = [replace(each, void=True) for each in checkpoints]


def _read(rows: Sequence[StepRow]) -> tuple[dict[str, StepRow], dict[str, dict[int, StepRow]]]:
    """Return the rows of done steps and of done iterations: a later row of an earlier one undoes them."""
    last_done: dict[str, StepRow] = {}
    iterations: dict[str, dict[int, StepRow]] = {}
    for row in rows:
        done = iterations.setdefault(row.step, {})
        if row.iteration or row.status == VOID:
            for n in [n for n in done if n >= row.iteration]:
                del done[n]
        if row.status != DONE:
            last_done.pop(row.step, None)
        elif row.iteration:
            done[row.iteration] = row
        else:
            last_done[row.step] = row
    return last_done, iterations


def _valid_measures(loop: Loop, done: Mapping[int, StepRow]) -> tuple[Measure, ...]:
    """Return the measures of the loop's first iterations that are done with the texts that they have now."""
    found: list[Measure] = []
    with suppress(UsageError):  # for an iteration that cannot be made any more
        while (row := done.get(1 + len(found))) is not None and row.detail is not None:
            if row.sha256 != iteration(loop, loop.first + len(found)).file.sha256:
                break
            found.append(Measure(**row.detail))
    return tuple(found)
