"""``demo``: the main job on a laptop, with real data, real Spark, real Delta, and no account."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from databricks_rlm_agent.app import App
from databricks_rlm_agent.cli.demo.data import load
from databricks_rlm_agent.cli.demo.script import TASK, script
from databricks_rlm_agent.cli.document import emit, outcome_text
from databricks_rlm_agent.cli.place import app_at, say
from databricks_rlm_agent.cli.work import DONE, FAILED, follow, resolved_model
from databricks_rlm_agent.domain.fsm import State
from databricks_rlm_agent.domain.new_run import new_run

_SCRIPTED_NOTE = "scripted: a recorded model's replies; the programs, errors, tables and figures are real"


def demo(options: argparse.Namespace) -> int:
    """Start a workspace, load the tables, and have the agent answer a question about them."""
    root = Path(options.root or tempfile.mkdtemp(prefix="rlm-demo-")).absolute()
    options.root, tell = str(root), (lambda _: None) if options.json else say
    tell(f"Local workspace in {root}")
    with app_at(options) as app:
        app.init()
        inputs = load(app, tell)
        model = resolved_model(app, options.model) if options.model else _scripted(root)
        tell(f"Model: {model if options.model else _SCRIPTED_NOTE}")
        tell(f"Task: {TASK}")
        fresh = new_run(TASK, run_id=app.new_id("demo-"), clock=app.clock, inputs=inputs, model=model)
        app.store.insert([fresh])
        document = follow(app, fresh.run_id, quiet=options.json)
        document |= {"workspace_root": str(root), "scripted": model.startswith("scripted:")}
        text = "\n".join(["", outcome_text(document), *_preview(app, document), *_next(root, fresh.run_id)])
        emit(document, as_json=options.json, text=text)
        return DONE if document["state"] == State.SUCCEEDED else FAILED


def _scripted(root: Path) -> str:
    path = root / "demo_script.json"
    path.write_text(json.dumps(script(), indent=1), encoding="utf-8")
    return f"scripted:{path}"


def _preview(app: App, document: dict[str, Any]) -> list[str]:
    lines = []
    for table in document["tables"]:
        rows = app.warehouse.fetch(f"SELECT * FROM {table} ORDER BY 1 LIMIT 20")  # noqa: S608 a checked name
        if rows:
            widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in rows[0]}
            lines.append(f"\n{table}")
            lines.append("  ".join(name.ljust(width) for name, width in widths.items()))
            lines += [
                "  ".join(str(row[name]).ljust(width) for name, width in widths.items()) for row in rows
            ]
    return lines


def _next(root: Path, run_id: str) -> list[str]:
    return [
        "",
        f"Everything is in {root}. To look further:",
        f"  rlm-agent show {run_id} --root {root}",
        f"  rlm-agent logs {run_id} --root {root}",
    ]
