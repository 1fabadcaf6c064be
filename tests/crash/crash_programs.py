"""The scripted run of the matrices: one program that fails, one that writes a table, an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TASK = "Find the total."
ANSWER = "The total is 42."
ITERATIONS = 3

# Each start of a program leaves a file of its own: what really ran can be counted afterwards.
_MARK = "import pathlib, uuid\npathlib.Path(rlm.path('ran-' + uuid.uuid4().hex)).touch()\n"
FAILING = f"{_MARK}raise ValueError('no such shop')\n"
# Ends its own process, so that no row is written: the controller has to.
DYING = f"{_MARK}import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
SHORT = f"{_MARK}rlm.finish({{'total': 42}})\n"
SLEEPING = f"{_MARK}import time\ntime.sleep(300)\n"
WRITING = f"""{_MARK}name = "main.rlm.t_" + rlm.inputs["tag"].text().replace("-", "_")
spark.sql(f"CREATE OR REPLACE TABLE {{name}} AS SELECT 42 AS total")
rlm.table(name)
rlm.finish({{"total": 42}})
"""
# Sleeps when it is run for the first time: the second attempt of the same program writes the table.
FIRST_SLEEPING = f"""{WRITING}
import time
flag = pathlib.Path(rlm.path("/Volumes/main/rlm/artifacts/flag-" + rlm.inputs["tag"].text()))
first = not flag.exists()
flag.touch()
time.sleep(300 * first)
"""


def program(code: str) -> list[dict[str, Any]]:
    return [{"call": "run_python", "args": {"code": code, "purpose": "find the total", "timeout_s": 60}}]


def write_script(path: Path, *programs: str) -> Path:
    """A script that runs these programs, one per iteration, and answers with the last one's total."""
    answer = [
        {"call": "finish", "args": {"answer": "The total is {{value.total}}.", "evidence": "the table"}}
    ]
    planner = [*map(program, programs or (FAILING, WRITING)), answer]
    path.write_text(json.dumps({"planner": planner, "summarizer": [], "sub": [], "latency_s": 0}))
    return path
