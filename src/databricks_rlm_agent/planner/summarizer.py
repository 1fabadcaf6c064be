"""The summarizer: what a long result means, in a few lines. Its failure costs nothing but itself.

It is told the facts, the ends of the output and the places that speak of errors. Of an output that does not
fit, readers read parts of the file, one model call each and all at once; the summarizer is told their notes.
What it says is taken as its words: status, error, metrics, tables and files come from the executor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from databricks_rlm_agent.attempts.digest import Excerpts, Region, chosen, facts, is_long, regions
from databricks_rlm_agent.attempts.digest import digest as plain_digest
from databricks_rlm_agent.attempts.result import Result
from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.models import parse_models
from databricks_rlm_agent.planner.decision import PendingDecision
from databricks_rlm_agent.planner.models import Models
from databricks_rlm_agent.planner.prompt import (
    READER_OPENING,
    SUMMARIZER_OPENING,
    reader_prompt,
    summarizer_prompt,
)
from databricks_rlm_agent.planner.spending import MIN_REPLY_TOKENS, tokens_of
from databricks_rlm_agent.ports import PlanningContext, Summary, Volume
from databricks_rlm_agent.runs.actions import check_text
from databricks_rlm_agent.runs.capsule.capsule import CapsuleDelta
from databricks_rlm_agent.runs.capsule.packing import CapsuleItem, one_line
from databricks_rlm_agent.values import clip

if TYPE_CHECKING:
    from databricks_rlm_agent.planner.chain import Meter

log = logging.getLogger(__name__)

MAX_READERS = 8
CHUNK_BYTES = 12_000
WHOLE_BYTES = 9_000
"""An output up to this size is shown to the summarizer itself."""
PLANNER_CALLS = 12
"""Calls of the turn that are left to the planner, which comes next and must be able to decide."""
_OWN_CALLS = 3  # of the summarizer itself
_TOKENS_SHARE = 4  # at most one part in so many of the tokens that are left
_NOTE_CHARS = 700
_REPLY_TOKENS = MIN_REPLY_TOKENS + 256
_BLOCK_BYTES = 1024 * 1024
_SCAN_BYTES = 16 * 1024 * 1024  # twice what the executor keeps by default


async def read_output(
    models: Models, context: PlanningContext, result: Result, *, meter: Meter, volume: Volume | None
) -> Excerpts | None:
    """What the file of the longer stream tells beyond head and tail; None where it cannot be read."""
    streams = {"stdout": result.stdout, "stderr": result.stderr}
    name, stream = max(streams.items(), key=lambda item: item[1].bytes)
    path = stream.path
    if volume is None or path is None or stream.bytes <= len(stream.head.encode()):
        return None
    try:
        size, known, whole = await asyncio.to_thread(_scan, volume, path)
        reading = Excerpts(stream=name, size=size, whole=whole, regions=tuple(known))
        count = 0 if whole else _readers(models, context, meter)
        places = chosen(size, known, count=count, length=CHUNK_BYTES)
        parts = [await asyncio.to_thread(volume.get, path, offset=n, length=CHUNK_BYTES) for n in places]
    except RlmError as error:
        log.warning("run %s: the output cannot be read: %s; head and tail are used", context.run_id, error)
        return None
    notes = await _read(models, context, meter, parts, places, size)
    return replace(reading, notes=tuple(notes))


def _scan(volume: Volume, path: str) -> tuple[int, list[Region], str]:
    """A file's size (up to what is looked at), where it speaks of errors, and the text of a short one."""
    sizes: list[int] = []
    first: list[bytes] = []

    def blocks() -> Iterator[bytes]:
        while sum(sizes) < _SCAN_BYTES:
            block = volume.get(path, offset=sum(sizes), length=_BLOCK_BYTES)
            first.extend([block] if not sizes else [])
            sizes.append(len(block))
            yield block
            if len(block) < _BLOCK_BYTES:
                break

    found = regions(blocks())
    short = sum(sizes) <= WHOLE_BYTES
    return sum(sizes), found, first[0].decode("utf-8", "replace") if short else ""


def _readers(models: Models, context: PlanningContext, meter: Meter) -> int:
    """How many parts may be read by a model, within what the turn may still spend."""
    if any(spec.provider == "scripted" for spec in parse_models(models.name)):
        return 0  # a script holds the summarizer's own replies
    calls = (context.budget.calls_left - PLANNER_CALLS - _OWN_CALLS) // len(parse_models(models.name))
    tokens = meter.allowance.tokens // _TOKENS_SHARE // (tokens_of("x" * CHUNK_BYTES * 2) + _REPLY_TOKENS)
    return max(0, min(MAX_READERS, calls, tokens))


