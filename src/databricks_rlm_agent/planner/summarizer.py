"""The summarizer: what a long result means, in a few lines. If it fails, only the summary is missing.

It is given the facts, the ends of the output and the places with errors. Of an output that does not fit,
readers read parts of the file, one model call each and all at the same time; the summarizer gets their notes.
What it writes is marked as a model's: status, error, metrics, tables and files come from the executor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from databricks_rlm_agent.attempts.excerpts import Excerpts, Region, chosen, regions
from databricks_rlm_agent.attempts.result import Result, facts, headline, is_long
from databricks_rlm_agent.attempts.result import digest as plain_digest
from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.models import parse_models
from databricks_rlm_agent.planner.models import Models
from databricks_rlm_agent.planner.prompt import ITEMS_RULE, MAX_CHARS, Marks
from databricks_rlm_agent.planner.review import PendingDecision
from databricks_rlm_agent.planner.spending import MIN_REPLY_TOKENS, tokens_of
from databricks_rlm_agent.ports import PlanningContext, Summary, Volume
from databricks_rlm_agent.runs.actions import check_text
from databricks_rlm_agent.runs.capsule.capsule import CapsuleDelta
from databricks_rlm_agent.runs.capsule.packing import CapsuleItem, one_line
from databricks_rlm_agent.values import clip
from executor_harness.protocol import Stream

if TYPE_CHECKING:
    from databricks_rlm_agent.planner.chain import ChainModel, Meter

log = logging.getLogger(__name__)

SUMMARIZER_OPENING = "Summarize what the agent needs to know of this result."
READER_OPENING = "Write your notes on this part of the output."
_SUMMARIZER_ROLE = """\
You summarize results for a data agent. A program has run, and its output is long. Call remember once \
with what the agent needs to continue: figures, names of tables and columns, the error and its cause. Report \
only what is stated here."""
_READER_ROLE = """\
You read one part of a program's long output for a data agent. Write at most eight short lines of plain \
text: figures, names, warnings, and errors with their cause. Report only what is stated here. If there is \
nothing worth reporting, write "nothing of note"."""
MAX_READERS = 8
CHUNK_BYTES = 12_000
WHOLE_BYTES = 9_000
"""An output up to this size is shown to the summarizer itself."""
PLANNER_CALLS = 12
"""Calls that are left to the planner, which comes next and must be able to decide."""
_OWN_CALLS = 3  # of the summarizer itself
_TOKENS_SHARE = 4  # readers use at most a quarter of the tokens that are left
_NOTE_CHARS = 700
_REPLY_TOKENS = MIN_REPLY_TOKENS + 256
_BLOCK_BYTES = 1024 * 1024
_SCAN_BYTES = 16 * 1024 * 1024  # twice what the executor keeps by default
_MAX_REFUSALS = 2
_MAX_LINES = 6
_LINE_CHARS = 300
_DIGEST_CHARS = 1_900
_FACTS_CHARS = 900


def remember(
    digest: str, decisions: list[str] | None = None, failed_approaches: list[str] | None = None
) -> CapsuleDelta:
    """Save what matters of the result; this is all that the planner will see of it.

    Args:
        digest: What the program did and found: figures, names, the error and its cause.
        decisions: What is now decided, one sentence each.
        failed_approaches: What was tried and does not work, one sentence each.
    """
    return CapsuleDelta(
        digest=check_text(digest, name="digest"),
        decisions=_sentences(decisions),
        failed_approaches=_sentences(failed_approaches),
    )


def _sentences(lines: list[str] | None) -> list[CapsuleItem | str]:
    clean = [one_line(clip(line, 4 * _LINE_CHARS)) for line in lines or []]
    kept: list[CapsuleItem | str] = [clip(line, _LINE_CHARS) for line in clean if line]
    return kept[:_MAX_LINES]


