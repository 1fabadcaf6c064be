"""The summarizer: what a long result means, in a few lines. Its failure costs nothing but itself.

It is told the facts, the ends of the output and the places that speak of errors. Of an output that does not
fit, readers read parts of the file, one model call each and all at once; the summarizer is told their notes.
What it says is taken as its words: status, error, metrics, tables and files come from the executor.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from databricks_rlm_agent.agent.desk import Desk
from databricks_rlm_agent.agent.models import Models
from databricks_rlm_agent.agent.prompt import SUMMARIZER_OPENING, summarizer_prompt
from databricks_rlm_agent.agent.reading import read_output
from databricks_rlm_agent.domain.actions import check_text
from databricks_rlm_agent.domain.capsule import CapsuleDelta
from databricks_rlm_agent.domain.digest import digest as plain_digest
from databricks_rlm_agent.domain.digest import facts, is_long
from databricks_rlm_agent.domain.memory import Item, one_line
from databricks_rlm_agent.domain.result import Result
from databricks_rlm_agent.domain.text import clip
from databricks_rlm_agent.ports import Summary, Turn, Volume

if TYPE_CHECKING:
    from databricks_rlm_agent.agent.chain import Meter

log = logging.getLogger(__name__)

_MAX_REFUSALS = 2
_MAX_LINES = 6
_LINE_CHARS = 300
_WORDS_CHARS = 1_900  # of its digest; the facts have the rest of the capsule's room
_FACTS_CHARS = 900


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
        decisions=_sentences(decisions),
        failed_approaches=_sentences(failed_approaches),
    )


async def summarize(
    models: Models, turn: Turn, result: Result, *, meter: Meter, volume: Volume | None = None
) -> Summary:
    """The summary of a long result; ``delta`` is None where the deterministic digest is to be taken.

    ``volume`` is where the whole output lies; without it, what the result itself holds must do.
    """
    if not is_long(result) or not models.knows("summarizer", turn.iter_n, objective=turn.capsule.objective):
        return Summary(delta=None)
    from databricks_rlm_agent.agent.checked import ActionTool
    from databricks_rlm_agent.agent.invocation import Conversation, converse

    reading = await read_output(models, turn, result, meter=meter, volume=volume)
    if not turn.held():
        return Summary(delta=None, calls=tuple(meter.calls))
    desk: Desk[CapsuleDelta] = Desk(max_refusals=_MAX_REFUSALS)
    tool = ActionTool(remember, desk=desk)
    conversation = Conversation(
        role="summarizer",
        instruction=summarizer_prompt(turn, result, reading),
        opening=SUMMARIZER_OPENING,
        tools=[tool],
        endings=[tool.name],
    )
    model = models.open(role="summarizer", iter_n=turn.iter_n, meter=meter, objective=turn.capsule.objective)
    await converse(conversation, model=model, desk=desk, redact=models.redact)
    if desk.failure is not None:
        log.warning("run %s: no summary: %s; head and tail of the output are kept", turn.run_id, desk.failure)
    delta = desk.decision and _as_words(desk.decision, result)
    return Summary(delta=delta, calls=tuple(meter.calls))


def _sentences(lines: list[str] | None) -> list[Item | str]:
    clean = [one_line(clip(line, 4 * _LINE_CHARS)) for line in lines or []]
    kept: list[Item | str] = [clip(line, _LINE_CHARS) for line in clean if line]
    return kept[:_MAX_LINES]


def _as_words(delta: CapsuleDelta, result: Result) -> CapsuleDelta:
    """The model's words, marked as such, with the executor's facts: those are no opinion."""
    known = plain_digest(result, purpose="")
    lines = facts(result)
    return CapsuleDelta(
        digest="\n".join(
            [
                clip(delta.digest, _WORDS_CHARS),
                clip("On record: " + "\n".join(lines), _FACTS_CHARS) if lines else "",
            ]
        ).strip(),
        decisions=_said(delta.decisions, result),
        failed_approaches=_said(delta.failed_approaches, result),
        tables=known.tables,
        artifacts=known.artifacts,
    )


def _said(items: list[Item | str], result: Result) -> list[Item | str]:
    texts = [item if isinstance(item, str) else item.text for item in items]
    return [Item.of(text, iter_n=result.iter_n, by="summarizer") for text in texts]
