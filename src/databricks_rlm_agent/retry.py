"""Which faults of a workspace pass: they say nothing about what was asked, and may be gone the next time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from databricks_rlm_agent.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    NeverReached,
    NotFound,
    Rejected,
    RlmError,
    Throttled,
    Unauthorized,
    Unreachable,
)
from databricks_rlm_agent.values import Row, Sleep, SqlBackend


class RetryAction(StrEnum):
    """What is done about an error at once."""

    AGAIN = "again"
    AGAIN_AFTER = "again, after `Retry-After`"
    RENEWED = "once more, with credentials read anew"
    NO = "no"


@dataclass(frozen=True, kw_only=True)
class RetryRule:
    """One kind of error: what the workspace did (``seen``), and what follows if it stays so."""

    error: type[RlmError]
    seen: str
    request: RetryAction
    statement: RetryAction
    afterwards: str


_LATER = "the run stays as it is and goes on at a later tick"
_AGAIN = {"request": RetryAction.AGAIN, "statement": RetryAction.AGAIN}
_NO = {"request": RetryAction.NO, "statement": RetryAction.NO}
TABLE = (
    RetryRule(
        error=Unreachable,
        seen="connection refused or dropped, no answer within 60 s, 500, 502, 503, 504",
        **_AGAIN,
        afterwards=_LATER,
    ),
    RetryRule(error=NeverReached, seen="not one answer since the start", **_NO, afterwards="exit code 3"),
    RetryRule(
        error=Throttled,
        seen="429, or 503 with `Retry-After`",
        request=RetryAction.AGAIN_AFTER,
        statement=RetryAction.AGAIN_AFTER,
        afterwards=f"{_LATER}, not before `Retry-After` is over",
    ),
    RetryRule(
        error=Conflict,
        seen="a concurrent writer of the same table won",
        request=RetryAction.NO,
        statement=RetryAction.AGAIN,
        afterwards=_LATER,
    ),
    RetryRule(
        error=Unauthorized,
        seen="401, or 403 for a token that is expired or unknown",
        request=RetryAction.RENEWED,
        statement=RetryAction.RENEWED,
        afterwards=_LATER,
    ),
    RetryRule(error=Forbidden, seen="403, permission denied", **_NO, afterwards="the run ends FAILED"),
    RetryRule(
        error=NotFound,
        seen="404: no such file, table, job run",
        **_NO,
        afterwards="as the case asks: a folder is made, a result is waited for, an attempt is LOST",
    ),
    RetryRule(
        error=AlreadyExists,
        seen="409: the file or object is there",
        **_NO,
        afterwards="what is there is adopted",
    ),
    RetryRule(error=Rejected, seen="400 and other 4xx, SQL errors", **_NO, afterwards="the run ends FAILED"),
)
_BY_ERROR = {rule.error: rule for rule in TABLE}


def rule_of(error: BaseException) -> RetryRule | None:
    """The rule for an error: that of the nearest class above it, None for what is not in the table."""
    return next((_BY_ERROR[kind] for kind in type(error).__mro__ if kind in _BY_ERROR), None)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How one kind of call is repeated. Waits are random below a bound that doubles; seconds."""

    name: str
    answer: Callable[[RetryRule], RetryAction]
    attempts: int
    max_elapsed_s: float
    first_wait_s: float
    max_wait_s: float

    def retrying(self, sleep: Callable[[float], None]) -> Retrying:
        """Repeats a call while the table allows it; the last error is raised.

        It stops before a wait that would go past ``patience_s``: a long ``Retry-After`` is for the loop.
        """
        backoff = wait_random_exponential(multiplier=self.first_wait_s, max=self.max_wait_s)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(backoff(state), getattr(error, "retry_after", None) or 0.0)

        return Retrying(
            retry=retry_if_exception(self.repeats),
            stop=stop_after_attempt(self.attempts) | stop_before_delay(self.max_elapsed_s),
            wait=wait,
            sleep=sleep,
            reraise=True,
        )

    def repeats(self, error: BaseException) -> bool:
        """Whether a call that ended so is sent again as it was."""
        rule = rule_of(error)
        return rule is not None and self.answer(rule) in {RetryAction.AGAIN, RetryAction.AGAIN_AFTER}


# Every request of ours is safe to send again: reads, whole files that are never overwritten in part, cancel,
# and submit, whose token gives the same job run. The loop waits out what lasts longer.
REQUESTS = RetryPolicy(
    name="REST request",
    answer=lambda rule: rule.request,
    attempts=10,
    max_elapsed_s=15.0,
    first_wait_s=0.1,
    max_wait_s=3.0,
)
# So is every statement on our state. A lost race is over in milliseconds.
STATEMENTS = RetryPolicy(
    name="SQL statement",
    answer=lambda rule: rule.statement,
    attempts=8,
    max_elapsed_s=20.0,
    first_wait_s=0.05,
    max_wait_s=2.0,
)


ATTEMPTS = STATEMENTS.attempts
PATIENCE_S = STATEMENTS.max_elapsed_s


def retrying(sleep: Sleep) -> Retrying:
    """Repeat on conflicts, unknown outcomes and throttling, with jitter; the last error is raised."""
    return STATEMENTS.retrying(sleep)


def fetch(
    backend: SqlBackend, sql: str, parameters: Mapping[str, Any] | None = None, *, sleep: Sleep
) -> Sequence[Row]:
    """The rows of a query, asked again on passing faults."""
    for attempt in retrying(sleep):
        with attempt:
            rows = backend.fetch(sql, parameters)
    return rows


@dataclass(frozen=True, kw_only=True)
class RetryingBackend:
    """A SqlBackend that repeats every call on passing faults: for statements that are safe to send again."""

    backend: SqlBackend
    sleep: Sleep

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Run a query and return its rows."""
        return fetch(self.backend, sql, parameters, sleep=self.sleep)

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run a statement and return how many rows it changed; after a lost answer, what the repeat says."""
        changed: int = retrying(self.sleep)(self.backend.execute, sql, parameters)
        return changed


PASSING = (Unreachable, Throttled, Conflict, Unauthorized)


def is_transient(error: BaseException) -> bool:
    """Whether to try again later. Forbidden does not pass: the credentials are good, and the answer is no."""
    return isinstance(error, PASSING) and not isinstance(error, Forbidden)
