"""The lease: who has lost it spends nothing more, and decides nothing.

Imports google.adk at once: it is imported by those who are about to use it.
"""

from __future__ import annotations

from typing import Any

from google.adk.agents.callback_context import CallbackContext
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin

from databricks_rlm_agent.agent.desk import Desk
from databricks_rlm_agent.agent.plugins.ending import nothing_more
from databricks_rlm_agent.agent.review import check_lease
from databricks_rlm_agent.errors import Conflict
from databricks_rlm_agent.ports import Turn


class LeaseGuard(BasePlugin):
    """Stops a conversation before a question of a run that another controller holds by now.

    The same is asked once more before an action is accepted (agent/review.py).
    """

    def __init__(self, desk: Desk[Any], turn: Turn) -> None:
        super().__init__(name="rlm_lease")
        self._desk, self._turn = desk, turn

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
