"""Look at runs: ``status``, ``show``, ``logs``, and how each command prints a run and stays with it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from databricks_rlm_agent.app import App
from databricks_rlm_agent.cli.workspace import app_at, command_line, say
from databricks_rlm_agent.controller.tick import ControlLoop, SingleRunTick, TickReport
from databricks_rlm_agent.errors import NotFound, UsageError
from databricks_rlm_agent.layout import STDERR, STDOUT
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import DamagedRun, Run
from databricks_rlm_agent.values import check_id, clip

DONE, FAILED = 0, 1
# Between two ticks for a run that a person waits for.
_MAX_WAIT_S = 1.0
# An entry of a list of runs: its keys, and what of a run stands there.
_SUMMARY: dict[str, Callable[[Run], Any]] = {
    "run_id": lambda run: run.run_id,
    "parent": lambda run: run.parent_run_id,
    "state": lambda run: str(run.fsm_state),
    "iteration": lambda run: run.iter_n,
    "attempt": lambda run: run.attempt,
    "task": lambda run: run.capsule.objective,
    "answer": lambda run: run.outcome.answer,
    "reason": lambda run: run.outcome.reason,
    "question": lambda run: run.outcome.question,
    "waits_for": lambda run: run.outcome.waits_for,
    "since": lambda run: run.outcome.since,
    "due_at": lambda run: run.due_at and run.due_at.isoformat(),
    "created_at": lambda run: run.created_at.isoformat(),
    "updated_at": lambda run: run.updated_at.isoformat(),
}


def run_summary(run: Run | DamagedRun) -> dict[str, Any]:
    """A run as an entry of a list. One whose row cannot be read is DAMAGED: the reason says why."""
    if isinstance(run, DamagedRun):
        return dict.fromkeys(_SUMMARY) | {"run_id": run.run_id, "state": "DAMAGED", "reason": run.problem}
    return {name: of(run) for name, of in _SUMMARY.items()}


def outcome(app: App, run: Run) -> dict[str, Any]:
    """A run's end, its iterations, what it made and what it used."""
    results = app.ledger.results(run.run_id)
    tables = [table["name"] for row in results for table in json.loads(row["produced_tables"] or "[]")]
    artifacts = [item["path"] for row in results for item in json.loads(row["produced_artifacts"] or "[]")]
    tried = {row["iter_n"] for row in results}
    failed = tried - {row["iter_n"] for row in results if row["status"] == "SUCCESS"}
    return run_summary(run) | {
        # An iteration that was cancelled before it was planned is none.
        "iterations": max(tried, default=0) if run.fsm_state is State.CANCELLED else run.iter_n,
        "failed_iterations": len(failed),
        "evidence": run.outcome.evidence,
        "tables": list(dict.fromkeys(tables)),
        "artifacts": list(dict.fromkeys(artifacts)),
        "model": run.model or app.settings.model,
        "usage": run.budget.usage.model_dump(),
        "sub_usage": run.budget.sub_usage.model_dump(),
        "children": [run_summary(child) for child in app.store.children(run.run_id)],
    }


def run_details(app: App, run: Run) -> dict[str, Any]:
    """Everything that is stored of a run."""
    return outcome(app, run) | {
        "capsule": run.capsule.model_dump(mode="json"),
        "budget": run.budget.model_dump(mode="json"),
        "last_request": run.last_request and run.last_request.model_dump(mode="json"),
        "last_result": run.last_result and run.last_result.model_dump(),
        "requests": [with_json_columns(row) for row in app.ledger.requests(run.run_id)],
        "results": [with_json_columns(row) for row in app.ledger.results(run.run_id)],
        "events": [with_json_columns(row) for row in app.ledger.events(run.run_id)],
    }


