"""Child runs: what a parent asks of them, what each gets of its budget, and what comes back. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container

from pydantic import BaseModel, ConfigDict

from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.values import storable
from executor_harness import protocol
from executor_harness.protocol import ChildTask

MAX_CHILDREN = protocol.CHILDREN
_INPUT_CHARS = 8_000


class AnswerNote(BaseModel):
    """A child's end, as its parent's prompt tells it. ``path`` is the whole answer's document."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    run_id: str
    state: str
    path: str
    says: str = ""


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
