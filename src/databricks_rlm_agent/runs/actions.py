"""The decisions of a planner: exactly one of these per iteration (design, section 7)."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, Literal

from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.values import storable
from executor_harness import protocol
from executor_harness.protocol import ENTRYPOINT_FILE, ChildTask, compiled

MAX_CODE_BYTES = 256 * 1024
MAX_TIMEOUT_S = 24 * 3600
MAX_TEXT_CHARS = 20_000
_COMPILE_FIXES = {
    "return": "A program is a script, which ends with its last line: report with rlm.finish(…)",
    "a": "Await is not supported at the top level: put it into `async def main()`, call asyncio.run(main())",
}


@dataclass(frozen=True, kw_only=True)
class RunPython:
    """Run a Python program on Spark as a job of its own. ``timeout_s`` None means the run's default."""

    code: str
    purpose: str
    timeout_s: int | None = None
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunSqlWorkflow:
    """Run a directory of SQL as a job of its own (docs/sql-workflows.md).

    ``files`` are texts by name. With ``path``, a Volume folder, they replace or add to those in it; what is
    published has none any more: all texts are in ``files``. ``catalog`` and ``schema`` None mean ours;
    ``timeout_s`` None means the run's default. ``restart``: nothing of earlier runs of that ``name`` counts.
    """

    name: str
    purpose: str
    path: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    engine: Literal["spark", "warehouse"] = "spark"
    catalog: str | None = None
    schema: str | None = None
    max_iterations: int = 30
    on_error: Literal["stop", "continue"] = "stop"
    restart: bool = False
    timeout_s: int | None = None


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Ask the person who gave the task, and wait for the answer without cost."""

    question: str


@dataclass(frozen=True, kw_only=True)
class Finish:
    """End the run with an answer. ``evidence`` says which results or tables support it."""

    answer: str
    evidence: str = ""


@dataclass(frozen=True, kw_only=True)
class Spawn:
    """Hand parts of the work to child runs, and wait for all of them without cost."""

    tasks: tuple[ChildTask, ...]


Action = RunPython | RunSqlWorkflow | Ask | Finish | Spawn


def check_python(code: str) -> str:
    """Return ``code`` if it is a program that can be published; raise InvalidData with the reason."""
    if not code.strip():
        raise InvalidData("The program is empty.", fix="Send the whole program in 'code'.")
    size = len(code.encode("utf-8", errors="replace"))
    if size > MAX_CODE_BYTES:
        raise InvalidData(
            f"The program has {size:,} bytes; the limit is {MAX_CODE_BYTES:,}.",
            fix="Keep data out of the program: read it from a table or a file.",
        )
    try:
        with warnings.catch_warnings():  # an odd escape such as "\d" is the program's affair, not our log's
            warnings.simplefilter("ignore")
            compiled(code.encode("utf-8"), ENTRYPOINT_FILE)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deeply
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "it is nested too deeply"
        match = re.match(r"'?(return|a)\w*\b.* outside ", reason)  # 'await', 'async for', asynchronous …
        fix = _COMPILE_FIXES[match[1]] if match else "Correct it"
        raise InvalidData(
            f"The program does not compile: {line}{reason}.", fix=f"{fix} and call again."
        ) from None
    return code


def check_timeout(timeout_s: int | None) -> int | None:
    """Return a time-out in seconds within its bounds; raise InvalidData otherwise."""
    if timeout_s is not None and not 1 <= timeout_s <= MAX_TIMEOUT_S:
        raise InvalidData(f"timeout_s is {timeout_s}; it must be between 1 and {MAX_TIMEOUT_S} seconds.")
    return timeout_s


def check_text(value: str, *, name: str) -> str:
    """Return a non-empty text within its bounds and in Unicode; raise InvalidData otherwise."""
    if not value.strip():
        raise InvalidData(f"{name} is empty.", fix=f"Say it in '{name}'.")
    if len(value) > MAX_TEXT_CHARS:
        raise InvalidData(f"{name} has {len(value):,} characters; the limit is {MAX_TEXT_CHARS:,}.")
    if storable(value) != value:
        raise InvalidData(f"{name} holds lone surrogates.", fix="Send whole characters.")
    return value


MAX_CHILDREN = protocol.CHILDREN
_INPUT_CHARS = 8_000


def child_id(parent: str, iter_n: int, name: str) -> str:
    """The id of a child run: the same from whichever controller, so that none is made twice."""
    digest = hashlib.sha256(f"{parent}/{iter_n}/{name}".encode("ascii")).hexdigest()
    return f"{parent[:30]}-{name[:20]}-{digest[:10]}".lower()


def check_children(
    tasks: list[ChildTask], *, limit: int, taken: Container[str] = frozenset()
) -> list[ChildTask]:
    """Return the tasks if they can be child runs and are at most ``limit``; raise InvalidData otherwise.

    ``taken`` are the names of the parent's own inputs, which an answer must not hide.
    """
    if not tasks:
        raise InvalidData("No child tasks are given.", fix="Name at least one.")
    if len(tasks) > limit:
        raise InvalidData(
            f"{len(tasks)} child runs are asked for, and there may be {limit}.",
            fix="Ask for fewer." if limit else "Its depth or budget is used up: do the work in this run.",
        )
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise InvalidData("Two child tasks have the same name.", fix="Name each by what it is to find out.")
    if hidden := [name for name in names if name in taken]:
        raise InvalidData(
            f"The run has an input named {hidden[0]!r} already.", fix="Name the child otherwise."
        )
    for task in tasks:
        inputs = json.dumps(task.inputs, ensure_ascii=False)
        if not task.task.strip() or storable(task.task + inputs) != task.task + inputs:
            raise InvalidData(f"The task of child {task.name!r} is empty or not valid UTF-8.")
        if len(inputs) > _INPUT_CHARS:
            raise InvalidData(
                f"The inputs of child {task.name!r} have more than {_INPUT_CHARS:,} characters.",
                fix="Give tables and files by name.",
            )
    return tasks
