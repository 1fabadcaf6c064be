"""What to do after a workflow has ended. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from databricks_rlm_agent.domain.workflow.running.outcome import Report, RunStatus, StepStatus


def advice(report: Report) -> tuple[str, ...]:
    """What to do next, a sentence each."""
    return (*_mend(report), *_go_on(report), *_consider(report))


def _mend(report: Report) -> Iterator[str]:
    for step in report.steps:
        if step.problem is not None:
            where = f" ({step.problem.where})" if step.problem.where else ""
            yield f"{step.id}{where}: {step.problem.hint}"
    for table in report.tables:
        if not table.exists and table.step is None:
            yield f"{table.table} is not there, and no file makes it: correct workflow.yml, or make it."
        elif not table.exists:
            yield f"{table.table} is not there although its file was run: look who drops or renames it."
        elif table.errors:
            yield f"{table.table} could not be checked: see the error, and what workflow.yml declares of it."
        elif not table.good:
            made = f" ({table.step})" if table.step else ""
            yield f"{table.table}: {'; '.join(table.faults)}: look at what makes it{made}."


def _go_on(report: Report) -> Iterator[str]:
    left = sum(step.status not in {StepStatus.DONE, StepStatus.KEPT} for step in report.steps)
    if left:
        yield f"{left} of {len(report.steps)} steps are left: run the same command with --resume."
    warnings = sum(len(step.warnings) for step in report.steps)
    if warnings:
        some = "A warning was" if warnings == 1 else f"{warnings} warnings were"
        yield f"{some} passed over: see the steps marked with ! above."


def _consider(report: Report) -> Iterator[str]:
    if report.status is not RunStatus.SUCCEEDED:
        return
    if report.tables and not report.optimized:
        yield "The tables are as they were written: --optimize-tables compacts what a step has made."
    if report.tables and not any(table.key or table.coverage or table.min_rows for table in report.tables):
        yield "No key is declared for any table: `tables:` in workflow.yml has keys and coverage checked."
    if report.place:
        yield (
            f"The record is in {report.place}.sql_workflow_runs and {report.place}.sql_workflow_steps, "
            f"workflow_run_id '{report.workflow_run_id}'."
        )
