"""``status``, ``show``, ``logs``: look at runs."""

from __future__ import annotations

import argparse
from typing import Any

from databricks_rlm_agent.cli.output import emit, outcome, outcome_text, run_details, run_summary, waiting
from databricks_rlm_agent.cli.workspace import app_at
from databricks_rlm_agent.errors import NotFound, UsageError
from databricks_rlm_agent.layout import STDERR, STDOUT
from databricks_rlm_agent.values import check_id, clip


def status(options: argparse.Namespace) -> int:
    """List runs, or show one."""
    with app_at(options) as app:
        if options.run_id:
            document = outcome(app, app.store.get(check_id(options.run_id, what="run id")))
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
        document = run_details(app, app.store.get(check_id(options.run_id, what="run id")))
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
        run = app.store.get(check_id(options.run_id, what="run id"))
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
