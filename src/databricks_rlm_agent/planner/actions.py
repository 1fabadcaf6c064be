"""The planner's actions: how a model calls them, and how its arguments become values.

The docstrings are what the model reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.runs.actions import (
    MAX_CHILDREN,
    Action,
    Ask,
    Finish,
    RunPython,
    RunSqlWorkflow,
    Spawn,
    check_children,
    check_python,
    check_text,
    check_timeout,
)
from databricks_rlm_agent.sqlflow.handover import NAME
from databricks_rlm_agent.values import check_name, check_table_name, check_volume_path, clip, storable
from executor_harness.protocol import INPUT_FIELDS, ChildTask

_QUOTE = re.compile(r"\{\{\s*value((?:\.[A-Za-z0-9_]+)*)\s*\}\}")


def resolve(text: str, value: Any) -> str:
    """Replace every ``{{value…}}`` in ``text``; raise InvalidData for one that names nothing."""
    return _QUOTE.sub(lambda match: _shown(_part(value, match.group(1))), text)


def _part(value: Any, path: str) -> Any:
    if value is None:
        raise InvalidData(
            f"{{{{value{path}}}}} names nothing: the last program gave no value.",
            fix="Run a program that passes one to rlm.finish(…), or write the answer without it.",
        )
    for step in path.split(".")[1:]:
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            known = ", ".join(sorted(value)) if isinstance(value, dict) else type(value).__name__
            raise InvalidData(
                f"{{{{value{path}}}}} names nothing: there is no {step!r} in the last result's value.",
                fix=f"There is: {known[:500]}. The value is what the last program passed to rlm.finish(…).",
            ) from None
    return value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_PURPOSE_CHARS = 300
_INPUTS_CHARS = 20_000
_MAX_LOOP = 1_000


def run_python(
    code: str,
    purpose: str,
    task_type: Literal["python"] = "python",  # noqa: ARG001 - the one kind there is; others are refused by type
    inputs: dict[str, Any] | None = None,
    timeout_s: int | None = None,
) -> RunPython:
    """Run a complete Python program on Spark as a separate job; its result comes at the next iteration.

    Args:
        code: The complete program. It can use `spark` and `rlm`.
        purpose: One sentence that says what the program should find out or produce.
        task_type: Always "python".
        inputs: Further inputs by name, which the program finds in rlm.inputs; most programs need none. A
            handle is {"kind": "table", "name": FULL_NAME}, {"kind": "file", "path": VOLUME_PATH}, the same
            with "folder" for a folder or "answer" for a child's answer, or {"kind": "text", "text": TEXT}.
        timeout_s: Seconds after which the program is stopped; omit it for the default.
    """
    return RunPython(
        code=check_python(code),
        purpose=clip(check_text(purpose, name="purpose"), _PURPOSE_CHARS),
        timeout_s=check_timeout(timeout_s),
        inputs=_check_inputs(inputs or {}),
    )


def run_sql_workflow(
    purpose: str,
    path: str | None = None,
    files: dict[str, str] | None = None,
    name: str | None = None,
    variables: dict[str, str] | None = None,
    engine: Literal["spark", "warehouse"] = "spark",
    target: str | None = None,
    max_iterations: int = 30,
    on_error: Literal["stop", "continue"] = "stop",
    restart: bool = False,
    timeout_s: int | None = None,
) -> RunSqlWorkflow:
    """Run a folder of SQL files as a separate job; call it again with changed files, and it continues.

    Files run in order of their numbers (01_…), independent ones in parallel, loops (…_iter_01.sql, …) until
    nothing changes. After an error, set path to the report's `folder` and pass the corrected `files`.

    Args:
        purpose: One sentence that says what it should produce.
        path: The Volume folder of the *.sql files (and workflow.yml).
        files: Texts by file name, which replace or add to those in path.
        name: The workflow's name (a-z, 0-9, _), the same at every call; by default the folder's name.
        variables: Values for {name} in the files.
        engine: "spark", or "warehouse" for a SQL warehouse.
        target: catalog.schema for names without one; by default the one that programs write to.
        max_iterations: The most iterations of a loop.
        on_error: "continue" runs what does not depend on the failed step.
        restart: Start from the beginning, even if steps were completed before.
        timeout_s: Seconds after which it is stopped; omit it for the default.
    """
    if path is not None:
        check_volume_path(path)
    if not 1 <= max_iterations <= _MAX_LOOP:
        raise InvalidData(f"max_iterations is {max_iterations}; it must be between 1 and {_MAX_LOOP}.")
    catalog, schema = _target(target)
    return RunSqlWorkflow(
        name=_workflow_name(name, path),
        purpose=clip(check_text(purpose, name="purpose"), _PURPOSE_CHARS),
        path=path,
        files=files or {},
        variables=variables or {},
        engine=engine,
        catalog=catalog,
        schema=schema,
        max_iterations=max_iterations,
        on_error=on_error,
        restart=restart,
        timeout_s=check_timeout(timeout_s),
    )


def ask(question: str) -> Ask:
    """Ask the person who gave the task what only a person can know; the run waits for the answer.

    Args:
        question: One clear question, with everything that is needed to answer it.
    """
    return Ask(question=check_text(question, name="question"))


def finish(answer: str, evidence: str = "") -> Finish:
    """End the run with the answer to the objective.

    Args:
        answer: The complete answer, with the figures that were found. Insert figures instead of copying
            them: {{value.NAME}} stands for that part of what the last program passed to rlm.finish.
        evidence: The results and tables that support the answer.
    """
    return Finish(answer=check_text(answer, name="answer"), evidence=_checked_evidence(evidence))


def spawn(tasks: list[dict[str, Any]]) -> Spawn:
    """Give parts of the objective to child runs, which work in parallel; this run waits for all of them.

    Their answers become inputs of this run.

    Args:
        tasks: One per child: {"name": NAME, "task": TEXT, "inputs": HANDLES}. The name (a-z, 0-9, _) will be
            the name of the answer. The task says everything the child must know: it knows nothing about
            this run. inputs are handles as in run_python, and optional.
    """
    children = [_child(place, task) for place, task in enumerate(tasks)]
    return Spawn(tasks=tuple(check_children(children, limit=MAX_CHILDREN)))


ACTIONS = (run_python, run_sql_workflow, ask, finish)
"""The actions of every iteration."""


def actions(*, children_left: int) -> tuple[Callable[..., Action], ...]:
    """The actions of an iteration: ``spawn`` only if the run may have more children."""
    return (*ACTIONS, spawn) if children_left > 0 else ACTIONS


def completed(action: Action, *, value: Any, limit: int) -> Action:
    """Return ``action`` with quotations of the last program's ``value`` replaced.

    Raise InvalidData for a quotation that names nothing, and for more than ``limit`` children.
    """
    if isinstance(action, Spawn):
        check_children(list(action.tasks), limit=limit)
    if not isinstance(action, Finish):
        return action
    answer = check_text(resolve(action.answer, value), name="answer")
    return Finish(answer=answer, evidence=_checked_evidence(resolve(action.evidence, value)))


def _target(target: str | None) -> tuple[str | None, str | None]:
    """Catalog and schema; raise InvalidData."""
    if target is None:
        return None, None
    catalog, dot, schema = target.partition(".")
    if not dot:
        raise InvalidData(f"target is {target[:80]!r}.", fix="Give it as catalog.schema.")
    return check_name(catalog, what="catalog"), check_name(schema, what="schema")


def _workflow_name(name: str | None, path: str | None) -> str:
    """The name of a workflow, from its folder's where none is given; raise InvalidData."""
    if name is None:
        folder = (path or "").rstrip("/").rpartition("/")[2].lower()
        folder = re.sub(r"_[0-9a-f]{16}$", "", folder)  # where it was published (Namespace.workflow_dir)
        name = re.sub(r"\W+|_{2,}", "_", folder, flags=re.ASCII).strip("_")[:48]
        name = name if NAME.fullmatch(name) else "workflow"
    if not NAME.fullmatch(name):
        raise InvalidData(
            f"{name[:80]!r} is not a name for a workflow.", fix="Use a-z, 0-9 and _, at most 48 characters."
        )
    return name


