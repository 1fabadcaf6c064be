"""The object `rlm` that a program sees."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from executor_harness import protocol
from executor_harness.protocol import ProducedArtifact, ProducedTable, Request
from executor_harness.redaction import Redactor
from executor_harness.report import shortened
from executor_harness.rlm import plain
from executor_harness.rlm.chat import BudgetExhausted, CallError, CallFailed
from executor_harness.rlm.inputs import Inputs
from executor_harness.rlm.variables import Variables
from executor_harness.volumes import PREFIX, Volumes

if TYPE_CHECKING:
    from executor_harness.rlm.model_calls import ModelCalls

_TABLE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,254}")
_HASHED_BYTES = 64 * 1024 * 1024  # larger files are recorded by size only


class Rlm:
    """The object that a program gets beside `spark`, and through which it reports. Methods raise at once when
    misused.
    """

    CallError = CallError
    CallFailed = CallFailed
    BudgetExhausted = BudgetExhausted

    def __init__(
        self, request: Request, volumes: Volumes, session: Callable[[], Any], redactor: Redactor
    ) -> None:
        self._request = request
        self._volumes = volumes
        self._session = session
        self._redactor = redactor
        self._value: Any = None
        self._metrics: dict[str, float] = {}
        self._artifacts: dict[str, ProducedArtifact] = {}
        self._tables: dict[str, ProducedTable] = {}
        self._log: list[str] = []
        self._unlogged = 0
        self._lazy = threading.Lock()
        self._model_calls: ModelCalls | None = None
        self._spawned: dict[str, protocol.ChildTask] = {}
        self._inputs = Inputs(request.inputs, volumes, session)
        self._parameters = MappingProxyType(request.parameters)
        self._vars = Variables(request, volumes, session, redactor)

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(sorted(entry for entry in dir(type(self)) if not entry.startswith("_")))
        raise AttributeError(f"rlm has no {name!r}; it has: {known}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"rlm.{name} cannot be deleted: the run needs it")

    @property
    def inputs(self) -> Inputs:
        """The inputs of the run, by name."""
        return self._inputs

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The parameters of the run."""
        return self._parameters

    @property
    def vars(self) -> Variables:
        """The variables that later programs of the run find."""
        return self._vars

    @property
    def spark(self) -> Any:
        """The Spark session."""
        return self._session()

    def path(self, path: str) -> str:
        """Where Python and Spark can open a Volume path; a relative one is below the attempt's folder."""
        full = str(path) if str(path).startswith(PREFIX + "/") else f"{self._request.output_dir}/{path}"
        return str(self._volumes.local(full))

    def metric(self, name: str, value: object) -> None:
        """Report a number; the last value of a name counts."""
        if not isinstance(name, str) or not name:
            raise TypeError("rlm.metric: the name must be a text")
        if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
            raise TypeError(f"rlm.metric: {name} must be a number, not {type(value).__name__}")
        whole = int_or_none(value)
        number = float(value) if whole is None else whole
        if not math.isfinite(number):
            raise ValueError(f"rlm.metric: {name} is {value}, which JSON cannot hold")
        if name not in self._metrics and len(self._metrics) >= protocol.METRICS:
            raise ValueError(f"rlm.metric: more than {protocol.METRICS} metrics")
        self._metrics[shortened(self._redactor.text(name), 200)] = number

    def table(self, name: str) -> str:
        """Report a table that the program made, and return its full name `catalog.schema.table`."""
        parts = str(name).replace("`", "").split(".")
        if not 1 <= len(parts) <= 3 or not all(_TABLE_PART.fullmatch(part) for part in parts):
            raise ValueError(f"rlm.table: {name!r} is not a table name ([catalog.][schema.]table)")
        full = ".".join([self._request.catalog, self._request.schema][: 3 - len(parts)] + parts)
        self._check_number("table", self._tables, full)
        self._tables[full] = ProducedTable(name=full)
        return full

    def artifact(self, path: str | Path) -> str:
        """Report a file that the program made, and return its Volume path. A local file is copied there."""
        source = Path(path)
        volume_path = self._volumes.logical(str(path))
        if volume_path is not None:
            source = self._volumes.local(volume_path)
        if not source.is_file():
            raise FileNotFoundError(f"rlm.artifact: {path} is not a file")
        if volume_path is None:
            if source.name in protocol.RESERVED_FILES:
                raise ValueError(f"rlm.artifact: {source.name} is a name of the run itself; choose another")
            volume_path = f"{self._request.output_dir}/{source.name}"
            target = self._volumes.local(volume_path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        self._check_number("artifact", self._artifacts, volume_path)
        self._artifacts[volume_path] = _described(volume_path, source)
        return volume_path

    def log(self, message: object) -> None:
        """Add a line to the run's log, which the planner reads."""
        if len(self._log) < protocol.LOG_LINES:
            self._log.append(shortened(self._redactor.text(str(message)), protocol.LOG_LINE_CHARS))
        else:
            self._unlogged += 1

    def finish(self, value: Any) -> None:
        """Report the run's value, as JSON of at most 64 KB; the last call counts. The program goes on."""
        try:
            text = json.dumps(plain.as_json(value), allow_nan=False)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"rlm.finish: the value is not JSON: {error}; for data use rlm.table or rlm.artifact"
            ) from None
        if len(text) > protocol.VALUE_BYTES:
            raise ValueError(
                f"rlm.finish: the value is {len(text)} bytes of JSON, at most {protocol.VALUE_BYTES} are "
                "kept; for data use rlm.table or rlm.artifact"
            )
        self._value = json.loads(text)

    def llm_query(self, prompt: str, **options: Any) -> Any:
        """A model's answer to one prompt: a text, or with `schema=` (a JSON schema) a JSON value."""
        return self._models().query(prompt, **options)

    def llm_query_batched(self, prompts: Iterable[str], **options: Any) -> list[Any]:
        """The answers to many prompts, asked at once, in their order; a failed one is a falsy CallError."""
        return self._models().query_batched(prompts, **options)

    def llm_map(self, df: Any, template: str, output_col: str, **options: Any) -> Any:
        """A DataFrame with a column of answers to a template such as "Is this a complaint? {text}"."""
        from executor_harness.rlm.map import llm_map

        return llm_map(self._models(), df, template, output_col, **options)

    def spawn(self, tasks: Iterable[Mapping[str, Any]]) -> None:
        """Ask for child runs: each {"name", "task", "inputs"}. They begin when this program has ended well;
        the next program finds their answers as inputs of their names. Raises TypeError and ValueError.
        """
        wanted = [_child_task(task) for task in ([tasks] if isinstance(tasks, Mapping) else tasks)]
        names = [*self._spawned, *(task.name for task in wanted)]
        most = self._request.spawn.get("max_children", 0)
        if len(set(names)) < len(names):
            raise ValueError(f"rlm.spawn: two child runs have the same name: {', '.join(sorted(names))}")
        if len(names) > most:
            raise ValueError(
                f"rlm.spawn: {len(names)} child runs are asked for, and this run may have {most}"
                + ("" if most else ": it is at its depth's or budget's end, so do the work here")
            )
        self._spawned |= {task.name: task for task in wanted}

    def _check_number(self, kind: str, known: dict[str, Any], name: str) -> None:
        if name not in known and len(known) >= protocol.PRODUCED:
            raise ValueError(f"rlm.{kind}: more than {protocol.PRODUCED} are not recorded")

    def _models(self) -> ModelCalls:
        with self._lazy:  # a second one would have a budget of its own
            if self._model_calls is None:
                # Imported when first used: most programs ask no model, and it is a third of this package.
                from executor_harness.rlm.model_calls import ModelCalls

                self._model_calls = ModelCalls(self._request, self._volumes, self._session, self._redactor)
            return self._model_calls


