"""Child runs: made with a part of the parent's budget, waited for without cost, and their answers collected.

The order of effects: the decision is on record (a manifest's place, or the program's result), then the
parent waits, with their part of its budget on loan, then the children are inserted. So no child run is made
for a parent that went another way, and whoever finds a parent that waits for a child that is not there makes
it: the same one, for its id derives from the decision, and its budget from the loan.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from databricks_rlm_agent.attempts.manifest import Closing, parse_intent
from databricks_rlm_agent.attempts.result import Result
from databricks_rlm_agent.controller.journal import Journal
from databricks_rlm_agent.errors import InvalidData, NotFound
from databricks_rlm_agent.layout import MANIFEST, RESULT, Namespace
from databricks_rlm_agent.ports import RunStore, Volume
from databricks_rlm_agent.runs.actions import check_children, child_id
from databricks_rlm_agent.runs.budget import Budget, Share
from databricks_rlm_agent.runs.capsule.capsule import AnswerNote, CapsuleDelta
from databricks_rlm_agent.runs.fsm import Event, State
from databricks_rlm_agent.runs.run import Run, RunOutcome, new_run
from databricks_rlm_agent.values import Clock, clip
from executor_harness import protocol
from executor_harness.protocol import ChildTask

log = logging.getLogger(__name__)
_SHOWN_CHARS = 300
LOST = "LOST"
"""The state of a child whose row is gone."""


@dataclass(frozen=True, kw_only=True)
class Children:
    """Makes child runs and collects their answers. Safe to use from several threads.

    ``concurrency`` is how many models a run with all its children may ask at once.
    """

    store: RunStore
    volume: Volume
    namespace: Namespace
    clock: Clock
    concurrency: int

    def refusal(self, run: Run, tasks: Sequence[ChildTask]) -> str | None:
        """Why a run may not have these children, or None."""
        try:
            self._lent(run, tasks)
        except InvalidData as error:
            return str(error)
        return None

    def spawn(self, run: Run, tasks: Sequence[ChildTask], journal: Journal) -> Run:
        """The run when it waits for its new children; raise InvalidData where it may not have them."""
        run = replace(run, budget=self._lent(run, tasks))
        children = self._made(run, tasks)
        journal.children += children
        notes = [
            AnswerNote(name=task.name, run_id=child.run_id, state=str(child.fsm_state), path="")
            for task, child in zip(tasks, children, strict=True)
        ]
        after = run.after(Event.SPAWN, capsule=run.capsule.with_answers(notes))
        return journal.transition(run, after, children=[child.run_id for child in children])

    def collect(self, run: Run, journal: Journal) -> Run | None:
        """The run with its children's answers, ready for its next iteration; None while one is at work.

        A child that was never made, for want of whoever was about to, is made now. A run that is to be
        cancelled has its children cancelled, and ends when all of them have.
        """
        found = {child.run_id: child for child in self.store.children(run.run_id)}
        waited = [note for note in run.capsule.answers if not note.path]
        if missing := self._missing(run, waited, found):
            journal.event("children_made", children=[child.run_id for child in missing])
            journal.children += missing
            return None
        if any(not child.fsm_state.terminal for child in found.values()):
            if (reason := _passed_on(run)) is not None:
                self.store.cancel_children(run.run_id, reason=reason)
            return None
        spent = [_spent(run, found.get(note.run_id), of=len(waited)) for note in waited]
        notes = [self._answered(run, note, found.get(note.run_id)) for note in waited]
        capsule = run.capsule.with_answers(notes).fold(_ended_delta(run.iter_n, notes))
        paid = replace(run, budget=run.budget.repaid(spent), capsule=capsule)
        if run.cancel_reason is not None:
            return journal.transition(
                run, paid.after(Event.CANCEL, outcome=RunOutcome(reason=run.cancel_reason))
            )
        after = paid.after(Event.CHILDREN_DONE, iter_n=run.iter_n + 1, attempt=1)
        return journal.transition(run, after, children={note.name: note.state for note in notes})

    def abandon(self, run: Run, *, reason: str) -> None:
        """Have what is at work for a run cancelled: it ends without waiting for its children."""
        self.store.cancel_children(run.run_id, reason=f"Its parent failed: {reason}")

    def _lent(self, run: Run, tasks: Sequence[ChildTask]) -> Budget:
        """The budget of the parent while these children are at work; raise InvalidData."""
        check_children(list(tasks), limit=run.children_left, taken=run.capsule.inputs)
        return run.budget.lend(len(tasks), wall_s=self._left_s(run))

    def _left_s(self, run: Run) -> float:
        return run.budget.max_wall_s - run.age_s(self.clock())

    def _made(self, run: Run, tasks: Sequence[ChildTask], *, of: int | None = None) -> list[Run]:
        """The child runs of a parent that has lent them their part; ``of``: how many they are in all."""
        count = of or len(tasks)
        share = run.budget.part(count, wall_s=max(1.0, self._left_s(run)))
        # The parent's programs do not run meanwhile: its children may ask models in its place.
        at_once = (run.budget.sub_concurrency or self.concurrency) // count
        share = share.model_copy(update={"sub_concurrency": max(1, at_once)})
        return [self._child(run, task, share) for task in tasks]

    def _missing(self, run: Run, waited: Sequence[AnswerNote], found: Mapping[str, Run]) -> list[Run]:
        """The children that a parent waits for in vain, as far as what they were to do is on record."""
        names = {note.name for note in waited if note.run_id not in found}
        if not names or run.budget.on_loan.usage.calls < len(waited):  # the row was damaged
            return []
        tasks = [task for task in self._asked(run) if task.name in names]
        return self._made(run, tasks, of=len(waited)) if tasks else []

    def _asked(self, run: Run) -> list[ChildTask]:
        """The child runs that were asked for by the planner or by the program of the current attempt."""
        folder = self.namespace.attempt_dir(run.run_id, run.iter_n, run.attempt)
        try:
            path = f"{folder}/{MANIFEST}"
            intent = parse_intent(self.volume.get(path), where=path)
            if isinstance(intent, Closing):
                return intent.tasks
            path = f"{folder}/{RESULT}"
            return Result.parse(self.volume.get(path), where=path).spawned
        except (NotFound, InvalidData) as error:
            log.error("What the child runs of %s were to do is gone: %s", run.run_id, error)
            return []

    def _child(self, run: Run, task: ChildTask, share: Budget) -> Run:
        child = new_run(
            task.task,
            run_id=child_id(run.run_id, run.iter_n, task.name),
            clock=self.clock,
            inputs=task.inputs,
            budget=share,
            mode=run.current_mode,
            model=run.model,
        )
        return replace(child, parent_run_id=run.run_id, depth=run.depth + 1, cancel_reason=_passed_on(run))

    def _answered(self, run: Run, note: AnswerNote, child: Run | None) -> AnswerNote:
        """A child's end, with its whole answer in a document that programs find as an input."""
        path = f"{self.namespace.run_dir(run.run_id)}/iter_{run.iter_n}/children/{note.name}.json"
        answer = _answer(note.run_id, child)
        # The same bytes from whoever writes them: a child that has ended never changes again.
        content = json.dumps(asdict(answer), ensure_ascii=False, indent=1, default=str).encode()
        self.volume.put(path, content, overwrite=True)
        shown = clip(answer.answer or answer.reason or "", _SHOWN_CHARS)
        return note.model_copy(update={"state": answer.state, "path": path, "says": shown})


