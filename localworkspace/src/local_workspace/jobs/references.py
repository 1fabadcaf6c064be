"""Dynamic value references, filled in as Databricks does: `{{job.id}}`, `{{tasks.load.values.rows}}` …

A reference that does not exist stays as it was written; one that is malformed below a known namespace is
refused when the job or run is made (https://docs.databricks.com/en/jobs/dynamic-value-references.html).
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from local_workspace.errors import invalid
from local_workspace.jobs.model import Run, TaskRun
from local_workspace.options import WORKSPACE_ID

# An identifier with other characters than these stands in backquotes.
_PART = r"(?:[\w-]+|`[^`{}]+`)"
_REFERENCE = re.compile(rf"\{{\{{\s*({_PART}(?:\.{_PART})*)\s*\}}\}}")
_PARTS = re.compile(r"`([^`]+)`|([\w-]+)")

_TIME: Mapping[str, Callable[[datetime.datetime], object]] = {
    "iso_weekday": lambda at: at.isoweekday(),
    "is_weekday": lambda at: str(at.isoweekday() < 6).lower(),
    "iso_date": lambda at: at.date().isoformat(),
    "iso_datetime": lambda at: at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    "timestamp_ms": lambda at: int(at.timestamp() * 1000),
    **{
        name: (lambda at, name=name: getattr(at, name))  # type: ignore[misc] # mypy does not infer the default's type
        for name in ("year", "month", "day", "hour", "minute", "second")
    },
}
_OF_TASK = ("name", "run_id", "execution_count", "notebook_path")
_ANY = "*"
# Every reference that there is, as its parts.
_FORMS: frozenset[tuple[str, ...]] = frozenset(
    {
        *(("job", name) for name in ("id", "name", "run_id", "repair_count")),
        *(("job", "start_time", name) for name in _TIME),
        *(("job", "trigger", "time", name) for name in _TIME),
        ("job", "trigger", "type"),
        ("job", "trigger", "file_arrival", "location"),
        ("job", "parameters", _ANY),
        *(("task", name) for name in _OF_TASK),
        *(("tasks", _ANY, name) for name in (*_OF_TASK, "result_state", "error_code") if name != "name"),
        *(("tasks", _ANY, name, _ANY) for name in ("values", "output")),
        ("workspace", "id"),
        ("workspace", "url"),
    }
)
_NAMESPACES = frozenset(form[0] for form in _FORMS)
# What was written before there were namespaces; still filled in.
_OLD: Mapping[str, tuple[str, ...]] = {
    "job_id": ("job", "id"),
    "run_id": ("task", "run_id"),
    "parent_run_id": ("job", "run_id"),
    "task_key": ("task", "name"),
    "start_date": ("job", "start_time", "iso_date"),
    "start_time": ("job", "start_time", "timestamp_ms"),
}


class NotSetError(LookupError):
    """A reference to a task value that no task has set."""


def _known(parts: tuple[str, ...]) -> bool:
    """Return whether there is such a reference."""
    return any(
        len(form) == len(parts) and all(item in {_ANY, part} for item, part in zip(form, parts, strict=True))
        for form in _FORMS
    )


def check(value: Any) -> None:
    """Raise ApiError (400) where a text in `value` has a malformed reference below a known namespace."""
    for text in _texts(value):
        for match in _REFERENCE.finditer(text):
            parts = _split(match[1])
            if parts[0] in _NAMESPACES and not _known(parts):
                raise invalid(f"Invalid dynamic value reference {match[0]}: there is no such value")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _split(text: str) -> tuple[str, ...]:
    return tuple(match[1] or match[2] for match in _PARTS.finditer(text))


@dataclass(frozen=True, kw_only=True)
class References:
    """The values that references stand for.

    `task_value` returns the JSON text of a task value by the task's key and the value's, or None.
    """

    host: str
    task_value: Callable[[Run, str, str], str | None]

    def fill(self, text: str, run: Run, task: TaskRun | None = None) -> str:
        """Put the values in; without a `task`, those of the job and the workspace only.

        Raises NotSetError for a task value that is not set.
        """

        def value(match: re.Match[str]) -> str:
            parts = _split(match[1])
            parts = _OLD.get(parts[0], parts) if len(parts) == 1 else parts
            found = self._value(parts, run, task) if _known(parts) else None
            return match[0] if found is None else str(found)

        return _REFERENCE.sub(value, text)

    def _value(self, parts: tuple[str, ...], run: Run, task: TaskRun | None) -> object | None:
        if parts[0] == "workspace":
            return WORKSPACE_ID if parts[1] == "id" else self.host
        if parts[0] == "job":
            return _of_job(parts[1:], run)
        if task is None:
            return None
        if parts[0] == "task":
            return _of_task(parts[1], task)
        other = next((item for item in run.tasks if item.task_key == parts[1]), None)
        if other is None or parts[2] == "output":
            return None
        return self._of_values(run, *parts[1:]) if parts[2] == "values" else _of_task(parts[2], other)

    def _of_values(self, run: Run, key: str, _values: str, name: str) -> object:
        text = self.task_value(run, key, name)
        if text is None:
            raise NotSetError(
                f"Failed to resolve references: the task value {name!r} of task {key!r} is not set"
            )
        value = json.loads(text)
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _of_job(parts: tuple[str, ...], run: Run) -> object | None:
    if parts[0] == "parameters":
        return run.parameters.get(parts[1])
    if parts[-1] in _TIME and len(parts) > 1:
        return _TIME[parts[-1]](datetime.datetime.fromtimestamp(run.start_time / 1000, datetime.UTC))
    known: dict[str, object] = {
        "id": run.job_id,
        "name": run.name,
        "run_id": run.run_id,
        "repair_count": len(run.history),
        "trigger": "one_time" if parts[-1] == "type" else "",
    }
    return known[parts[0]]


def _of_task(name: str, task: TaskRun) -> object | None:
    """The result of a task is empty until it has ended."""
    ending = task.ending
    known: dict[str, object] = {
        "name": task.task_key,
        "run_id": task.run_id,
        "execution_count": task.attempt + 1,
        "notebook_path": "",
        "result_state": ending.result.lower() if ending else "",
        "error_code": ending.code.title().replace("_", "") if ending and ending.result == "FAILED" else "",
    }
    return known[name]


def value_file(task_key: str, name: str) -> str:
    """The path of a task value below its run's folder of values (as `dbruntime` writes it)."""
    return f"{quote(task_key, safe='')}/{quote(name, safe='')}.json"
