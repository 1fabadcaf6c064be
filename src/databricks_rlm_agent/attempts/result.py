"""The result of one attempt: from whichever source knew it, and its digest for the capsule. Pure.

Where there is none, the Jobs API's verdict decides; what it means for an attempt is the table in
docs/retries.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import AwareDatetime, Field

from databricks_rlm_agent.runs.capsule.capsule import DIGEST_CHARS, CapsuleDelta, TableNote
from databricks_rlm_agent.runs.capsule.packing import CapsuleItem, failure_key, one_line
from databricks_rlm_agent.runs.parsing import Document
from databricks_rlm_agent.runs.run import AttemptKey
from databricks_rlm_agent.values import ID_PATTERN, clip
from executor_harness import protocol
from executor_harness.protocol import KeptVariables, Stream


class Status(StrEnum):
    """How an attempt ended."""

    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    LOST = "LOST"


class Spend(Document):
    """``spend.json``: what an attempt that left no result may have spent on model calls, at most."""

    usage: protocol.Usage


class Result(Document):
    """The known end of an attempt: ``result.json``, its row, or the Jobs API's verdict.

    Only ``result.json`` has all of it; ``reported_by`` is ``controller`` where the executor left none.
    """

    schema_version: Literal[1] = 1
    run_id: str = Field(pattern=f"^{ID_PATTERN.pattern}$")
    iter_n: int = Field(ge=1)
    attempt: int = Field(ge=1)
    request_sha256: str | None = None
    status: Status
    error_type: str | None = None
    error_summary: str | None = None
    traceback: str | None = None
    exit_code: int | None = None
    value: Any = None
    metrics: dict[str, float] = Field(default_factory=dict)
    produced_artifacts: list[protocol.ProducedArtifact] = Field(default_factory=list)
    produced_tables: list[protocol.ProducedTable] = Field(default_factory=list)
    log: list[str] = Field(default_factory=list)
    usage: protocol.Usage | None = None
    variables: protocol.KeptVariables | None = None
    spawned: list[protocol.ChildTask] = Field(default_factory=list, max_length=protocol.CHILDREN)
    stdout: protocol.Stream = protocol.Stream()
    stderr: protocol.Stream = protocol.Stream()
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    duration_s: float | None = None
    reported_by: str = "executor"

    @property
    def key(self) -> AttemptKey:
        """The attempt that this is the result of."""
        return AttemptKey(run_id=self.run_id, iter_n=self.iter_n, attempt=self.attempt)

    @property
    def seconds(self) -> float | None:
        """How long the attempt took, in seconds, where it is known."""
        if self.duration_s is None and isinstance(self.started_at, datetime) and self.finished_at:
            return (self.finished_at - self.started_at).total_seconds()
        return self.duration_s

    @classmethod
    def without_report(cls, key: AttemptKey, *, status: Status, error_type: str, error_summary: str) -> Self:
        """The result of an attempt whose executor left none."""
        return cls(
            run_id=key.run_id,
            iter_n=key.iter_n,
            attempt=key.attempt,
            status=status,
            error_type=error_type,
            error_summary=error_summary,
            reported_by="controller",
        )


@dataclass(frozen=True, kw_only=True)
class JobVerdict:
    """A job run as ``runs/get`` shows it. Unknown enum values arrive as None, never as success."""

    run_id: int
    state: str | None
    code: str | None
    type: str | None
    message: str
    run_page_url: str | None = None

    @property
    def over(self) -> bool:
        """Return whether the run has ended. An unknown state means: keep waiting."""
        return self.state == "TERMINATED"

    @property
    def understood(self) -> bool:
        """Return whether the state is one that we know. If not, it is logged while we wait."""
        return self.state in _STATES


class Retry(StrEnum):
    """The possible successors of a failed attempt: as many as the budget has, one, or none."""

    YES = "yes"
    ONCE = "once"
    NO = "no"


# Our own code for a job run that the workspace does not know any more.
GONE = "JOB_RUN_NOT_FOUND"
RETRY_TYPES = frozenset({"CLOUD_FAILURE", "INTERNAL_ERROR"})
RETRY_CODES = frozenset(
    {
        "DRIVER_ERROR",
        "CLUSTER_ERROR",
        "CLUSTER_REQUEST_LIMIT_EXCEEDED",
        "WORKSPACE_RUN_LIMIT_EXCEEDED",
        "STORAGE_ACCESS_ERROR",
        # Others had used the capacity, and nothing of ours has run
        "MAX_CONCURRENT_RUNS_EXCEEDED",
        "MAX_JOB_QUEUE_SIZE_EXCEEDED",
        "MAX_SPARK_CONTEXTS_EXCEEDED",
    }
)
ONCE_CODES = frozenset({"LIBRARY_INSTALLATION_ERROR"})
# Trying again cannot help, whatever type the platform gives them.
FINAL_CODES = frozenset(
    {
        "RUN_EXECUTION_ERROR",
        "UNAUTHORIZED_ERROR",
        "RESOURCE_NOT_FOUND",
        "FEATURE_DISABLED",
        "BUDGET_POLICY_LIMIT_EXCEEDED",
        "USER_CANCELED",
    }
)
_STATES = frozenset({"BLOCKED", "PENDING", "QUEUED", "RUNNING", "TERMINATING", "TERMINATED", "WAITING"})


def retry(verdict: JobVerdict) -> Retry:
    """Return whether a job run that ended without a result may be tried again."""
    if verdict.code in RETRY_CODES:
        return Retry.YES
    if verdict.code in ONCE_CODES:
        return Retry.ONCE
    if verdict.code in FINAL_CODES or (verdict.code or "").startswith("INVALID_"):
        return Retry.NO
    return Retry.YES if verdict.type in RETRY_TYPES else Retry.NO


def status_without_result(verdict: JobVerdict) -> Status:
    """The status of an attempt whose job run has ended and left no result. Absence is not success."""
    if verdict.code in {"USER_CANCELED", "CANCELED"}:
        return Status.CANCELLED
    if verdict.code in {"SUCCESS", "SUCCESS_WITH_FAILURES", GONE, None}:
        return Status.LOST
    return Status.LOST if retry(verdict) is not Retry.NO else Status.FAILED


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
