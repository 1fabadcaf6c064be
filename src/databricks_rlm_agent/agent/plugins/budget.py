"""The budget, before every question to a model.

Here questions are counted. What one call may cost is decided in chain.py, for each model of the chain: they
differ in price, and in the longest reply that is left.
Imports google.adk at once: it is imported by those who are about to use it.
"""

from __future__ import annotations

from typing import Any

from google.adk.agents.callback_context import CallbackContext
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin

from databricks_rlm_agent.agent.chain import Meter
from databricks_rlm_agent.agent.desk import Desk
from databricks_rlm_agent.agent.plugins.ending import nothing_more
from databricks_rlm_agent.errors import PlannerError


class BudgetGuard(BasePlugin):
    """Ends a conversation, with a failure, once the model has been asked as often as it may be."""

    def __init__(self, desk: Desk[Any], meter: Meter) -> None:
        super().__init__(name="rlm_budget")
        self._desk, self._meter = desk, meter

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
