"""What a workflow tells the agent: lines as it runs, its report as a bounded JSON value, and a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from databricks_rlm_agent.sqlflow.checks import TableCheck
from databricks_rlm_agent.sqlflow.handover import to_agent
from databricks_rlm_agent.sqlflow.run.events import EventKind, WorkflowEvent
from databricks_rlm_agent.sqlflow.run.outcome import Report, StepOutcome, StepStatus
from databricks_rlm_agent.sqltext.errors import Problem

MAX_BYTES = 48 * 1024  # of JSON; rlm.finish takes 64 KB
_MESSAGE_CHARS = 400
_PROBLEMS = 8
_CHANGES = 12  # of a loop's first and last iterations
_DONE = {StepStatus.DONE, StepStatus.KEPT}


class AgentLog:
    """An observer that writes one line for what has happened to a step or an iteration."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def on(self, event: WorkflowEvent) -> None:
        """Write it, if it is worth a line."""
        took = "" if event.seconds is None else f" ({event.seconds:.1f} s)"
        match event.kind:
            case EventKind.RUN_STARTED:
                self._write(f"workflow run {event.text}")
            case EventKind.STEP_DONE:
                rows = "" if event.rows is None else f" {event.rows:,} rows"
                self._write(f"✓ {event.step}{rows}{took}")
            case EventKind.STEP_KEPT:
                self._write(f"✓ {event.step} (done before)")
            case EventKind.STEP_SKIPPED:
                self._write(f"- {event.step} is skipped: {event.text}")
            case EventKind.ITERATION_DONE:
                changed = "no rows before" if event.changed is None else f"{event.changed:,} rows changed"
                self._write(f"• {event.step} iteration {event.iteration}: {changed}{took}")
            case EventKind.STEP_FAILED | EventKind.WARNING | EventKind.RETRY if event.problem is not None:
                mark = "✗" if event.kind is EventKind.STEP_FAILED else "!"
                self._write(f"{mark} {event.step}: {problem_lines(event.problem)}")
            case EventKind.NOTICE | EventKind.INTERRUPTING:
                self._write(f"! {to_agent(event.text)}")


def problem_lines(problem: Problem) -> str:
    """What went wrong, where, and what to do, in one line."""
    where = f"{problem.where}: " if problem.where else ""
    hint = to_agent(problem.hint)
    return f"{where}{problem.message[:_MESSAGE_CHARS]} ({problem.kind.value}) {hint}".strip()


def summary(report: Report) -> str:
    """Why a workflow has not succeeded: the steps that failed, with file and line."""
    failed = [step for step in report.steps if step.problem is not None and step.status not in _DONE]
    told = [f"{step.id}: {problem_lines(step.problem)}" for step in failed[:3] if step.problem is not None]
    told += [f"and {len(failed) - 3} more steps failed"] if len(failed) > 3 else []
    told += [] if told else [to_agent(line) for line in report.next[:3]]
    done = sum(step.status in _DONE for step in report.steps)
    return (
        f"{report.workflow} {report.status.value}, {done} of {len(report.steps)} steps done. "
        + " | ".join(told)
    )


def document(report: Report, *, folder: str) -> dict[str, Any]:
    """The report for the planner: what went wrong first, then loops and tables; never too large to report."""
    whole: dict[str, Any] = {
        "workflow": report.workflow,
        "status": report.status.value,
        "steps": _counts(report),
        "folder": folder,
        "problems": [_problem(step) for step in report.steps if step.problem is not None][:_PROBLEMS],
        "loops": {step.id: _loop(step) for step in report.steps if step.iterations or step.end},
        "tables": [_table(table) for table in report.tables],
        "not_done": [step.id for step in report.steps if step.status not in _DONE],
        "warnings": [_told(problem) for step in report.steps for problem in step.warnings][:_PROBLEMS],
        "seconds": round(report.seconds, 1),
        "run": report.workflow_run_id,
        "notices": [to_agent(notice)[:_MESSAGE_CHARS] for notice in report.notices[:20]],
    }
    return _within(whole, ("notices", "warnings", "tables", "not_done", "loops"))


def _counts(report: Report) -> dict[str, int]:
    return {"all": len(report.steps)} | {
        status.value: report.count(status) for status in StepStatus if report.count(status)
    }


def _problem(step: StepOutcome) -> dict[str, Any]:
    assert step.problem is not None
    return {"step": step.id, "step_status": step.status.value, **_told(step.problem)}


def _told(problem: Problem) -> dict[str, Any]:
    told = {
        "file": problem.file,
        "line": problem.line,
        "kind": problem.kind.value,
        "message": problem.message[:_MESSAGE_CHARS],
        "hint": to_agent(problem.hint),
        "statement": problem.statement,
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _loop(step: StepOutcome) -> dict[str, Any]:
    changed = [measure.changed for measure in step.iterations]
    shown: list[Any] = changed
    if len(changed) > 2 * _CHANGES:
        shown = [*changed[:_CHANGES], "…", *changed[-_CHANGES:]]
    return {"end": step.end.value if step.end else None, "iterations": len(changed), "rows_changed": shown}


def _table(table: TableCheck) -> dict[str, Any]:
    told = {"table": table.table, "rows": table.rows, "unique": table.unique, "faults": list(table.faults)}
    return {name: value for name, value in told.items() if value not in (None, [])}


def _within(whole: dict[str, Any], order: Iterable[str]) -> dict[str, Any]:
    """``whole`` without the ends of lists that make it too large; says how much was left out."""
    for name in order:
        while _size(whole) > MAX_BYTES and whole[name]:
            kept = list(whole[name])[: len(whole[name]) // 2]
            left = len(whole[name]) - len(kept) + int(whole.get("left_out", {}).get(name, 0))
            whole["left_out"] = {**whole.get("left_out", {}), name: left}
            whole[name] = (
                {key: whole[name][key] for key in kept} if isinstance(whole[name], Mapping) else kept
            )
    return whole


def _size(value: Any) -> int:
    return len(json.dumps(value, default=str))