def reported(rlm: Rlm) -> dict[str, Any]:
    """Return what the program reported, as fields of a report; copies, for threads may go on reporting.

    No method, as `close`: the program sees only what it may use.
    """
    more = [f"({rlm._unlogged} more lines were not kept)"] if rlm._unlogged else []
    return {
        "value": rlm._value,
        "metrics": dict(rlm._metrics),
        "produced_artifacts": list(rlm._artifacts.values()),
        "produced_tables": list(rlm._tables.values()),
        "log": [*rlm._log, *more],
        "usage": rlm._model_calls.usage() if rlm._model_calls else protocol.Usage(),
        "spawned": list(rlm._spawned.values()),
    }


def close(rlm: Rlm) -> None:
    """End what model calls left running, and keep their answers; raises nothing."""
    if rlm._model_calls is not None:
        rlm._log += rlm._model_calls.close()


def int_or_none(value: Any) -> int | None:
    """The integer that a number is, if it is an integer type or a Decimal without fraction."""
    if isinstance(value, int) or (hasattr(value, "__index__")):
        return int(value)
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return int(value)
    return None


def _described(path: str, source: Path) -> ProducedArtifact:
    size = source.stat().st_size
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest() if size <= _HASHED_BYTES else None
    return ProducedArtifact(path=path, size=size, sha256=sha256)


def _child_task(given: Mapping[str, Any]) -> protocol.ChildTask:
    if not isinstance(given, Mapping) or not {"name", "task"} <= set(given) <= {"name", "task", "inputs"}:
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
    handles = {str(key): _child_input(name, value) for key, value in inputs.items()}
    return protocol.ChildTask(name=name, task=task, inputs=handles)


def _child_input(child: str, value: Any) -> protocol.Input:
    """An input as a request has it; a text that is a Volume path is a file."""
    if isinstance(value, str):
        kind, field = ("file", "path") if value.startswith(PREFIX + "/") else ("text", "text")
        return {"kind": kind, field: value}
    known = protocol.INPUT_FIELDS.get(value.get("kind", "")) if isinstance(value, Mapping) else None
    if known is None or set(value) != {"kind", known} or not isinstance(value[known], str):
        raise ValueError(
            f"rlm.spawn: an input of {child} must be a text, a Volume path, or a handle such as "
            '{"kind": "table", "name": "catalog.schema.table"}'
        )
    return dict(value)