def _passed_on(run: Run) -> str | None:
    """Why the children of a run are to be cancelled; one that is made after that never begins."""
    return None if run.cancel_reason is None else f"Its parent was cancelled: {run.cancel_reason}"


def _spent(run: Run, child: Run | None, *, of: int) -> Share | None:
    """Return a child's spending; None where its row is gone or was damaged."""
    return child.budget.spent() if child is not None and run.budget.lent_to(child.budget, of) else None


def _answer(run_id: str, child: Run | None) -> protocol.ChildAnswer:
    if child is None:
        return protocol.ChildAnswer(
            run_id=run_id, state=LOST, answer=None, evidence=None, reason="Its row is gone.", value=None
        )
    outcome = child.outcome
    return protocol.ChildAnswer(
        run_id=run_id,
        state=str(child.fsm_state),
        answer=outcome.answer,
        evidence=outcome.evidence,
        reason=outcome.reason,
        value=child.last_value,
    )


def _ended_delta(iter_n: int, notes: Sequence[AnswerNote]) -> CapsuleDelta:
    good = [note.name for note in notes if note.state == State.SUCCEEDED]
    bad = [f"{note.name} ({note.state}: {note.says})" for note in notes if note.state != State.SUCCEEDED]
    lines = [f"{note.name}: {note.state}. {note.says}" for note in notes]
    return CapsuleDelta(
        digest="\n".join([f"Iteration {iter_n}: {len(notes)} child runs have ended.", *lines]),
        decisions=[f"Iteration {iter_n}: child runs answered: {', '.join(good)}"] if good else [],
        failed_approaches=[f"Iteration {iter_n}: child runs failed: {'; '.join(bad)}"] if bad else [],
    )