def with_json_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its JSON columns parsed."""
    return {name: _parsed(value) for name, value in row.items()}


def emit(document: Mapping[str, Any] | Sequence[Any], *, as_json: bool, text: str) -> None:
    """Print the document as JSON, or the text for people."""
    print(json.dumps(document, ensure_ascii=False, default=str) if as_json else text, flush=True)


def outcome_text(document: Mapping[str, Any], options: argparse.Namespace) -> str:
    """An outcome for people; ``options`` say on which workspace its hints work."""
    lines = [f"Run {document['run_id']}: {document['state']}"]
    lines[0] += f" after {document['iterations']} iterations ({document['failed_iterations']} failed)"
    if wait := waiting(document):
        lines[0] += f", {wait}"
    parts = {name: document[name] for name in ("answer", "evidence", "reason", "question")}
    parts |= {name: ", ".join(document[name]) for name in ("tables", "artifacts")}
    lines += [f"{name.capitalize()}: {value}" for name, value in parts.items() if value]
    lines.append(
        f"Models: {_used(document['usage'])} by the planner, {_used(document['sub_usage'])} by programs"
    )
    if document["children"]:
        lines.append("Child runs:")
        lines += [
            f"  {child['run_id']}  {child['state']:<20} {child['task'][:60]}"
            for child in document["children"]
        ]
    if document["question"]:
        lines.append(f"Answer it with: {command_line(options, 'answer', document['run_id'], 'YOUR ANSWER')}")
    return "\n".join(lines)


def waiting(run: Mapping[str, Any]) -> str:
    """Return what a run waits for, after a transient error; empty if for nothing."""
    if not run["waits_for"]:
        return ""
    due = f", tries again at {run['due_at']:.19}" if run["due_at"] else ""
    return f"waiting for the {run['waits_for']} since {run['since']:.19}{due}"


def _used(usage: Mapping[str, Any]) -> str:
    tokens = usage["input_tokens"] + usage["output_tokens"]
    cost = f", ${usage['cost_usd']:.4f}" if usage["cost_usd"] else ""
    return f"{usage['calls']:,} calls ({tokens:,} tokens{cost})"


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in "{[":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


@dataclass(kw_only=True)
class Follower:
    """Reads a run after each tick that changed something, and prints its new events."""

    app: App
    run_id: str
    say: Callable[[str], None]
    run: Run | None = None
    _printed: int = 0

    def __call__(self, report: TickReport) -> bool:
        """Return whether the run has ended or waits for a person; other controllers may have advanced it."""
        if report.advanced or self.run is None or not report.due:
            self.run = self.app.store.get(self.run_id)
            if report.advanced:
                self._print_events()
        return self.run.fsm_state.terminal or self._waits_for_person(report)

    def _waits_for_person(self, report: TickReport) -> bool:
        """Return whether nothing goes on until a person answers the run or one of its children."""
        assert self.run is not None
        if self.run.fsm_state is State.WAITING_FOR_CHILDREN and not report.due and not report.working:
            return not self.app.store.unfinished(only=self.app.store.family(self.run_id))
        return self.run.fsm_state is State.WAITING_FOR_INPUT

    def _print_events(self) -> None:
        events = self.app.ledger.events(self.run_id)
        for event in events[self._printed :]:
            line = _line(event["kind"], json.loads(event["payload"]))
            if line:
                self.say(line)
        self._printed = len(events)


def _line(kind: str, event: dict[str, Any]) -> str | None:
    if kind == "transition" and event["to_state"] == "EXECUTING":
        job_run = event.get("databricks_run_id")
        return f"• iteration {event['iter_n']}: {event.get('purpose')} (job run {job_run})"
    if kind == "transition" and event["to_state"] == "WAITING_FOR_CHILDREN":
        return f"• iteration {event['iter_n']}: waits for {', '.join(map(str, event['children']))}"
    if kind == "transition" and event["from_state"] == "WAITING_FOR_CHILDREN":
        states = event.get("children") or {}
        return f"✓ child runs: {', '.join(f'{name} {state}' for name, state in states.items())}"
    if kind == "transition" and event["from_state"] == "INGESTING":
        good = event.get("status") == "SUCCESS"
        return f"{'✓' if good else '✗'} iteration {event['iter_n']}: {event.get('error_type') or 'done'}"
    if kind == "passing_error":
        return f"! {event.get('message')}"
    return None


def status(options: argparse.Namespace) -> int:
    """List runs, or show one."""
    with app_at(options) as app:
        if options.run_id:
            document = outcome(app, app.store.get(check_id(options.run_id)))
            emit(document, as_json=options.json, text=outcome_text(document, options))
            return 0
        if options.limit < 1:
            raise UsageError(f"--limit is {options.limit}.", fix="Give 1 or more.")
        runs = [run_summary(run) for run in app.store.newest(limit=options.limit)]
        lines = [
            f"{run['run_id']!s:<24} {run['state']:<20} {run['iteration'] or 0:>3}  "
            f"{(run['reason'] if run['state'] == 'DAMAGED' else run['task'])[:60]}"
            + (f"  ({wait}: {clip(run['reason'] or '', 200)})" if (wait := waiting(run)) else "")
            for run in runs
        ]
        emit({"runs": runs}, as_json=options.json, text="\n".join(lines) or "There are no runs yet.")
        return 0


def show(options: argparse.Namespace) -> int:
    """Everything about one run."""
    with app_at(options) as app:
        document = run_details(app, app.store.get(check_id(options.run_id)))
        lines = [outcome_text(document, options), f"Task: {document['task']}", "Results:"]
        for row in document["results"]:
            error = f" {row['error_type']}: {row['error_summary']}" if row["error_type"] else ""
            lines.append(f"  iteration {row['iter_n']} attempt {row['attempt']}: {row['status']}{error}")
        lines.append("Events:")
        lines += [_event(row) for row in document["events"]]
        emit(document, as_json=options.json, text="\n".join(lines))
        return 0


def _event(row: dict[str, Any]) -> str:
    payload = {name: value for name, value in row["payload"].items() if value is not None}
    title = row["kind"]
    if title == "transition":
        title = f"{payload.pop('from_state')} → {payload.pop('to_state')}"
    details = " ".join(f"{name}={clip(str(value), 120)!r}" for name, value in payload.items())
    return f"  {row['at']:%H:%M:%S} {title:<30} {details}"


def logs(options: argparse.Namespace) -> int:
    """Print the output of a run's programs, from the Volume."""
    with app_at(options) as app:
        run = app.store.get(check_id(options.run_id))
        requests = app.ledger.requests(run.run_id)
        wanted = options.iteration or max((row["iter_n"] for row in requests), default=0)
        attempts = [row["attempt"] for row in requests if row["iter_n"] == wanted]
        if not attempts:
            known = sorted({row["iter_n"] for row in requests})
            raise UsageError(
                f"Run {run.run_id} has no iteration {wanted} that ran.", fix=f"It has: {known or 'none'}."
            )
        folder = app.settings.namespace.attempt_dir(run.run_id, wanted, max(attempts))
        path = f"{folder}/{STDERR if options.stderr else STDOUT}"
        try:
            text = app.volume.get(path).decode(errors="replace")
        except NotFound:
            raise NotFound("The iteration has left no output yet.", where=path) from None
        document = {
            "run_id": run.run_id,
            "iteration": wanted,
            "attempt": max(attempts),
            "path": path,
            "text": text,
        }
        emit(document, as_json=options.json, text=text)
        return 0


def loop_of(app: App, run_id: str) -> ControlLoop:
    """The controller's part for one run and its child runs: other people's runs are not ours to pay for."""
    return replace(app.loop(max_wait_s=_MAX_WAIT_S), tick=SingleRunTick(tick=app.tick, run_id=run_id))


def carry_out(app: App, run_id: str, options: argparse.Namespace) -> dict[str, Any]:
    """Tick until a run has ended or waits for a person; return its outcome."""
    resume = command_line(options, "follow", run_id)
    try:
        app.publish_harness()
        report: Callable[[str], None] = (lambda _: None) if options.json else say
        say(f"Run {run_id}. If this is interrupted: {resume}")
        loop_of(app, run_id).run(done=Follower(app=app, run_id=run_id, say=report))
        return outcome(app, app.store.get(run_id))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted. Run {run_id} is kept; to go on with it: {resume}") from None


def emit_outcome(app: App, run: Run, options: argparse.Namespace) -> int:
    """Carry a run out and print its outcome; return the exit code."""
    document = carry_out(app, run.run_id, options)
    emit(document, as_json=options.json, text=outcome_text(document, options))
    return DONE if document["state"] == State.SUCCEEDED else FAILED
