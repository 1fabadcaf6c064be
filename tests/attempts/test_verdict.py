from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.attempts.result import GONE, JobVerdict, Retry, Status, retry, status_without_result

# code, the type that the platform gives it, whether to try again, the status of an attempt without a result
TABLE = [
    ("DRIVER_ERROR", "CLIENT_ERROR", Retry.YES, Status.LOST),
    ("CLUSTER_ERROR", "CLIENT_ERROR", Retry.YES, Status.LOST),
    ("CLUSTER_REQUEST_LIMIT_EXCEEDED", "CLIENT_ERROR", Retry.YES, Status.LOST),
    ("WORKSPACE_RUN_LIMIT_EXCEEDED", "CLIENT_ERROR", Retry.YES, Status.LOST),
    ("STORAGE_ACCESS_ERROR", "CLIENT_ERROR", Retry.YES, Status.LOST),
    ("MAX_CONCURRENT_RUNS_EXCEEDED", "CLIENT_ERROR", Retry.YES, Status.LOST),
    ("MAX_JOB_QUEUE_SIZE_EXCEEDED", "CLIENT_ERROR", Retry.YES, Status.LOST),
    ("MAX_SPARK_CONTEXTS_EXCEEDED", "CLIENT_ERROR", Retry.YES, Status.LOST),
    ("CLOUD_FAILURE", "CLOUD_FAILURE", Retry.YES, Status.LOST),
    ("INTERNAL_ERROR", "INTERNAL_ERROR", Retry.YES, Status.LOST),
    ("SOMETHING_NEW", "CLOUD_FAILURE", Retry.YES, Status.LOST),
    (None, "INTERNAL_ERROR", Retry.YES, Status.LOST),
    ("LIBRARY_INSTALLATION_ERROR", "CLIENT_ERROR", Retry.ONCE, Status.LOST),
    ("LIBRARY_INSTALLATION_ERROR", "CLOUD_FAILURE", Retry.ONCE, Status.LOST),
    ("RUN_EXECUTION_ERROR", "CLIENT_ERROR", Retry.NO, Status.FAILED),
    ("RUN_EXECUTION_ERROR", "INTERNAL_ERROR", Retry.NO, Status.FAILED),
    ("INVALID_CLUSTER_REQUEST", "CLIENT_ERROR", Retry.NO, Status.FAILED),
    ("INVALID_CLUSTER_REQUEST", "INTERNAL_ERROR", Retry.NO, Status.FAILED),
    ("INVALID_RUN_CONFIGURATION", "CLIENT_ERROR", Retry.NO, Status.FAILED),
    ("UNAUTHORIZED_ERROR", "CLOUD_FAILURE", Retry.NO, Status.FAILED),
    ("RESOURCE_NOT_FOUND", "CLIENT_ERROR", Retry.NO, Status.FAILED),
    ("FEATURE_DISABLED", "INTERNAL_ERROR", Retry.NO, Status.FAILED),
    ("BUDGET_POLICY_LIMIT_EXCEEDED", "CLIENT_ERROR", Retry.NO, Status.FAILED),
    ("USER_CANCELED", "CLIENT_ERROR", Retry.NO, Status.CANCELLED),
    ("USER_CANCELED", "INTERNAL_ERROR", Retry.NO, Status.CANCELLED),
    ("CANCELED", "CLIENT_ERROR", Retry.NO, Status.CANCELLED),
    ("SKIPPED", "CLIENT_ERROR", Retry.NO, Status.FAILED),
    ("DISABLED", "CLIENT_ERROR", Retry.NO, Status.FAILED),
    ("REPOSITORY_CHECKOUT_FAILED", "CLIENT_ERROR", Retry.NO, Status.FAILED),
    ("REPOSITORY_CHECKOUT_FAILED", "CLOUD_FAILURE", Retry.YES, Status.LOST),
    ("BREAKING_CHANGE", "CLIENT_ERROR", Retry.NO, Status.FAILED),
    ("CANCELED", "CLOUD_FAILURE", Retry.YES, Status.CANCELLED),
    ("SUCCESS", "SUCCESS", Retry.NO, Status.LOST),
    ("SUCCESS_WITH_FAILURES", "SUCCESS", Retry.NO, Status.LOST),
    (None, "CLIENT_ERROR", Retry.NO, Status.LOST),
    (None, None, Retry.NO, Status.LOST),
    ("SOMETHING_NEW", None, Retry.NO, Status.FAILED),
    (GONE, None, Retry.NO, Status.LOST),
]
STATES = ["BLOCKED", "PENDING", "QUEUED", "RUNNING", "TERMINATING", "TERMINATED", "WAITING"]


def verdict(
    *, state: str | None = "TERMINATED", code: str | None = None, kind: str | None = None
) -> JobVerdict:
    return JobVerdict(run_id=1, state=state, code=code, type=kind, message="")


@pytest.mark.parametrize(("code", "kind", "again", "status"), TABLE)
def test_the_retry_table(code: str | None, kind: str | None, again: Retry, status: Status) -> None:
    found = verdict(code=code, kind=kind)
    assert retry(found) is again
    assert status_without_result(found) is status


def test_every_code_of_the_jobs_api_has_a_line_in_the_table() -> None:
    """A newer SDK that knows more codes fails here, so that somebody decides on them."""
    from databricks.sdk.service.jobs import TerminationCodeCode

    assert {member.value for member in TerminationCodeCode} <= {code for code, *_ in TABLE}


@given(st.none() | st.text(), st.none() | st.text())
def test_absence_of_a_result_is_never_success(code: str | None, kind: str | None) -> None:
    assert status_without_result(verdict(code=code, kind=kind)) is not Status.SUCCESS


@pytest.mark.parametrize("state", STATES)
def test_only_terminated_is_over(state: str) -> None:
    assert verdict(state=state).over == (state == "TERMINATED")
    assert verdict(state=state).understood


@given(st.none() | st.text().filter(lambda text: text not in STATES))
def test_an_unknown_state_keeps_waiting_and_is_told(state: str | None) -> None:
    assert not verdict(state=state).over
    assert not verdict(state=state).understood