def _child(place: int, task: dict[str, Any]) -> ChildTask:
    if unknown := set(task) - set(ChildTask.__dataclass_fields__):
        raise InvalidData(
            f"tasks[{place}] has {clip(', '.join(sorted(map(str, unknown))), 200)}.",
            fix="A task has name, task and inputs.",
        )
    try:
        child: ChildTask = TypeAdapter(ChildTask).validate_python(task)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise InvalidData(
            f"tasks[{place}].{clip(field, 80)}: {problem['msg']}.", fix="A task has name, task and inputs."
        ) from None
    _check_inputs(child.inputs)
    return child


def _checked_evidence(value: str) -> str:
    return check_text(value, name="evidence") if value.strip() else ""


def _check_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    for name, handle in inputs.items():
        _check_handle(clip(name, 80), handle)
    size = len(json.dumps(inputs))
    if size > _INPUTS_CHARS:
        raise InvalidData(
            f"inputs has {size:,} characters; the limit is {_INPUTS_CHARS:,}.",
            fix="Put data in a table or a file, and its name in inputs.",
        )
    return inputs


def _check_handle(name: str, handle: Any) -> None:
    """Raise RlmError for a handle that the executor harness would refuse with the whole manifest."""
    kind = handle.get("kind") if isinstance(handle, dict) else None
    field = INPUT_FIELDS.get(kind) if isinstance(kind, str) else None
    if field is None or set(handle) != {"kind", field} or not isinstance(handle[field], str):
        raise InvalidData(
            f"The input {name!r} is not a handle.",
            fix='Use {"kind": "table", "name": …}, {"kind": "text", "text": …} or "file", "folder", "answer"'
            ' with "path".',
        )
    if kind == "table":
        check_table_name(handle["name"])
    elif field == "path":
        check_volume_path(handle["path"])
    elif storable(handle["text"]) != handle["text"]:
        raise InvalidData(f"The input {name!r} holds lone surrogates.", fix="Send whole characters.")
