"""The deterministic digest of a result, and excerpts of long outputs. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from databricks_rlm_agent.attempts.result import Result, Status
from databricks_rlm_agent.runs.capsule.capsule import DIGEST_CHARS, CapsuleDelta, TableNote
from databricks_rlm_agent.runs.capsule.packing import CapsuleItem, failure_key, one_line
from databricks_rlm_agent.values import clip
from executor_harness import protocol
from executor_harness.protocol import KeptVariables, Stream

MAX_REGIONS = 6
REGION_BYTES = 600
_BEFORE = 150  # bytes of a region that lie before its word
_SIGNS = (b"Traceback", b"xception", b"EXCEPTION", b"Error", b"ERROR", b"WARN", b"FATAL")


@dataclass(frozen=True, kw_only=True)
class Region:
    """A piece of a file: where it begins, in bytes, and its text."""

    offset: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Excerpts:
    """Excerpts of the file of a ``stream``: all of it (``whole``), or regions with errors and readers' notes
    on parts of it. ``size`` in bytes.
    """

    stream: str
    size: int
    whole: str = ""
    regions: tuple[Region, ...] = ()
    notes: tuple[str, ...] = ()


def regions(blocks: Iterable[bytes]) -> list[Region]:
    """Return the places with errors in a file that comes in blocks: the first of them, and the last.

    At most ``MAX_REGIONS``, none overlapping; nothing is held but a block and what is found.
    """
    first: list[Region] = []
    last: list[Region] = []
    free = 0  # where the last region ends
    for offset, piece, begin, end in _pieces(blocks):
        known: dict[bytes, int] = {}
        while (place := _next(piece, known, max(begin, free - offset), end)) is not None:
            start = max(0, place - _BEFORE)
            text = piece[start : start + REGION_BYTES].decode("utf-8", "replace")
            region = Region(offset=offset + start, text=text)
            free = region.offset + REGION_BYTES
            if len(first) < MAX_REGIONS // 2:
                first.append(region)
            else:
                last = [*last, region][-(MAX_REGIONS - MAX_REGIONS // 2) :]
    return first + last


def chosen(size: int, known: Sequence[Region], *, count: int, length: int) -> list[int]:
    """Where to read at most ``count`` chunks of ``length`` bytes in a file of ``size``: its head and tail,
    then around its errors, then evenly spread. In order, and none twice. With less than three chunks the ends
    come last: something of them is known anyway.
    """
    if count <= 0 or size <= 0:
        return []
    if size <= count * length:
        return list(range(0, size, length))
    last = size - length
    ends = [0, last]
    wanted = [min(last, max(0, region.offset - length // 2)) for region in reversed(known)]
    wanted += [last * n // (count + 1) for n in range(1, count + 1)]
    wanted = ends + wanted if count > len(ends) else wanted + ends
    places: list[int] = []
    for place in wanted:
        if len(places) < count and all(abs(place - other) >= length for other in places):
            places.append(place)
    return sorted(places)


def _next(piece: bytes, known: dict[bytes, int], start: int, end: int) -> int | None:
    """Where the next sign begins. ``known`` keeps each one's next place (-1: none): a piece is read once."""
    for sign in _SIGNS:
        if known.get(sign, 0) != -1 and known.get(sign, -2) < start:
            known[sign] = piece.find(sign, start)
    return min((place for place in known.values() if start <= place < end), default=None)


def _pieces(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes, int, int]]:
    """Pieces that overlap, so that no sign and no region is cut: offset, bytes, and where to look in them."""
    offset, held, begin = 0, b"", 0
    for block in blocks:
        piece = held + block
        end = max(begin, len(piece) - REGION_BYTES)
        yield offset, piece, begin, end
        cut = max(0, end - _BEFORE)
        offset, held, begin = offset + cut, piece[cut:], end - cut
    yield offset, held, begin, len(held)


# Above this many bytes of output a summary may hold more than head and tail do.
LONG_OUTPUT_BYTES = 6_000
_VALUE_CHARS = 700
_LINE_CHARS = 500
_NAME_CHARS = 200  # of purposes, error types and paths: leaves the reason its place in the capsule
_STREAM_CHARS = 400  # at least, of each stream, however long the rest is


def is_long(result: Result) -> bool:
    """Return whether head and tail leave out a part of the program's output."""
    return result.stdout.bytes + result.stderr.bytes > LONG_OUTPUT_BYTES


