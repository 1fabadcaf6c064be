"""Child runs that a program asks for. They begin when it has ended well, and answer the next program."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from executor_harness import protocol
from executor_harness.volumes import PREFIX

_FIELDS = frozenset({"name", "task", "inputs"})


class Spawned:
    """What a program has asked for so far. Every mistake is raised at once, so that it can be mended."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._tasks: dict[str, protocol.ChildTask] = {}

    def add(self, tasks: Iterable[Mapping[str, Any]]) -> None:
        """Ask for more child runs. Raises TypeError and ValueError."""
        if isinstance(tasks, Mapping):
            tasks = [tasks]
        wanted = [_task(task) for task in tasks]
        names = [*self._tasks, *(task["name"] for task in wanted)]
        if len(set(names)) < len(names):
            raise ValueError(f"rlm.spawn: two child runs have the same name: {', '.join(sorted(names))}")
        if len(names) > self._room:
            raise ValueError(
                f"rlm.spawn: {len(names)} child runs are asked for, and this run may have {self._room}"
                + ("" if self._room else ": it is at its depth's or budget's end, so do the work here")
            )
        self._tasks |= {task["name"]: task for task in wanted}

    def tasks(self) -> list[protocol.ChildTask]:
        """All of them, in order."""
        return list(self._tasks.values())


def _task(given: Mapping[str, Any]) -> protocol.ChildTask:
    if not isinstance(given, Mapping) or not {"name", "task"} <= set(given) <= _FIELDS:
        raise TypeError('rlm.spawn: a child run is {"name": …, "task": …, "inputs": {…}}')
    name, task, inputs = given["name"], given["task"], given.get("inputs") or {}
    if not isinstance(name, str) or not re.fullmatch(protocol.CHILD_NAME_PATTERN, name):
        raise ValueError(f"rlm.spawn: the name {name!r} does not match {protocol.CHILD_NAME_PATTERN}")
    if not isinstance(task, str) or not task.strip() or len(task) > protocol.CHILD_TASK_CHARS:
        raise ValueError(
            f"rlm.spawn: the task of {name} must be a text of 1 to {protocol.CHILD_TASK_CHARS} characters; "
            "give long material as an input"
        )
    if not isinstance(inputs, Mapping):
        raise TypeError(f"rlm.spawn: the inputs of {name} must be a dict of handles")
    return {"name": name, "task": task, "inputs": {str(key): _handle(name, inputs[key]) for key in inputs}}


def _handle(child: str, value: Any) -> protocol.Input:
    """An input as a request has it; of a text, a Volume path is a file."""
    if isinstance(value, str):
        return {"kind": "file", "path": value} if value.startswith(PREFIX + "/") else _text(value)
    field = protocol.INPUT_FIELDS.get(value.get("kind", "")) if isinstance(value, Mapping) else None
    if field is None or set(value) != {"kind", field} or not isinstance(value[field], str):
        raise ValueError(
            f"rlm.spawn: an input of {child} must be a text, a Volume path, or a handle such as "
            '{"kind": "table", "name": "catalog.schema.table"}'
        )
    return dict(value)  # type: ignore[return-value] # checked field by field just above


def _text(value: str) -> protocol.TextInput:
    return {"kind": "text", "text": value}