@dataclass(frozen=True, kw_only=True)
class Summarizer:
    """Summarizes one result. ``volume`` has the whole output; without it the result's own ends are used."""

    models: Models
    context: PlanningContext
    result: Result
    meter: Meter
    volume: Volume | None = None

    async def summarize(self) -> Summary:
        """Return the summary; ``delta`` is None if the deterministic digest is to be used."""
        context, result, meter = self.context, self.result, self.meter
        objective = context.capsule.objective
        if not is_long(result) or not self.models.has_reply(
            "summarizer", context.iter_n, objective=objective
        ):
            return Summary(delta=None)
        from databricks_rlm_agent.planner.conversation import ActionTool, Conversation

        excerpts = await self._excerpts()
        if not context.lease_held():
            return Summary(delta=None, calls=tuple(meter.calls))
        pending: PendingDecision[CapsuleDelta] = PendingDecision(
            max_refusals=_MAX_REFUSALS, redact=self.models.redact
        )
        conversation = Conversation(
            role="summarizer",
            model=self._model(meter),
            instruction=summarizer_prompt(context, result, excerpts),
            opening=SUMMARIZER_OPENING,
            tools=[ActionTool(remember, pending=pending)],
            pending=pending,
        )
        await conversation.converse()
        if pending.failure is not None:
            reason = f"{pending.failure}; head and tail of the output are kept"
            log.warning("run %s: no summary: %s", context.run_id, reason)
        delta = pending.decision and _with_facts(pending.decision, result)
        return Summary(delta=delta, calls=tuple(meter.calls))

    def _model(self, meter: Meter) -> ChainModel:
        objective = self.context.capsule.objective
        return self.models.open(
            role="summarizer", iter_n=self.context.iter_n, meter=meter, objective=objective
        )

    async def _excerpts(self) -> Excerpts | None:
        """Read the file of the longer stream beyond head and tail; return None if that fails."""
        streams = {"stdout": self.result.stdout, "stderr": self.result.stderr}
        name, stream = max(streams.items(), key=lambda item: item[1].bytes)
        volume, path = self.volume, stream.path
        if volume is None or path is None or stream.bytes <= len(stream.head.encode()):
            return None
        try:
            size, found, whole = await asyncio.to_thread(_scan, volume, path)
            places = chosen(size, found, count=0 if whole else self._reader_count(), length=CHUNK_BYTES)
            parts = [await asyncio.to_thread(volume.get, path, offset=n, length=CHUNK_BYTES) for n in places]
        except RlmError as error:
            reason = f"{error}; head and tail are used"
            log.warning("run %s: the output cannot be read: %s", self.context.run_id, reason)
            return None
        notes = await self._notes(parts, places, size)
        return Excerpts(stream=name, size=size, whole=whole, regions=tuple(found), notes=tuple(notes))

    def _reader_count(self) -> int:
        """Return the number of parts that the iteration's budget allows models to read."""
        specs = parse_models(self.models.name)
        if any(spec.provider == "scripted" for spec in specs):
            return 0  # a script holds the summarizer's own replies
        calls = (self.context.budget.calls_left - PLANNER_CALLS - _OWN_CALLS) // len(specs)
        each = tokens_of("x" * CHUNK_BYTES * 2) + _REPLY_TOKENS
        tokens = self.meter.allowance.tokens // _TOKENS_SHARE // each
        return max(0, min(MAX_READERS, calls, tokens))

    async def _notes(self, parts: Sequence[bytes], places: Sequence[int], size: int) -> list[str]:
        """A note on each part, asked for at the same time; those that failed are left out."""
        if not parts or not self.context.lease_held():
            return []
        left = self.meter.allowance
        # Each has its own share: asked at the same time, none would see what the others spend.
        share = replace(
            left,
            calls=len(parse_models(self.models.name)),
            tokens=left.tokens // _TOKENS_SHARE // len(parts),
            cost_usd=None if left.cost_usd is None else left.cost_usd / _TOKENS_SHARE / len(parts),
        )
        meters = [replace(self.meter, calls=[], asked=0, allowance=share) for _ in parts]
        texts = [part.decode("utf-8", "replace") for part in parts]
        prompts = [
            reader_prompt(self.context, text, place=f"bytes from {place:,} of {size:,}")
            for text, place in zip(texts, places, strict=True)
        ]
        try:
            notes = await asyncio.gather(*map(self._note, meters, prompts))
        finally:
            for meter in meters:  # calls that were made are paid for, whatever their outcome
                self.meter.calls.extend(meter.calls)
        pairs = zip(places, notes, strict=True)
        return [f"At byte {place:,}: {clip(note, _NOTE_CHARS)}" for place, note in pairs if note]

    async def _note(self, meter: Meter, prompt: str) -> str:
        """One reader's note; empty if it failed."""
        from google.adk.models.llm_request import LlmRequest
        from google.genai import types

        opening = types.Content(role="user", parts=[types.Part(text=READER_OPENING)])
        config = types.GenerateContentConfig(system_instruction=prompt, max_output_tokens=_REPLY_TOKENS)
        try:
            request = LlmRequest(model=self.models.name, contents=[opening], config=config)
            texts = [
                part.text
                async for response in self._model(meter).generate_content_async(request)
                for part in (response.content.parts if response.content else None) or []
                if part.text and not part.thought
            ]
        except Exception as error:  # noqa: BLE001 - recorded: a note that is missing must not cost the summary
            reason = clip(self.models.redact(f"{type(error).__name__}: {error}"), _NOTE_CHARS)
            log.warning("run %s: a part of the output was not read: %s", self.context.run_id, reason)
            return ""
        return "".join(texts).strip()


