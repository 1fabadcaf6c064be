"""ADK plugins around every conversation with a model: budget, lease, policy, and the recorder.

Imports google.adk at once: imported only by callers that are about to use it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from google.adk.agents.callback_context import CallbackContext
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.tool_context import ToolContext
from google.genai import types

from databricks_rlm_agent.errors import Conflict, PlannerError
from databricks_rlm_agent.planner.chain import Meter
from databricks_rlm_agent.planner.decision import PendingDecision
from databricks_rlm_agent.planner.review import check_lease
from databricks_rlm_agent.policy.rules import gate
from databricks_rlm_agent.ports import PlannerNote, PlanningContext
from databricks_rlm_agent.values import clip


def nothing_more() -> LlmResponse:
    """A reply without a call, after which nothing is asked of a desk that is closed."""
    return LlmResponse(content=types.Content(role="model", parts=[types.Part(text="(The turn is over.)")]))


class BudgetGuard(BasePlugin):
    """Ends a conversation, with a failure, once the model has been asked as often as it may be."""

    def __init__(self, pending: PendingDecision[Any], meter: Meter) -> None:
        super().__init__(name="rlm_budget")
        self._desk, self._meter = pending, meter

    async def before_model_callback(
        self, *, callback_context: CallbackContext, llm_request: LlmRequest
    ) -> LlmResponse | None:
        """Count the question."""
        del callback_context, llm_request
        try:
            self._meter.begin()
        except PlannerError as error:
            self._desk.fail(str(error))
            return nothing_more()
        return None


class LeaseGuard(BasePlugin):
    """Stops a conversation before a question of a run that another controller holds by now.

    The same is asked once more before an action is accepted (planner/review.py).
    """

    def __init__(self, pending: PendingDecision[Any], context: PlanningContext) -> None:
        super().__init__(name="rlm_lease")
        self._desk, self._turn = pending, context

    async def before_model_callback(
        self, *, callback_context: CallbackContext, llm_request: LlmRequest
    ) -> LlmResponse | None:
        """Stop where the lease is lost."""
        del callback_context, llm_request
        try:
            check_lease(self._turn)
        except Conflict as error:
            self._desk.stop(error)
            return nothing_more()
        return None


class PolicyGuard(BasePlugin):
    """Refuses tools that a mode goes without, registered or not; ``gated``: see policy/rules.py."""

    def __init__(
        self, pending: PendingDecision[Any], *, mode: str, gated: Mapping[str, frozenset[str]]
    ) -> None:
        super().__init__(name="rlm_policy")
        self._desk, self._mode, self._gated = pending, mode, gated

    async def before_tool_callback(
        self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: ToolContext
    ) -> dict[str, Any] | None:
        """Answer in the tool's place where it is gated."""
        del tool_args
        finding = gate(tool.name, self._mode, self._gated)
        if finding is None:
            return None
        self._desk.judged(finding, tool=tool.name, mode=self._mode)
        self._desk.refuse(finding.reason, tool=tool.name)
        if self._desk.closed:
            tool_context.actions.skip_summarization = True
        return {"error": finding.reason}


MAX_CALLS = 16
"""Most tool calls of one reply that are looked at: their answers all go into the next prompt."""
_ARGS_CHARS = 1_000
_NAME_CHARS = 80
_ERROR_CHARS = 500


class Recorder(BasePlugin):
    """Notes of one invocation's tool calls. ``names`` are the tools that are registered."""

    def __init__(
        self, pending: PendingDecision[Any], *, names: Collection[str], redact: Callable[[str], str]
    ) -> None:
        super().__init__(name="rlm_recorder")
        self._desk, self._names, self._redact = pending, names, redact

    async def after_model_callback(
        self, *, callback_context: CallbackContext, llm_response: LlmResponse
    ) -> LlmResponse | None:
        """Leave out tool calls beyond the bound, and those without a name; note how many they were."""
        del callback_context
        content = llm_response.content
        parts = (content.parts if content else None) or []
        calls = [part for part in parts if part.function_call]
        kept = [part for part in calls if part.function_call and part.function_call.name][:MAX_CALLS]
        if content is None or len(kept) == len(calls):
            return None
        self._desk.notes.append(
            PlannerNote(kind="tool_calls_left_out", payload={"count": len(calls) - len(kept)})
        )
        allowed = {id(part) for part in kept}
        left = [part for part in parts if not part.function_call or id(part) in allowed]
        return llm_response.model_copy(update={"content": content.model_copy(update={"parts": left})})

    async def after_tool_callback(
        self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: ToolContext, result: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Note a call that was answered."""
        del tool_context
        self._note(tool, tool_args, str(result["error"]) if "error" in result else None)
        return None

    async def on_tool_error_callback(
        self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: ToolContext, error: Exception
    ) -> dict[str, Any] | None:
        """Turn an unknown tool's name, or a tool's own defect, into an answer that the model can act on."""
        if tool.name not in self._names:
            reason = f"There is no tool {tool.name[:_NAME_CHARS]!r}. The tools are: {', '.join(self._names)}."
        else:
            reason = self._redact(f"{tool.name} failed: {type(error).__name__}: {error}")
        reason = clip(reason, _ERROR_CHARS)
        self._note(tool, tool_args, reason)
        self._desk.refuse(reason, tool=clip(tool.name, _NAME_CHARS))
        if self._desk.closed:
            tool_context.actions.skip_summarization = True
        return {"error": reason}

    def _note(self, tool: BaseTool, arguments: dict[str, Any], error: str | None) -> None:
        shown = clip(json.dumps(arguments, ensure_ascii=False, default=str), _ARGS_CHARS)
        payload: dict[str, Any] = {"tool": clip(tool.name, _NAME_CHARS), "args": self._redact(shown)}
        if error is not None:
            payload["error"] = self._redact(clip(error, _ERROR_CHARS))
        self._desk.notes.append(PlannerNote(kind="tool_call", payload=payload))
