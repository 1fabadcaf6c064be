"""A run: one row of ``run_state``, and how a task becomes one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, Field

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.runs.budget import Budget, Usage
from databricks_rlm_agent.runs.capsule.capsule import INPUT_CHARS, OBJECTIVE_CHARS, Capsule
from databricks_rlm_agent.runs.checks import Check
from databricks_rlm_agent.runs.fsm import Event, State, next_state
from databricks_rlm_agent.runs.parsing import Document
from databricks_rlm_agent.values import check_id, storable

# The executor ends a program at its time-out, and the platform ends the executor some minutes later: only
# what has outlived both is ours to end.
OVERRUN_S = 900
# In place of the id of a job run that was deleted before anybody could record it.
DELETED = 0


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """How a run ended, or what it waits for: an answer with its evidence, a reason, or a question.

    A run that met a transient error waits for ``waits_for`` (model, workspace) since ``since`` (ISO 8601)
    because of ``reason``.
    """

    answer: str | None = None
    evidence: str | None = None
    reason: str | None = None
    question: str | None = None
    waits_for: str | None = None
    since: str | None = None

    def to_dict(self) -> dict[str, str]:
        """The fields that say anything."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def without_wait(self) -> RunOutcome:
        """This outcome when the run goes on."""
        return self if self.waits_for is None else replace(self, reason=None, waits_for=None, since=None)


class LastRequest(Document):
    """``run_state.last_request``: the job run of the current attempt, and what was asked of it."""

    databricks_run_id: int = Field(strict=True)
    run_url: str | None = None
    request_sha256: str
    output_dir: str
    purpose: str = ""
    timeout_s: float = Field(ge=0, allow_inf_nan=False)
    submitted_at: AwareDatetime


