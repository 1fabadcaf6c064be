"""The ADK plugin that keeps a record of tool calls, and answers calls of tools that do not exist.

Model calls are recorded in chain.py, one level below, where the failed links of a chain are seen too.
Imports google.adk at once: it is imported by those who are about to use it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from google.adk.plugins.base_plugin import BasePlugin
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.tool_context import ToolContext

from databricks_rlm_agent.agent.desk import Desk
from databricks_rlm_agent.domain.text import clip
from databricks_rlm_agent.ports import Note

_ARGS_CHARS = 1_000
_ERROR_CHARS = 500


class Recorder(BasePlugin):
    """Notes of one invocation's tool calls. ``names`` are the tools that are registered."""

    def __init__(self, desk: Desk[Any], *, names: Collection[str], redact: Callable[[str], str]) -> None:
        super().__init__(name="rlm_recorder")
        self._desk, self._names, self._redact = desk, names, redact

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
            reason = f"There is no tool {tool.name[:80]!r}. The tools are: {', '.join(self._names)}."
        else:
            reason = self._redact(f"{tool.name} failed: {type(error).__name__}: {error}")
        reason = clip(reason, _ERROR_CHARS)
        self._note(tool, tool_args, reason)
        self._desk.refuse(reason, tool=tool.name)
        if self._desk.closed:
            tool_context.actions.skip_summarization = True
        return {"error": reason}

    def _note(self, tool: BaseTool, arguments: dict[str, Any], error: str | None) -> None:
        shown = clip(json.dumps(arguments, ensure_ascii=False, default=str), _ARGS_CHARS)
        payload: dict[str, Any] = {"tool": tool.name, "args": self._redact(shown)}
        if error is not None:
            payload["error"] = clip(error, _ERROR_CHARS)
        self._desk.notes.append(Note(kind="tool_call", payload=payload))
