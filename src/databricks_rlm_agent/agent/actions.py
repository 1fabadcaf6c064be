"""The planner's actions: how a model calls them, and what becomes of its arguments (design, section 7).

The docstrings are what the model reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from pydantic import ValidationError

from databricks_rlm_agent.domain.actions import (
    Action,
    Ask,
    Finish,
    RunPython,
    Spawn,
    check_python,
    check_text,
    check_timeout,
)
from databricks_rlm_agent.domain.answer import resolve
from databricks_rlm_agent.domain.children import MAX_CHILDREN, ChildTask, check_children
from databricks_rlm_agent.domain.ids import check_table_name
from databricks_rlm_agent.domain.paths import check_volume_path
from databricks_rlm_agent.domain.text import clip, storable
from databricks_rlm_agent.errors import InvalidData

_PURPOSE_CHARS = 300
_INPUTS_CHARS = 20_000
_HANDLES = {"table": "name", "file": "path", "folder": "path", "answer": "path", "text": "text"}


def run_python(
    code: str,
    purpose: str,
    task_type: Literal["python"] = "python",  # noqa: ARG001 - the one kind there is; others are refused by type
    inputs: dict[str, Any] | None = None,
    timeout_s: int | None = None,
) -> RunPython:
    """Run a whole Python program on Spark as a job of its own; its result comes at the next iteration.

    Args:
        code: The whole program. It has `spark` and `rlm`.
        purpose: One sentence that says what the program is to find out or to make.
        task_type: Always "python".
        inputs: Handles by name, which the program finds in rlm.inputs; most programs need none. A handle is
            {"kind": "table", "name": FULL_NAME}, {"kind": "file", "path": VOLUME_PATH}, the same with
            "folder" for a folder and with "answer" for a child's answer, or {"kind": "text", "text": TEXT}.
        timeout_s: Seconds after which the program is stopped; leave it out for the default.
    """
    return RunPython(
        code=check_python(code),
        purpose=clip(check_text(purpose, name="purpose"), _PURPOSE_CHARS),
        timeout_s=check_timeout(timeout_s),
        inputs=_check_inputs(inputs or {}),
    )


def ask(question: str) -> Ask:
    """Ask the person who gave the task, when only a person can know; the run waits for the answer.

    Args:
        question: One clear question with all that is needed to answer it.
    """
    return Ask(question=check_text(question, name="question"))


def finish(answer: str, evidence: str = "") -> Finish:
    """End the run with the answer to the objective.

    Args:
        answer: The complete answer, with the figures that were found. Quote them rather than copy them:
            {{value.NAME}} stands for that part of what the last program gave to rlm.finish.
        evidence: The results and tables that the answer rests on.
    """
    return Finish(
        answer=check_text(answer, name="answer"), evidence=_check_optional(evidence, name="evidence")
    )


def spawn(tasks: list[dict[str, Any]]) -> Spawn:
    """Hand parts of the objective to child runs that work at the same time; this run waits for all of them
    and finds their answers in its inputs.

    Args:
        tasks: One per child: {"name": NAME, "task": TEXT, "inputs": HANDLES}. The name (a-z, 0-9, _) is what
            the answer will be called; the task says all that the child must know, since it knows nothing of
            this run; inputs are handles as in run_python, and may be left out.
    """
    children = [_child(place, task) for place, task in enumerate(tasks)]
    return Spawn(tasks=tuple(check_children(children, room=MAX_CHILDREN)))


ACTIONS = (run_python, ask, finish)
"""What every turn has."""


def actions(*, children_left: int) -> tuple[Callable[..., Action], ...]:
    """The actions that a turn has: ``spawn`` only where there is room for children."""
    return (*ACTIONS, spawn) if children_left > 0 else ACTIONS


def settled(action: Action, *, value: Any, room: int) -> Action:
    """``action`` as this turn may take it: quotes of the last program's result put in, no more children than
    there is ``room`` for; raise InvalidData.
    """
    if isinstance(action, Spawn):
        check_children(list(action.tasks), room=room)
    if not isinstance(action, Finish):
        return action
    answer = check_text(resolve(action.answer, value), name="answer")
    return Finish(answer=answer, evidence=_check_optional(resolve(action.evidence, value), name="evidence"))


def _child(place: int, task: dict[str, Any]) -> ChildTask:
    if unknown := set(task) - set(ChildTask.model_fields):
        raise InvalidData(
            f"tasks[{place}] has {clip(', '.join(sorted(map(str, unknown))), 200)}.",
            fix="A task has name, task and inputs.",
        )
    try:
        child = ChildTask.model_validate(task)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise InvalidData(
            f"tasks[{place}].{clip(field, 80)}: {problem['msg']}.", fix="A task has name, task and inputs."
        ) from None
    _check_inputs(child.inputs)
    return child


def _check_optional(value: str, *, name: str) -> str:
    return check_text(value, name=name) if value.strip() else ""


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
    field = _HANDLES.get(kind) if isinstance(kind, str) else None
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
