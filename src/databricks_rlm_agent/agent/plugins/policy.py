"""The policy on tools: which of them a mode has. What an action may do is judged in agent/review.py.

Imports google.adk at once: it is imported by those who are about to use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.adk.plugins.base_plugin import BasePlugin
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.tool_context import ToolContext

from databricks_rlm_agent.agent.desk import Desk
from databricks_rlm_agent.domain.policy.gating import gate


class PolicyGuard(BasePlugin):
    """Refuses tools that a mode goes without, registered or not; ``gated``: see domain/policy/gating.py."""

    def __init__(self, desk: Desk[Any], *, mode: str, gated: Mapping[str, frozenset[str]]) -> None:
        super().__init__(name="rlm_policy")
        self._desk, self._mode, self._gated = desk, mode, gated

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
