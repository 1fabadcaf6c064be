"""The scripted run of the matrices: one program that fails, one that writes a table, an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TASK = "Find the total."
ANSWER = "The total is 42."
ITERATIONS = 3
# What programs ask models, what the stub answers, how long that takes (seconds), and what it claims to use.
PROMPT, SAYS = "{}: number {}?", "{} says {}"
LATENCY_S = 0.2
ASKED_TOKENS, SAID_TOKENS = 10, 3

# Each start of a program leaves a file of its own: what really ran can be counted afterwards.
MARK = "import pathlib, uuid\npathlib.Path(rlm.path('ran-' + uuid.uuid4().hex)).touch()\n"
FAILING = f"{MARK}raise ValueError('no such shop')\n"
# Ends its own process, so that no row is written: the controller has to.
DYING = f"{MARK}import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
SHORT = f"{MARK}rlm.finish({{'total': 42}})\n"
SLEEPING = f"{MARK}import time\ntime.sleep(300)\n"
WRITING = f"""{MARK}name = "main.rlm.t_" + rlm.inputs["tag"].text().replace("-", "_")
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
    planner = [*map(program, programs or (FAILING, WRITING)), finish("The total is {{value.total}}.")]
    path.write_text(json.dumps({"planner": planner, "summarizer": [], "sub": [], "latency_s": 0}))
    return path


def finish(answer: str) -> list[dict[str, Any]]:
    return [{"call": "finish", "args": {"answer": answer, "evidence": "the table"}}]


def write_stub(path: Path) -> Path:
    """What serving endpoints answer: every ``PROMPT`` with ``SAYS``, after a while."""
    match = PROMPT.format(r"([\w-]+)", r"(\d+)").replace("?", r"\?")
    rule = {"match": f"^{match}$", "text": SAYS.format(r"\1", r"\2")}
    usage = {"input_tokens": ASKED_TOKENS, "output_tokens": SAID_TOKENS}
    path.write_text(json.dumps({"sub": {"rules": [rule], "latency_s": LATENCY_S, "usage": usage}}))
    return path
