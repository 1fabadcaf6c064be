"""Which steps of an earlier run still count, by its rows and by the files as they are now. Pure."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Loop, Plan, Step
from databricks_rlm_agent.sqlflow.plan.iterations import iteration
from databricks_rlm_agent.sqlflow.run.convergence import Measure
from databricks_rlm_agent.sqlflow.run.exactly_once import Key, with_note
from databricks_rlm_agent.sqlflow.run.record import BEGUN, DONE, STALE, VOID, StepRow
from databricks_rlm_agent.sqlflow.run.versions import VersionNote


@dataclass(frozen=True, kw_only=True)
class ResumeState:
    """What is left of an earlier run.

    ``kept`` are steps that are done, ``history`` the measures of a loop's first iterations that are,
    ``notes`` what was noted in the files of steps and iterations.
    ``void`` are steps and iterations on record that count no more, with what is to be recorded of them: else
    a file that gets its old text back would count as done with what another text has made since.
    """

    kept: frozenset[str] = frozenset()
    history: Mapping[str, tuple[Measure, ...]] = field(default_factory=dict)
    notes: Mapping[Key, tuple[VersionNote, ...]] = field(default_factory=dict)
    void: tuple[tuple[str, int, str], ...] = ()


def identity(step: Step) -> str:
    """The content hash of a step: a file's, or of all that makes a loop run as it does."""
    if step.file is not None:
        return step.file.sha256
    assert step.loop is not None
    return _loop_identity(step.loop)


def _loop_identity(loop: Loop) -> str:
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

    A step counts if its last row says that it is done with the hash that it has now, and all that it comes
    after counts: the steps that it needs, and all of earlier stages that are in the plan.
    """
    last, iterations = _read(rows)
    kept: set[str] = set()
    history: dict[str, tuple[Measure, ...]] = {}
    void: list[tuple[str, int, str]] = []
    whole = True
    for _stage, steps in plan.stages:
        inside = {step.id for step in steps}
        for step in steps:
            row, done = last.get(step.id), iterations.get(step.id, {})
            if not whole or any(need.step in inside - kept for need in step.needs):
                void += [(step.id, 0, VOID)] if done or row is not None else []
                continue
            if row is not None and row.sha256 == identity(step):
                kept.add(step.id)
            elif row is not None:
                void.append((step.id, 0, STALE))
            if step.loop is not None:
                history[step.id] = counting = _counting(step.loop, done)
                after = 1 + len(counting)
                void += [(step.id, after, VOID)] if any(n >= after for n in done) else []
        whole = whole and inside <= kept
    return ResumeState(kept=frozenset(kept), history=history, notes=_notes(rows, void), void=tuple(void))


def _notes(
    rows: Sequence[StepRow], void: Sequence[tuple[str, int, str]]
) -> dict[Key, tuple[VersionNote, ...]]:
    """What was noted, in order; void where what the step comes after has changed since."""
    found: dict[Key, list[VersionNote]] = {}
    for row in rows:
        key = (row.step, row.iteration)
        if row.status == BEGUN and row.detail is not None:
            found[key] = with_note(found.get(key, ()), VersionNote.from_dict(row.detail))
        elif row.status == VOID:
            _make_void(found, *key)
    for name, n, status in void:
        if status == VOID:
            _make_void(found, name, n)
    return {key: tuple(notes) for key, notes in found.items()}


def _make_void(found: dict[Key, list[VersionNote]], step: str, n: int) -> None:
    for key, notes in found.items():
        if key[0] == step and key[1] >= n:
            found[key] = [replace(note, void=True) for note in notes]


def _read(rows: Sequence[StepRow]) -> tuple[dict[str, StepRow], dict[str, dict[int, StepRow]]]:
    """The steps that are done, and the iterations that are: a later row of an earlier one undoes them."""
    last: dict[str, StepRow] = {}
    iterations: dict[str, dict[int, StepRow]] = {}
    for row in rows:
        done = iterations.setdefault(row.step, {})
        if row.iteration or row.status == VOID:
            for n in [n for n in done if n >= row.iteration]:
                del done[n]
        if row.status != DONE:
            last.pop(row.step, None)
        elif row.iteration:
            done[row.iteration] = row
        else:
            last[row.step] = row
    return last, iterations


def _counting(loop: Loop, done: Mapping[int, StepRow]) -> tuple[Measure, ...]:
    found: list[Measure] = []
    for n in itertools.count(loop.first):
        row = done.get(loop.place(n))
        if row is None or row.detail is None or row.sha256 != _sha256(loop, n):
            return tuple(found)
        found.append(Measure(**row.detail))
    raise AssertionError("unreachable")


def _sha256(loop: Loop, n: int) -> str | None:
    try:
        return iteration(loop, n).file.sha256
    except UsageError:  # it cannot be made any more
        return None
