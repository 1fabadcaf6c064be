"""The result of one attempt, from whichever source knew it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from databricks_rlm_agent.runs.parsing import parse
from databricks_rlm_agent.runs.run import AttemptKey
from databricks_rlm_agent.values import ID_PATTERN
from executor_harness import protocol


class Status(StrEnum):
    """How an attempt ended."""

    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    LOST = "LOST"


class _Loose(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Spend(_Loose):
    """``spend.json``: what an attempt that left no result may have spent on model calls, at most."""

    usage: protocol.Usage


class Result(_Loose):
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
    def parse(cls, content: bytes, *, where: str) -> Self:
        """Read ``result.json``; raise InvalidData if it is not a whole and valid one."""
        return parse(cls, content, what="The result", where=where)

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
