"""Rows of the append-only ledgers: submitted attempts, their results, and events."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, ClassVar

from databricks_rlm_agent.attempts.result import Result


@dataclass(frozen=True, kw_only=True)
class RequestRow:
    """A submitted attempt."""

    TABLE: ClassVar[str] = "execution_requests"
    KEY: ClassVar[tuple[str, ...]] = ("run_id", "iter_n", "attempt")

    run_id: str
    iter_n: int
    attempt: int
    task_type: str
    artifact_path: str
    artifact_hash: str
    job_submit_payload: str
    databricks_run_id: int
    run_url: str | None
    submitted_at: datetime
    submitted_by_worker: str


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """A finished attempt. The executor writes it; the controller only where the executor could not."""

    TABLE: ClassVar[str] = "execution_results"
    KEY: ClassVar[tuple[str, ...]] = ("run_id", "iter_n", "attempt")

    run_id: str
    iter_n: int
    attempt: int
    databricks_run_id: int | None
    run_url: str | None
    status: str
    error_type: str | None
    error_summary: str | None
    metrics: str
    produced_artifacts: str
    produced_tables: str
    started_at: datetime | None
    finished_at: datetime | None
    reported_by: str


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """Something that happened to a run. ``seq`` grows with the lease's epoch."""

    TABLE: ClassVar[str] = "run_events"
    KEY: ClassVar[tuple[str, ...]] = ("run_id", "seq")

    run_id: str
    seq: int
    at: datetime
    kind: str
    actor: str
    epoch: int
    payload: str


# Events of one epoch never reach the next one's numbers, so a stale controller cannot take a live one's key.
EVENTS_PER_EPOCH = 10_000


def answer_seq(epoch: int) -> int:
    """The number of the event of an answer: the last of its epoch, for a run is answered once in an epoch."""
    return (epoch + 1) * EVENTS_PER_EPOCH - 1


@dataclass(frozen=True, kw_only=True)
class ModelCallRow:
    """A model call of a program. One that was answered is never made again: ``call_key`` is the SHA-256 (hex)
    of all that the answer depends on. The executor writes these rows.
    """

    TABLE: ClassVar[str] = "model_calls"
    KEY: ClassVar[tuple[str, ...]] = ("call_key",)

    call_key: str
    run_id: str
    iter_n: int
    attempt: int
    model: str
    answer: str | None
    error: str | None
    input_tokens: int
    output_tokens: int
    cost_usd: float
    seconds: float
    at: datetime


def result_row(result: Result, *, databricks_run_id: int | None, run_url: str | None) -> ResultRow:
    """The ledger's row of a result that the executor could not append itself."""
    return ResultRow(
        run_id=result.run_id,
        iter_n=result.iter_n,
        attempt=result.attempt,
        databricks_run_id=databricks_run_id,
        run_url=run_url,
        status=str(result.status),
        error_type=result.error_type,
        error_summary=result.error_summary,
        metrics=_json(result.metrics),
        produced_artifacts=_json([asdict(item) for item in result.produced_artifacts]),
        produced_tables=_json([asdict(item) for item in result.produced_tables]),
        started_at=result.started_at,
        finished_at=result.finished_at,
        reported_by="controller",
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
