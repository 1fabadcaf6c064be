"""Observability: a record of tool calls, and an answer to calls of tools that do not exist.

Model calls are recorded in chain.py, one level below, where the failed links of a chain are seen too;
refusals and what the policy found are noted by the desk, where they land.
Imports google.adk at once: it is imported by those who are about to use it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from google.adk.agents.callback_context import CallbackContext
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.tool_context import ToolContext

from databricks_rlm_agent.agent.desk import Desk
from databricks_rlm_agent.domain.text import clip
from databricks_rlm_agent.ports import Note

MAX_CALLS = 16
"""Most tool calls of one reply that are looked at: their answers all go into the next prompt."""
_ARGS_CHARS = 1_000
_NAME_CHARS = 80
_ERROR_CHARS = 500


class Recorder(BasePlugin):
    """Notes of one invocation's tool calls. ``names`` are the tools that are registered."""

    def __init__(self, desk: Desk[Any], *, names: Collection[str], redact: Callable[[str], str]) -> None:
        super().__init__(name="rlm_recorder")
        self._desk, self._names, self._redact = desk, names, redact

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
        self._desk.notes.append(Note(kind="tool_calls_left_out", payload={"count": len(calls) - len(kept)}))
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
        self._desk.notes.append(Note(kind="tool_call", payload=payload))