async def _read(
    models: Models,
    context: PlanningContext,
    meter: Meter,
    parts: Sequence[bytes],
    places: Sequence[int],
    size: int,
) -> list[str]:
    """A note on each part, asked at the same time; those that failed are left out. Calls are metered."""
    if not parts or not context.held():
        return []
    left = meter.allowance
    shares = [
        # Each has its own part of the allowance: asked at once, none would see what the others spend.
        replace(
            meter,
            calls=[],
            asked=0,
            allowance=replace(
                left,
                calls=len(parse_models(models.name)),
                tokens=left.tokens // _TOKENS_SHARE // len(parts),
                cost_usd=None if left.cost_usd is None else left.cost_usd / _TOKENS_SHARE / len(parts),
            ),
        )
        for _ in parts
    ]
    prompts = [
        reader_prompt(context, part.decode("utf-8", "replace"), place=f"bytes from {place:,} of {size:,}")
        for part, place in zip(parts, places, strict=True)
    ]
    try:
        replies = await asyncio.gather(
            *(_note(models, context, share, prompt) for share, prompt in zip(shares, prompts, strict=True))
        )
    finally:
        for share in shares:  # whatever became of it: what was asked is paid
            meter.calls.extend(share.calls)
    pairs = zip(places, replies, strict=True)
    return [f"At byte {place:,}: {clip(reply, _NOTE_CHARS)}" for place, reply in pairs if reply]


async def _note(models: Models, context: PlanningContext, meter: Meter, prompt: str) -> str:
    """One reader's note; nothing where it failed."""
    from google.adk.models.llm_request import LlmRequest
    from google.genai import types

    opening = types.Content(role="user", parts=[types.Part(text=READER_OPENING)])
    config = types.GenerateContentConfig(system_instruction=prompt, max_output_tokens=_REPLY_TOKENS)
    try:
        model = models.open(
            role="summarizer", iter_n=context.iter_n, meter=meter, objective=context.capsule.objective
        )
        request = LlmRequest(model=models.name, contents=[opening], config=config)
        texts = [
            part.text
            async for response in model.generate_content_async(request)
            for part in (response.content.parts if response.content else None) or []
            if part.text and not part.thought
        ]
    except Exception as error:  # noqa: BLE001 - recorded: a note that is missing must not cost the summary
        reason = models.redact(f"{type(error).__name__}: {error}")
        log.warning(
            "run %s: a part of the output was not read: %s", context.run_id, clip(reason, _NOTE_CHARS)
        )
        return ""
    return "".join(texts).strip()


_MAX_REFUSALS = 2
_MAX_LINES = 6
_LINE_CHARS = 300
_WORDS_CHARS = 1_900  # of its digest; the facts have the rest of the capsule's room
_FACTS_CHARS = 900


def save_summary(
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
    models: Models, context: PlanningContext, result: Result, *, meter: Meter, volume: Volume | None = None
) -> Summary:
    """The summary of a long result; ``delta`` is None where the deterministic digest is to be taken.

    ``volume`` is where the whole output lies; without it, what the result itself holds must do.
    """
    if not is_long(result) or not models.knows(
        "summarizer", context.iter_n, objective=context.capsule.objective
    ):
        return Summary(delta=None)
    from databricks_rlm_agent.planner.invocation import Conversation, converse
    from databricks_rlm_agent.planner.tool_calls import ActionTool

    reading = await read_output(models, context, result, meter=meter, volume=volume)
    if not context.held():
        return Summary(delta=None, calls=tuple(meter.calls))
    pending: PendingDecision[CapsuleDelta] = PendingDecision(max_refusals=_MAX_REFUSALS)
    tool = ActionTool(save_summary, pending=pending)
    conversation = Conversation(
        role="summarizer",
        instruction=summarizer_prompt(context, result, reading),
        opening=SUMMARIZER_OPENING,
        tools=[tool],
        endings=[tool.name],
    )
    model = models.open(
        role="summarizer", iter_n=context.iter_n, meter=meter, objective=context.capsule.objective
    )
    await converse(conversation, model=model, pending=pending, redact=models.redact)
    if pending.failure is not None:
        log.warning(
            "run %s: no summary: %s; head and tail of the output are kept", context.run_id, pending.failure
        )
    delta = pending.decision and _as_words(pending.decision, result)
    return Summary(delta=delta, calls=tuple(meter.calls))


def _sentences(lines: list[str] | None) -> list[CapsuleItem | str]:
    clean = [one_line(clip(line, 4 * _LINE_CHARS)) for line in lines or []]
    kept: list[CapsuleItem | str] = [clip(line, _LINE_CHARS) for line in clean if line]
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


def _said(items: list[CapsuleItem | str], result: Result) -> list[CapsuleItem | str]:
    texts = [item if isinstance(item, str) else item.text for item in items]
    return [CapsuleItem.of(text, iter_n=result.iter_n, by="summarizer") for text in texts]
