"""The one retry mechanism: which errors of a workspace are transient, and how a call is repeated."""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
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
    ModelOutage,
    NeverReached,
    NotFound,
    Rejected,
    RlmError,
    Throttled,
    Unauthorized,
    Unreachable,
)
from databricks_rlm_agent.values import Row, Sleep, SqlSession


class RetryAction(StrEnum):
    """The immediate reaction to an error."""

    AGAIN = "again"
    AGAIN_AFTER = "again, after `Retry-After`"
    RENEWED = "once more, with credentials read anew"
    NO = "no"


@dataclass(frozen=True, kw_only=True)
class RetryRule:
    """One kind of error, and what follows; docs/retries.md says when it is seen, and what comes next."""

    error: type[RlmError]
    request: RetryAction
    statement: RetryAction


TABLE = (
    RetryRule(error=Unreachable, request=RetryAction.AGAIN, statement=RetryAction.AGAIN),
    RetryRule(error=NeverReached, request=RetryAction.NO, statement=RetryAction.NO),
    RetryRule(error=Throttled, request=RetryAction.AGAIN_AFTER, statement=RetryAction.AGAIN_AFTER),
    RetryRule(error=ModelOutage, request=RetryAction.AGAIN_AFTER, statement=RetryAction.NO),
    RetryRule(error=Conflict, request=RetryAction.NO, statement=RetryAction.AGAIN),
    RetryRule(error=Unauthorized, request=RetryAction.RENEWED, statement=RetryAction.RENEWED),
    RetryRule(error=Forbidden, request=RetryAction.NO, statement=RetryAction.NO),
    RetryRule(error=NotFound, request=RetryAction.NO, statement=RetryAction.NO),
    RetryRule(error=AlreadyExists, request=RetryAction.NO, statement=RetryAction.NO),
    RetryRule(error=Rejected, request=RetryAction.NO, statement=RetryAction.NO),
)
_BY_ERROR = {rule.error: rule for rule in TABLE}


