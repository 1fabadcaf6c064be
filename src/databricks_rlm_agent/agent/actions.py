"""The planner's actions: how a model calls them, and what becomes of its arguments (design, section 7).

The docstrings are what the model reads.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from databricks_rlm_agent.agent.paths import check_volume_path
from databricks_rlm_agent.domain.actions import (
    Action,
    Ask,
    Finish,
    RunPython,
    check_python,
    check_text,
    check_timeout,
)
from databricks_rlm_agent.domain.answer import resolve
from databricks_rlm_agent.domain.ids import check_table_name
from databricks_rlm_agent.domain.text import clip, storable
from databricks_rlm_agent.errors import InvalidData

_PURPOSE_CHARS = 300
_INPUTS_CHARS = 20_000
_HANDLES = {"table": "name", "file": "path", "text": "text"}


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
            {"kind": "table", "name": FULL_NAME}, {"kind": "file", "path": VOLUME_PATH} or
            {"kind": "text", "text": TEXT}.
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


ACTIONS = (run_python, ask, finish)


def _check_optional(value: str, *, name: str) -> str:
    return check_text(value, name=name) if value.strip() else ""


def quoting(action: Action, value: Any) -> Action:
    """``action`` with what a finish quotes of the last program's result put in; raise InvalidData."""
    if not isinstance(action, Finish):
        return action
    answer = check_text(resolve(action.answer, value), name="answer")
    return Finish(answer=answer, evidence=_check_optional(resolve(action.evidence, value), name="evidence"))


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
            fix='Use {"kind": "table", "name": …}, or the kinds "file" with "path", and "text" with "text".',
        )
    if kind == "table":
        check_table_name(handle["name"])
    elif kind == "file":
        check_volume_path(handle["path"])
    elif storable(handle["text"]) != handle["text"]:
        raise InvalidData(f"The input {name!r} holds lone surrogates.", fix="Send whole characters.")
