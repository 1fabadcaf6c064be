"""The summarizer: what a long result means, in a few lines. Its failure costs nothing but itself."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from databricks_rlm_agent.agent.desk import Desk
from databricks_rlm_agent.agent.models import Models
from databricks_rlm_agent.agent.prompt import SUMMARIZER_OPENING, summarizer_prompt
from databricks_rlm_agent.domain.actions import check_text
from databricks_rlm_agent.domain.capsule import CapsuleDelta
from databricks_rlm_agent.domain.digest import digest as plain_digest
from databricks_rlm_agent.domain.digest import is_long
from databricks_rlm_agent.domain.result import Result
from databricks_rlm_agent.domain.text import clip
from databricks_rlm_agent.ports import Summary, Turn

if TYPE_CHECKING:
    from databricks_rlm_agent.agent.chain import Meter

log = logging.getLogger(__name__)

_MAX_REFUSALS = 2
_MAX_LINES = 6


def remember(
    digest: str, decisions: list[str] | None = None, failed_approaches: list[str] | None = None
) -> CapsuleDelta:
    """Keep what matters of the result; this is all that the planner will know of it.

    Args:
        digest: What the program did and found: figures, names, the error and its cause.
        decisions: What is now settled, one sentence each.
        failed_approaches: What was tried and does not work, one sentence each.
    """
    return CapsuleDelta(
        digest=check_text(digest, name="digest"),
        decisions=[line for line in decisions or [] if line.strip()][:_MAX_LINES],
        failed_approaches=[line for line in failed_approaches or [] if line.strip()][:_MAX_LINES],
    )


async def summarize(models: Models, turn: Turn, result: Result, *, meter: Meter) -> Summary:
    """The summary of a long result; ``delta`` is None where the deterministic digest is to be taken."""
    if not is_long(result) or not models.knows("summarizer", turn.iter_n, objective=turn.capsule.objective):
        return Summary(delta=None)
    from databricks_rlm_agent.agent.checked import ActionTool
    from databricks_rlm_agent.agent.invocation import Conversation, converse

    desk: Desk[CapsuleDelta] = Desk(max_refusals=_MAX_REFUSALS)
    tool = ActionTool(remember, desk=desk)
    conversation = Conversation(
        role="summarizer",
        instruction=summarizer_prompt(turn, result),
        opening=SUMMARIZER_OPENING,
        tools=[tool],
        endings=[tool.name],
    )
    model = models.open(role="summarizer", iter_n=turn.iter_n, meter=meter, objective=turn.capsule.objective)
    await converse(conversation, model=model, desk=desk, redact=models.redact)
    if desk.failure is not None:
        log.warning("run %s: no summary: %s; head and tail of the output are kept", turn.run_id, desk.failure)
    delta = desk.decision and _with_facts(desk.decision, result)
    return Summary(delta=delta, calls=tuple(meter.calls))


def _with_facts(delta: CapsuleDelta, result: Result) -> CapsuleDelta:
    """The model's words under the executor's facts: status, error, tables and files are no opinion."""
    facts = plain_digest(result, purpose="")
    error = f": {result.error_type}: {clip(result.error_summary or '', 400)}" if result.error_type else ""
    return CapsuleDelta(
        digest=f"Iteration {result.iter_n}: {result.status}{error}\n{delta.digest}",
        decisions=delta.decisions,
        failed_approaches=delta.failed_approaches or facts.failed_approaches,
        tables=facts.tables,
        artifacts=facts.artifacts,
    )