def rule_of(error: BaseException) -> RetryRule | None:
    """The rule for an error: that of the nearest class above it, None for what is not in the table."""
    return next((_BY_ERROR[kind] for kind in type(error).__mro__ if kind in _BY_ERROR), None)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How one kind of call is repeated. Waits are random below a bound that doubles. Times are in seconds."""

    name: str
    answer: Callable[[RetryRule], RetryAction]
    attempts: int
    max_elapsed_s: float
    first_wait_s: float
    max_wait_s: float

    def retrying(
        self,
        sleep: Sleep,
        *,
        repeats: Callable[[BaseException], bool] | None = None,
        on_retry: Callable[[BaseException], None] | None = None,
    ) -> Retrying:
        """Repeat a call while the table, or ``repeats``, allows it; raise the last error.

        ``on_retry`` is called with the error before every wait. It stops before a wait that would go past
        ``max_elapsed_s``: a long ``Retry-After`` is for the loop.
        """
        return Retrying(sleep=sleep, **self._options(repeats, on_retry))

    def retrying_async(self, sleep: Callable[[float], Awaitable[None]]) -> AsyncRetrying:
        """The same for a coroutine."""
        return AsyncRetrying(sleep=sleep, **self._options())

    def _options(
        self,
        repeats: Callable[[BaseException], bool] | None = None,
        on_retry: Callable[[BaseException], None] | None = None,
    ) -> dict[str, Any]:
        backoff = wait_random_exponential(multiplier=self.first_wait_s, max=self.max_wait_s)

        def wait(state: RetryCallState) -> float:
            return max(backoff(state), getattr(_error(state), "retry_after", None) or 0.0)

        def before_sleep(state: RetryCallState) -> None:
            error = _error(state)
            if on_retry is not None and error is not None:
                on_retry(error)

        return {
            "retry": retry_if_exception(repeats or self.repeats),
            "stop": stop_after_attempt(self.attempts) | stop_before_delay(self.max_elapsed_s),
            "wait": wait,
            "before_sleep": before_sleep,
            "reraise": True,
        }

    def repeats(self, error: BaseException) -> bool:
        """Return whether a call that failed with this error is sent again as it was."""
        rule = rule_of(error)
        return rule is not None and self.answer(rule) in {RetryAction.AGAIN, RetryAction.AGAIN_AFTER}


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


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
# To give a save up is to do all again that led to it. Where the row's fence does not hold any more, the
# statement changes nothing and meets no conflict either.
SAVES = replace(STATEMENTS, name="save of runs", attempts=60, max_elapsed_s=120.0)
# A round asks every model of the chain. What was read for the decision so far is lost with the conversation,
# so a short outage is waited for within it; a longer one costs a run no more than its time.
MODELS = RetryPolicy(
    name="round of a chain of models",
    answer=lambda rule: rule.request,
    attempts=3,
    max_elapsed_s=20.0,
    first_wait_s=1.0,
    max_wait_s=8.0,
)
# The statements of a workflow's files, where repeating them is safe; which errors are transient is told by
# ``sqltext.errors.classify``. A person waits for the workflow, so even a long Retry-After is waited for.
WORKFLOWS = RetryPolicy(
    name="statement of a workflow",
    answer=lambda rule: rule.statement,
    attempts=6,
    max_elapsed_s=math.inf,
    first_wait_s=0.75,
    max_wait_s=20.0,
)

# A run that met a transient error is tried again by a later tick, after a pause that doubles with the time
# that it has been waiting; one whose controllers die, after a pause that doubles with each death.
FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_CRASH_PAUSE_S = 0.2, 60.0, 300.0


def pause_s(waited_s: float, *, retry_after_s: float | None, jitter: float) -> float:
    """Return for how long a run is left alone that has waited so long already; ``jitter`` is 0 to 1."""
    wait = min(max(FIRST_PAUSE_S, waited_s), LONGEST_PAUSE_S)
    return max(retry_after_s or 0.0, wait * (0.5 + jitter / 2))


def crash_pause_s(lapses: int) -> float:
    """Return for how long a run is left alone when a further lease on it lapses after so many."""
    return min(2.0 ** min(lapses - 1, 10), LONGEST_CRASH_PAUSE_S) if lapses else 0.0


T = TypeVar("T")


class RetryingSession:
    """A SqlSession for statements of ours, which are safe to send again. Safe to use from several threads.

    It is opened when it is first used, and again when it was lost or closed. Statements are repeated as
    ``STATEMENTS`` says. Where the credentials are refused, a statement is sent once more in a new session:
    whoever opens one reads refused credentials anew.
    """

    def __init__(self, open_session: Callable[[], SqlSession], sleep: Sleep) -> None:
        self._open_session, self._sleep = open_session, sleep
        self._lock = threading.Lock()
        self._session: SqlSession | None = None
        self._cancelled = False

    @property
    def alive(self) -> bool:
        """False once it was cancelled."""
        return not self._cancelled

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Run a query and return its rows."""
        return self.repeated(lambda: self._sent(lambda session: session.fetch(sql, parameters)))

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        """Run a statement and return how many rows it changed; after a lost answer, what the repeat says."""
        return self.repeated(lambda: self.execute_once(sql, parameters))

    def execute_once(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        """Run a statement and leave it to the caller to repeat it."""
        return self._sent(lambda session: session.execute(sql, parameters))

    def repeated(self, call: Callable[[], T], policy: RetryPolicy = STATEMENTS) -> T:
        """Repeat ``call``, which uses this session, as ``policy`` says."""
        answer: T = policy.retrying(self._wait)(call)
        return answer

    def cancel(self) -> None:
        """Cancel the statement that runs now; it is not sent again."""
        self._cancelled = True
        session = self._session
        if session is not None:
            session.cancel()

    def close(self) -> None:
        """End the session. The next statement opens another one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _sent(self, call: Callable[[SqlSession], T]) -> T:
        with self._lock:  # not while waiting for the next try: others may have better luck meanwhile
            session = self._opened()
            try:
                return call(session)
            except Unauthorized as error:
                if isinstance(error, Forbidden):
                    raise
            self.close()
            return call(self._opened())

    def _opened(self) -> SqlSession:
        if self._session is None or not self._session.alive:
            self._session = self._open_session()
        return self._session

    def _wait(self, seconds: float) -> None:
        if self._cancelled:
            raise RlmError("It was cancelled.")
        self._sleep(seconds)


def is_transient(error: BaseException) -> bool:
    """Return whether a later try may help. Forbidden is final: the credentials were good."""
    transient = isinstance(error, (Unreachable, Throttled, Conflict, Unauthorized))
    return transient and not isinstance(error, Forbidden)
