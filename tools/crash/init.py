"""``rlm-agent init`` is killed between any two of its requests; the next one completes what it began."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from databricks_rlm_agent.errors import RlmError
from tools.crash.audit import Audit
from tools.crash.points import Case, Mode
from tools.crash.rig import GIVE_UP_S, Rig

INIT = ("init", "--json")


@dataclass(frozen=True, kw_only=True)
class Step:
    """The n-th request (from 0) of ``init``, by what it does."""

    n: int
    name: str


def record_init(rig: Rig) -> tuple[list[Step], dict[str, Any]]:
    """The requests of an ``init`` without faults in a schema of its own, and what it made."""
    rig.fault()
    controller = rig.controller(*INIT, ADK_DELTA_SCHEMA="undisturbed")
    assert controller.wait(GIVE_UP_S), controller.log.read_text()
    assert controller.exit_code == 0, controller.log.read_text()
    steps = [Step(n=n, name=_name(entry, "undisturbed")) for n, entry in enumerate(rig.log())]
    return steps, made(rig, "undisturbed")


def kill_init(rig: Rig, step: Step, mode: Mode, schema: str, expected: Mapping[str, Any]) -> Case:
    """Kill ``init`` at one request; then it is done again, and once more, which must find nothing to do."""
    after = mode == "after"
    rig.fault({"skip": step.n, "action": "hold", "after_effect": after})
    first = rig.controller(*INIT, ADK_DELTA_SCHEMA=schema)
    held = rig.held(first)
    first.kill()
    if held is not None:
        rig.release(held, drop=not after)
    problems = []
    for changes in (True, False):
        again = rig.controller(*INIT, ADK_DELTA_SCHEMA=schema)
        if not again.wait(GIVE_UP_S) or again.exit_code != 0:
            problems.append(f"init ended with {again.exit_code}: {again.log.read_text()[-300:]}")
        elif not changes and (done := json.loads(again.log.read_text())) and _changed(done):
            problems.append(f"the third init still did {done}")
    try:
        found = made(rig, schema)
    except RlmError as error:
        problems.append(str(error))
    else:
        problems += [f"{key} is {found[key]}" for key in expected if found[key] != expected[key]]
    audit = Audit(duplicates=0, lost=len(problems), problems=tuple(problems))
    return Case(
        name=f"{step.n}: {step.name} {mode}",
        group=re.sub(r"\S+/", "", step.name) if "PUT" in step.name else step.name,
        reached=held is not None,
        finished=not problems,
        recovery_s=0.0,
        audit=audit,
    )


def made(rig: Rig, schema: str) -> dict[str, Any]:
    """What ``init`` has made in a schema: tables with their columns and rows, the files of the harness."""
    fetch = rig.app.warehouse.fetch
    names = sorted(row["tableName"] for row in fetch(f"SHOW TABLES IN main.{schema}"))
    columns = {
        name: [tuple(r.values())[:2] for r in fetch(f"DESCRIBE main.{schema}.{name}")] for name in names
    }
    counts = {name: fetch(f"SELECT count(*) AS n FROM main.{schema}.{name}")[0]["n"] for name in names}
    volume = rig.root / "Volumes" / "main" / schema
    files = {
        str(path.relative_to(volume)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(volume.rglob("*"))
        if path.is_file()
    }
    return {"columns": columns, "counts": counts, "files": files}


def _changed(document: Mapping[str, Any]) -> bool:
    return bool(document["created"] or document["migrations"])


def _name(entry: Mapping[str, Any], schema: str) -> str:
    sql = " ".join((entry["sql"] or "").split())
    text = sql[:60] if sql else f"{entry['method']} {entry['path']}"
    return text.replace(f"main.{schema}.", "").replace(f"/{schema}/", "/")
