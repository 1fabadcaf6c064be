"""Intake: one poll of a work table makes runs, answers and cancellations of what changed there.

Any number of controllers may poll at once, and die at any point: the id of a run is a function of table, item
and revision, so a run is inserted once, however often that is tried; and every poll finds again what an
earlier one left undone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from databricks_rlm_agent.attempts.records import EventRow, answer_seq
from databricks_rlm_agent.errors import (
    ConfigError,
    Forbidden,
    InvalidData,
    NotFound,
    Rejected,
    RunNotFound,
    UsageError,
)
from databricks_rlm_agent.intake.items import (
    TITLE_CHARS,
    ChangedRun,
    ItemDecision,
    Task,
    WorkItem,
    answer_of,
    decide,
)
from databricks_rlm_agent.intake.table import DeltaWorkTable
from databricks_rlm_agent.ports import Ledger, RunStore
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import Run, RunOutcome, new_run
from databricks_rlm_agent.values import Clock, NewId, clip, storable

log = logging.getLogger(__name__)

# A table that is not as its mapping says will not be so in five seconds either.
BROKEN_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class IntakeReport:
    """The outcome of a poll. ``more``: there is more to do, so that the next poll need not wait."""

    created: int = 0
    rejected: int = 0
    answered: int = 0
    superseded: int = 0
    reported: int = 0
    more: bool = False

    @property
    def idle(self) -> bool:
        """Return whether nothing was to be done."""
        return self == IntakeReport()


@dataclass(kw_only=True)
class Intake:
    """Polls one work table. ``actor`` is the controller's name; ``monotonic`` is in seconds."""

    table: DeltaWorkTable
    runs: RunStore
    ledger: Ledger
    clock: Clock
    new_id: NewId
    actor: str
    monotonic: Callable[[], float]
    _next_at: float = float("-inf")
    _reported: dict[str, tuple[str, str | None, str | None]] = field(default_factory=dict)
    _broken: str = ""

    def __call__(self) -> IntakeReport:
        """Poll if ``poll_s`` have passed. A work table that is not as it should be holds nothing else up.

        Raise Unreachable, Throttled or Unauthorized as any other call of the warehouse does.
        """
        now = self.monotonic()
        if now < self._next_at:
            return IntakeReport()
        self._next_at = now + self.table.mapping.poll_s
        try:
            report = self.poll()
        except (Rejected, NotFound, Forbidden, ConfigError, InvalidData) as error:
            if str(error) != self._broken:
                log.error("work table %s: %s", self.table.mapping.table, error)
            self._broken, self._next_at = str(error), now + BROKEN_WAIT_S
            return IntakeReport()
        self._broken = ""
        if report.more:
            self._next_at = now
        return report

    def poll(self) -> IntakeReport:
        """One poll, now. Everything it does may be done again, by anybody."""
        result = self.table.read()
        decisions = decide(result.items)
        answered = sum(self._answer(decision.item) for decision in decisions if decision.action == "answer")
        fresh = [decision for decision in decisions if decision.action != "answer"]
        created = self._start(fresh)
        superseded = self._supersede(fresh, result.obsolete)
        if result.more and not fresh and not answered:
            self.table.enlarge_batch()
        self.table.commit(result)
        reported = self._report([*result.runs, *(self.table.unreported() if result.whole else ())])
        return IntakeReport(
            created=created,
            rejected=len(fresh) - created,
            answered=answered,
            superseded=superseded,
            reported=reported,
            more=result.more,
        )

    def _start(self, decisions: Sequence[ItemDecision]) -> int:
        """Insert a run for every revision, those that were refused as FAILED; return how many may start."""
        runs = [self._run(decision, rank) for rank, decision in enumerate(decisions)]
        if not runs:
            return 0
        # The ledger leads the state: after a crash here the next poll repeats the same keys.
        self.ledger.append(
            [self._event_of(run, decision) for run, decision in zip(runs, decisions, strict=True)]
        )
        self.runs.insert(runs)
        for run in runs:
            if run.fsm_state.terminal:
                log.warning("run %s: %s", run.run_id, run.outcome.reason)
        return sum(not run.fsm_state.terminal for run in runs)

    def _run(self, decision: ItemDecision, rank: int) -> Run:
        item, reason = decision.item, decision.reason
        if decision.task is not None:
            try:
                return self._ordered(self._new(item, decision.task), rank)
            except UsageError as error:
                reason = str(error)
        title = clip((item.title or item.description or "").strip() or "(nothing)", TITLE_CHARS)
        run = self._new(item, Task(text=f"(Rejected work item) {title}", mode="DEV"))
        reason = storable(f"The work item was rejected: {reason}")
        return replace(self._ordered(run, rank), fsm_state=State.FAILED, outcome=RunOutcome(reason=reason))

    def _new(self, item: WorkItem, task: Task) -> Run:
        return new_run(
            task.text,
            run_id=self.table.source.run_id(item.item_id, item.revision),
            clock=self.clock,
            inputs=task.inputs,
            mode=task.mode,
            item_id=storable(item.item_id),
            item_revision=item.revision,
        )

    @staticmethod
    def _ordered(run: Run, rank: int) -> Run:
        """Runs are claimed in the order of ``updated_at``: the more urgent of one poll come first."""
        at = run.created_at + timedelta(microseconds=rank)
        return replace(run, created_at=at, updated_at=at)

    def _event_of(self, run: Run, decision: ItemDecision) -> EventRow:
        kind = "rejected_item" if run.fsm_state.terminal else "work_item"
        latest_run = decision.item.latest_run
        return self._event(
            run,
            kind,
            table=self.table.mapping.table,
            item_id=run.item_id,
            revision=run.item_revision,
            reason=run.outcome.reason,
            prior_run=latest_run.run_id if latest_run else None,
        )

    def _answer(self, item: WorkItem) -> bool:
        """Answer the item's run, if there is an answer and the run still waits for one."""
        if item.latest_run is None or (run := self._readable(item.latest_run.run_id)) is None:
            return False
        text = answer_of(item, run.capsule.objective, waiting=self.table.mapping.write.waiting)
        if text is None or run.fsm_state is not State.WAITING_FOR_INPUT or run.cancel_reason is not None:
            return False
        text = storable(text)
        event = self._event(run, "answered_by_item", revision=item.revision, text=clip(text, TITLE_CHARS))
        self.ledger.append([replace(event, seq=answer_seq(run.lease_epoch), epoch=run.lease_epoch)])
        self.table.answer(run.answered(text), revision=item.revision, write_id=self.new_id("w"))
        return True

    def _readable(self, run_id: str) -> Run | None:
        try:
            return self.runs.get(run_id)
        except (InvalidData, RunNotFound) as error:  # one damaged row must not keep the others waiting
            log.error("run %s is left alone: %s", run_id, error)
            return None

    def _cancel(self, run_id: str, revision: str) -> bool:
        reason = f"superseded by revision {revision} of its work item"
        try:
            return self.runs.request_cancel(run_id, reason=reason)
        except (InvalidData, RunNotFound) as error:
            log.error("run %s is left alone: %s", run_id, error)
            return False

    def _supersede(self, fresh: Sequence[ItemDecision], obsolete: Sequence[ChangedRun]) -> int:
        """Cancel runs that a newer revision made obsolete, also those that an earlier poll did not get to."""
        replaced = {run.run_id: run.revision for run in obsolete}
        replaced |= {decision.supersedes: decision.item.revision for decision in fresh if decision.supersedes}
        return sum(self._cancel(run_id, revision) for run_id, revision in replaced.items())

    def _report(self, changed: Sequence[ChangedRun]) -> int:
        """Write back how runs stand; what was written before is not written again."""
        reports = {run.run_id: (run.revision, self._status(run), run.message) for run in changed}
        due = [
            run
            for run in {run.run_id: run for run in changed}.values()
            if self._status(run) is not None and self._reported.get(run.run_id) != reports[run.run_id]
        ]
        done = not due or self.table.report(due)
        pending = set() if done else {run.run_id for run in due}
        # Runs that are not among them any more have not changed for a while: nothing need be known of them.
        self._reported = {run_id: report for run_id, report in reports.items() if run_id not in pending}
        return len(due) if done else 0

    def _status(self, run: ChangedRun) -> str | None:
        return self.table.mapping.write.of(run.state)

    def _event(self, run: Run, kind: str, **payload: Any) -> EventRow:
        return EventRow(
            run_id=run.run_id,
            seq=0,
            at=self.clock(),
            kind=kind,
            actor=self.actor,
            epoch=0,
            payload=json.dumps(payload, ensure_ascii=False),
        )