# A program's value may hold NaN, which our JSON keeps.
class LastResult(Document, ser_json_inf_nan="constants"):
    """``run_state.last_result``: what came of the last attempt. Its program finished with ``value``."""

    iter_n: int | None = None
    attempt: int | None = None
    status: str | None = None
    error_type: str | None = None
    error_summary: str | None = None
    value: Any = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as the store holds it. ``version`` and ``lease_epoch`` are what compare-and-set compares.

    ``cancel_reason`` is somebody's intent to end the run; ``item_revision`` is the revision of the work item
    that it carries out. No controller takes a run before ``due_at``, which a save sets ``pause_s`` seconds
    ahead by the warehouse's clock.
    """

    run_id: str
    item_id: str | None = None
    parent_run_id: str | None = None
    depth: int = 0
    current_mode: str = "DEV"
    fsm_state: State = State.PENDING
    iter_n: int = 1
    attempt: int = 1
    lease_owner: str | None = None
    lease_epoch: int = 0
    lease_expiry: datetime | None = None
    version: int = 0
    write_id: str | None = None
    capsule: Capsule
    budget: Budget
    last_request: LastRequest | None = None
    last_result: LastResult | None = None
    outcome: RunOutcome = RunOutcome()
    model: str | None = None
    cancel_reason: str | None = None
    item_revision: str | None = None
    due_at: datetime | None = None
    pause_s: float | None = None
    created_at: datetime
    updated_at: datetime

    @property
    def key(self) -> AttemptKey:
        """The attempt that the run is at."""
        return AttemptKey(run_id=self.run_id, iter_n=self.iter_n, attempt=self.attempt)

    @property
    def job_run_id(self) -> int | None:
        """The job run of the current attempt; None if there is none."""
        return self.last_request.databricks_run_id if self.last_request else None

    @property
    def last_value(self) -> Any:
        """Return the value that the last program finished with."""
        return self.last_result.value if self.last_result else None

    def after(self, event: Event, **changes: Any) -> Run:
        """This run after ``event``, with further fields changed. Nothing changes a run that has ended."""
        if self.fsm_state.terminal:
            return self
        return replace(self, fsm_state=next_state(self.fsm_state, event), **changes)

    def spent(self, usage: Usage) -> Run:
        """This run after a model used ``usage``."""
        return replace(self, budget=self.budget.spend(usage))

    def answered(self, text: str) -> Run:
        """This run after a person answered its question; raise UsageError if it waits for none."""
        if self.fsm_state is not State.WAITING_FOR_INPUT:
            raise UsageError(f"Run {self.run_id} is {self.fsm_state}: it waits for no answer.")
        if not text.strip():
            raise UsageError("The answer is empty.")
        dialogue = f"Asked: {self.outcome.question} Answered: {text.strip()}"
        return self.after(
            Event.ANSWERED,
            capsule=self.capsule.with_constraint(dialogue),
            outcome=RunOutcome(),
            iter_n=self.iter_n + 1,
            attempt=1,
        )

    @property
    def lapses(self) -> int:
        """How many claims in succession have ended without a save, by a death or a failure."""
        return len(self.budget.unreported(self.lease_epoch + 1))

    def waiting(
        self,
        before: RunOutcome,
        *,
        waits_for: str,
        reason: str,
        now: datetime,
        pause: Callable[[float], float],
    ) -> Run:
        """This run when a transient error keeps it where it is, where it was due with the outcome ``before``.

        ``pause`` gives the next pause after a time of waiting, both in seconds.
        """
        since = before.since if before.waits_for == waits_for else None
        waited_s = (now - datetime.fromisoformat(since)).total_seconds() if since else 0.0
        outcome = replace(self.outcome, reason=reason, waits_for=waits_for, since=since or now.isoformat())
        return replace(self, outcome=outcome, pause_s=pause(waited_s))

    @property
    def children_left(self) -> int:
        """How many child runs it may spawn now."""
        return self.budget.children_left(self.depth)

    def age_s(self, now: datetime) -> float:
        """Seconds since the run was given."""
        return (now - self.created_at).total_seconds()

    def executing_s(self, now: datetime) -> float:
        """Seconds since the job run of the current attempt was submitted."""
        submitted_at = self.last_request.submitted_at if self.last_request else self.updated_at
        return (now - submitted_at).total_seconds()

    def overrun(self, now: datetime, *, started: bool) -> bool:
        """Return whether the program, once ``started``, or the run has had all of its time."""
        allowed = OVERRUN_S + (self.last_request.timeout_s if self.last_request else 0)
        too_long = started and self.executing_s(now) > allowed
        return too_long or self.age_s(now) > self.budget.max_wall_s + OVERRUN_S


@dataclass(frozen=True, kw_only=True, order=True)
class AttemptKey:
    """The key of one attempt: of its files, its job run, its request row and its result row."""

    run_id: str
    iter_n: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Due:
    """A run that has something to do, or whose job run should be asked about. ``reported``: is its result in
    the ledger? ``problem``: what of its row could not be read; the run can only be ended then.
    """

    run: Run
    reported: bool
    problem: str | None = None

    @property
    def silent(self) -> bool:
        """Return whether nothing was heard of its job run, so that it may only be worth asking about."""
        return self.run.fsm_state is State.EXECUTING and not self.reported

    @property
    def order(self) -> tuple[bool, datetime, str]:
        """The order in which due runs are taken: those that surely have something to do come first."""
        return self.silent, self.run.updated_at, self.run.run_id


@dataclass(frozen=True, kw_only=True)
class DamagedRun:
    """A run whose row cannot be read, and why."""

    run_id: str
    problem: str


def new_run(
    task: str,
    *,
    run_id: str,
    clock: Callable[[], datetime],
    inputs: dict[str, Any] | None = None,
    checks: Sequence[Check] = (),
    budget: Budget | None = None,
    mode: str = "DEV",
    model: str | None = None,
    item_id: str | None = None,
    item_revision: str | None = None,
) -> Run:
    """A run for a task, not yet stored; raise UsageError for a task that cannot be one."""
    _check(task, json.dumps(inputs or {}, ensure_ascii=False))
    now = clock()
    return Run(
        run_id=check_id(run_id),
        item_id=item_id,
        item_revision=item_revision,
        current_mode=mode,
        capsule=Capsule.begin(task.strip(), inputs=inputs).model_copy(update={"checks": list(checks)}),
        budget=(budget or Budget()).reported(0),
        model=model,
        created_at=now,
        updated_at=now,
    )


def _check(task: str, inputs: str) -> None:
    if not task.strip():
        raise UsageError("The task is empty.", fix='Say what is to be done: rlm-agent run "…".')
    if len(task) > OBJECTIVE_CHARS:
        raise UsageError(
            f"The task has {len(task):,} characters; the limit is {OBJECTIVE_CHARS:,}.",
            fix="Put long material in a file of a Volume and give it as an input.",
        )
    if storable(task + inputs) != task + inputs:
        raise UsageError(
            "The task or an input is not valid UTF-8.", fix="Check the encoding of what was typed."
        )
    if len(inputs) > INPUT_CHARS:
        raise UsageError(
            f"The inputs have more than {INPUT_CHARS:,} characters.",
            fix="Inputs are handles: name a table or a file of a Volume in place of the text itself.",
        )
