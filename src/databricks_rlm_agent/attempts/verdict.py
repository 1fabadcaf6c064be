"""The Jobs API's verdict on a run, and what it means for an attempt: the table in docs/retries.md."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from databricks_rlm_agent.attempts.result import Status


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
