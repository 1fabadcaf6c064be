"""The deterministic digest: what the planner is told of a result, without a model."""

from __future__ import annotations

import json
from typing import Any

from databricks_rlm_agent.domain.capsule import CapsuleDelta, TableNote
from databricks_rlm_agent.domain.result import Result, Status
from databricks_rlm_agent.domain.text import clip

# Above this many bytes of output a summarizer may say more than head and tail do.
LONG_OUTPUT_BYTES = 6_000
_OUTPUT_CHARS = 1_200
_VALUE_CHARS = 800
_NAME_CHARS = 200  # of purposes, error types and paths: leaves the reason its place in the capsule


def is_long(result: Result) -> bool:
    """Whether head and tail leave out a part of what the program wrote."""
    return result.stdout.bytes + result.stderr.bytes > LONG_OUTPUT_BYTES


def digest(result: Result, *, purpose: str) -> CapsuleDelta:
    """What one result adds to the capsule."""
    failed = result.status is not Status.SUCCESS
    purpose = clip(purpose, _NAME_CHARS)
    summary = f"{result.error_type or result.status}: {result.error_summary or 'no further word'}"
    return CapsuleDelta(
        digest="\n".join(_lines(result, purpose)),
        decisions=[] if failed else [f"Iteration {result.iter_n}: {purpose}"],
        failed_approaches=[f"Iteration {result.iter_n} ({purpose}) failed: {summary}"] if failed else [],
        tables=[
            TableNote(name=table.name, rows=table.rows, columns=", ".join(table.columns or ()))
            for table in result.produced_tables
        ],
        artifacts=[artifact.path for artifact in result.produced_artifacts],
    )


def _lines(result: Result, purpose: str) -> list[str]:
    took = f" in {result.seconds:.1f} s" if result.seconds is not None else ""
    lines = [
        f"Iteration {result.iter_n}, attempt {result.attempt}: {result.status}{took}. Purpose: {purpose}"
    ]
    if result.error_type:
        kind = clip(result.error_type, _NAME_CHARS)
        lines.append(f"Error: {kind}: {clip(result.error_summary or '', _VALUE_CHARS)}")
    if result.value is not None:
        lines.append(f"Value: {clip(_json(result.value), _VALUE_CHARS)}")
    if result.metrics:
        lines.append(f"Metrics: {clip(_json(result.metrics), _VALUE_CHARS)}")
    for name, stream in (("stdout", result.stdout), ("stderr", result.stderr)):
        if stream.bytes:
            shown = (
                stream.head
                if not stream.tail or stream.tail == stream.head
                else f"{stream.head}\n…\n{stream.tail}"
            )
            where = f", all of it in {clip(stream.path, _NAME_CHARS)}" if stream.path else ""
            lines.append(f"{name} ({stream.bytes:,} bytes{where}):\n{clip(shown, _OUTPUT_CHARS)}")
    if result.log:
        lines.append("Log: " + clip(" | ".join(result.log), _VALUE_CHARS))
    return lines


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