def digest(result: Result, *, purpose: str) -> CapsuleDelta:
    """Return the additions of one result to the capsule."""
    purpose = clip(one_line(clip(purpose, 4 * _NAME_CHARS)), _NAME_CHARS)
    lines = [headline(result, purpose), *facts(result)]
    left = DIGEST_CHARS - sum(len(line) + 1 for line in lines)
    failed = result.status is not Status.SUCCESS
    return CapsuleDelta(
        digest="\n".join([*lines, *_streams(result, left)]),
        decisions=[] if failed else [CapsuleItem.of(purpose or "no purpose given", iter_n=result.iter_n)],
        failed_approaches=[_failure(result, purpose)] if failed else [],
        tables=[
            TableNote(
                name=table.name, rows=table.rows, columns=", ".join(table.columns or ()), iter_n=result.iter_n
            )
            for table in result.produced_tables
        ],
        artifacts=[
            CapsuleItem.of(artifact.path, iter_n=result.iter_n, key=clip(artifact.path, 4 * _NAME_CHARS))
            for artifact in result.produced_artifacts
        ],
    )


def headline(result: Result, purpose: str) -> str:
    """Return one line: the attempt, its status and duration, and its purpose."""
    took = f" in {result.seconds:.1f} s" if result.seconds is not None else ""
    return f"Iteration {result.iter_n}, attempt {result.attempt}: {result.status}{took}. Purpose: {purpose}"


def facts(result: Result) -> list[str]:
    """Return the executor's report beside the streams: error, value, metrics, model calls, variables, log."""
    lines = []
    if result.error_type:
        lines.append(f"Error: {_kind(result)}: {clip(result.error_summary or '', _VALUE_CHARS)}")
    if result.value is not None:
        lines.append(f"Value: {clip(_json(result.value), _VALUE_CHARS)}")
    if result.metrics:
        lines.append(f"Metrics: {clip(_json(result.metrics), _LINE_CHARS)}")
    if result.usage is not None and (result.usage.calls or result.usage.cached):
        lines.append(f"Model calls: {_usage(result.usage)}")
    if result.variables is not None and result.status is Status.SUCCESS:
        lines.append(f"Saved variables: {clip(_variables(result.variables), _LINE_CHARS)}")
    if result.spawned:
        lines.append(f"Child runs asked for: {', '.join(task.name for task in result.spawned)}")
    if result.log:
        lines.append("Log: " + clip(" | ".join(result.log), _VALUE_CHARS))
    return lines


def _failure(result: Result, purpose: str) -> CapsuleItem:
    summary = clip(one_line(clip(result.error_summary or "", 2_000)), _NAME_CHARS)
    kind = _kind(result) if result.error_type else str(result.status)
    return CapsuleItem.of(
        clip(purpose, 60) + f" failed: {kind}: {summary or 'no message'}",
        iter_n=result.iter_n,
        kind=clip(kind, 80),
        key=failure_key(kind, result.error_summary or ""),
    )


def _streams(result: Result, chars: int) -> list[str]:
    """Head and tail of both streams, in at most ``chars`` characters (at least 400 each)."""
    known = [(name, s) for name, s in (("stdout", result.stdout), ("stderr", result.stderr)) if s.bytes]
    shown: list[str] = []
    for left, (name, stream) in zip(range(len(known), 0, -1), known, strict=True):
        part = clip(_stream(name, stream), max(_STREAM_CHARS, chars // left - 1))
        shown.append(part)
        chars -= len(part) + 1
    return shown


def _stream(name: str, stream: Stream) -> str:
    whole = not stream.tail or stream.tail == stream.head
    text = stream.head if whole else f"{stream.head}\n…\n{stream.tail}"
    where = f", all of it in {clip(stream.path, _NAME_CHARS)}" if stream.path else ""
    return f"{name} ({stream.bytes:,} bytes{where}):\n{text}"


def _usage(usage: protocol.Usage) -> str:
    cost = f", ${usage.cost_usd:.6g}" if usage.cost_usd else ""
    return (
        f"{usage.calls:,} paid, {usage.cached:,} answered from the cache, {usage.input_tokens:,} tokens in, "
        f"{usage.output_tokens:,} out{cost}"
    )


def _variables(variables: KeptVariables) -> str:
    shown = [
        f"{note.name} ({note.type}{', ' if note.size else ''}{note.size})" for note in variables.shown[:12]
    ]
    more = variables.count - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "") or "none"


def _kind(result: Result) -> str:
    return clip(one_line(clip(result.error_type or "", 4 * _NAME_CHARS)), _NAME_CHARS)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