def _scan(volume: Volume, path: str) -> tuple[int, list[Region], str]:
    """A file's size (up to what is scanned), its places with errors, and the text of a short one."""
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


def _with_facts(delta: CapsuleDelta, result: Result) -> CapsuleDelta:
    """The model's summary, marked as such, with the executor's facts."""
    known = plain_digest(result, purpose="")
    lines = facts(result)
    recorded = clip("On record: " + "\n".join(lines), _FACTS_CHARS) if lines else ""
    return CapsuleDelta(
        digest=f"{clip(delta.digest, _DIGEST_CHARS)}\n{recorded}".strip(),
        decisions=_marked(delta.decisions, result),
        failed_approaches=_marked(delta.failed_approaches, result),
        tables=known.tables,
        artifacts=known.artifacts,
    )


def _marked(items: list[CapsuleItem | str], result: Result) -> list[CapsuleItem | str]:
    texts = [item if isinstance(item, str) else item.text for item in items]
    return [CapsuleItem.of(text, iter_n=result.iter_n, by="summarizer") for text in texts]


def summarizer_prompt(context: PlanningContext, result: Result, excerpts: Excerpts | None = None) -> str:
    """Return the summarizer's instruction; bounded. ``excerpts`` are from the file of the longer stream."""
    excerpts = excerpts or Excerpts(stream="stdout", size=result.stdout.bytes)
    streams = {"stdout": result.stdout, "stderr": result.stderr}
    stream = streams.pop(excerpts.stream)
    ((other_name, other),) = streams.items()
    marks = Marks()
    parts = [
        _SUMMARIZER_ROLE,
        marks.rule + ITEMS_RULE,
        f"Objective:\n{clip(context.capsule.objective, 1_500)}",
        marks.data("result", "\n".join([headline(result, ""), *facts(result)]), 3_000),
        marks.data(f"all of {excerpts.stream}", excerpts.whole, 9_000),
        *(() if excerpts.whole else _ends(excerpts, stream, marks)),
        marks.data(f"tail of {other_name}", other.tail or other.head, 1_200),
        marks.data("traceback", result.traceback or "", 1_200),
    ]
    return clip("\n\n".join(part for part in parts if part), MAX_CHARS)


def reader_prompt(context: PlanningContext, part: str, *, place: str) -> str:
    """Return the instruction for reading one part of an output; bounded. ``place`` says which part."""
    marks = Marks()
    parts = [
        _READER_ROLE,
        marks.rule + ITEMS_RULE,
        f"Objective of the agent:\n{clip(context.capsule.objective, 800)}",
        f"The part: {place}.",
        marks.data("part of the output", part, 12_400),
    ]
    return clip("\n\n".join(parts), MAX_CHARS)


def _ends(excerpts: Excerpts, stream: Stream, marks: Marks) -> list[str]:
    """The sections of an output that does not fit."""
    regions = "\n…\n".join(f"(at byte {region.offset:,})\n{region.text}" for region in excerpts.regions)
    return [
        marks.data(f"head of {excerpts.stream}", stream.head, 2_000),
        marks.data(f"tail of {excerpts.stream}", stream.tail, 2_000),
        marks.data("places with errors or warnings", regions, 1_800),
        marks.data("notes on parts of it", "\n".join(excerpts.notes), 4_500),
    ]
