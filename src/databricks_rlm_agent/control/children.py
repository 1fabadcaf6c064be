"""Child runs: made with the parent's budget, waited for without cost, and their answers taken in.

The order of effects: the decision is on record (a manifest's place, or the program's result), then the
children are inserted, then the parent waits for them. Their ids derive from the decision, so whoever comes
second makes the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from databricks_rlm_agent.control.journal import Journal
from databricks_rlm_agent.domain.budget import Budget, Share
from databricks_rlm_agent.domain.capsule import CapsuleDelta
from databricks_rlm_agent.domain.children import AnswerNote, ChildTask, check_children, child_id
from databricks_rlm_agent.domain.fsm import Event, State
from databricks_rlm_agent.domain.layout import Namespace
from databricks_rlm_agent.domain.new_run import new_run
from databricks_rlm_agent.domain.run import Outcome, Run
from databricks_rlm_agent.domain.text import clip
from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.ports import Clock, RunStore, Volume
from executor_harness import protocol

_SAYS_CHARS = 300
LOST = "LOST"
"""The state of a child whose row is gone."""


@dataclass(frozen=True, kw_only=True)
class Children:
    """Makes child runs, and takes in what came of them. Safe to use from several threads.

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
            self._shares(run, tasks)
        except InvalidData as error:
            return str(error)
        return None

    def spawn(self, run: Run, tasks: Sequence[ChildTask], journal: Journal) -> Run:
        """The run when it waits for its new children; raise InvalidData where it may not have them."""
        budget, share = self._shares(run, tasks)
        # The parent's programs do not run meanwhile: its children may ask models in its place.
        at_once = (run.budget.sub_concurrency or self.concurrency) // len(tasks)
        share = share.model_copy(update={"sub_concurrency": max(1, at_once)})
        children = [self._child(run, task, share) for task in tasks]
        journal.children += children
        notes = [
            AnswerNote(name=task.name, run_id=child.run_id, state=str(child.fsm_state), path="")
            for task, child in zip(tasks, children, strict=True)
        ]
        after = run.after(Event.SPAWN, budget=budget, capsule=run.capsule.with_answers(notes))
        return journal.transition(run, after, children=[child.run_id for child in children])

    def collect(self, run: Run, journal: Journal) -> Run | None:
        """The run with its children's answers, ready for its next iteration; None while one is at work.

        A run that is to be cancelled has its children cancelled, and ends when all of them have.
        """
        found = {child.run_id: child for child in self.store.children(run.run_id)}
        waited = [note for note in run.capsule.answers if not note.path]
        alive = [child for child in found.values() if not child.fsm_state.terminal]
        if alive:
            if (reason := _passed_on(run)) is not None:
                self.store.cancel_children(run.run_id, reason=reason)
            return None
        ended = [found[note.run_id] for note in waited if note.run_id in found]
        spent = sum((child.budget.spent() for child in ended), Share())
        notes = [self._answered(run, note, found.get(note.run_id)) for note in waited]
        capsule = run.capsule.with_answers(notes).fold(_told(run.iter_n, notes))
        paid = replace(run, budget=run.budget.repaid(spent), capsule=capsule)
        if run.cancel_reason is not None:
            return journal.transition(
                run, paid.after(Event.CANCEL, outcome=Outcome(reason=run.cancel_reason))
            )
        after = paid.after(Event.CHILDREN_DONE, iter_n=run.iter_n + 1, attempt=1)
        return journal.transition(run, after, children={note.name: note.state for note in notes})

    def _shares(self, run: Run, tasks: Sequence[ChildTask]) -> tuple[Budget, Budget]:
        """The budget of the parent and that of each child; raise InvalidData."""
        check_children(list(tasks), room=run.children_left)
        return run.budget.lend(len(tasks), wall_s=run.budget.max_wall_s - run.age_s(self.clock()))

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
        document = _document(note.run_id, child)
        # The same bytes from whoever writes them: a child that has ended never changes again.
        content = json.dumps(document, ensure_ascii=False, indent=1, default=str).encode()
        self.volume.put(path, content, overwrite=True)
        says = document["answer"] or document["reason"] or ""
        return note.model_copy(
            update={"state": document["state"], "path": path, "says": clip(says, _SAYS_CHARS)}
        )


def _passed_on(run: Run) -> str | None:
    """Why the children of a run are to be cancelled; one that is made after that never begins."""
    return None if run.cancel_reason is None else f"Its parent was cancelled: {run.cancel_reason}"


def _document(run_id: str, child: Run | None) -> protocol.ChildAnswer:
    if child is None:
        reason = "Its row is gone."
        return {
            "run_id": run_id,
            "state": LOST,
            "answer": None,
            "evidence": None,
            "reason": reason,
            "value": None,
        }
    outcome = child.outcome
    return {
        "run_id": run_id,
        "state": str(child.fsm_state),
        "answer": outcome.answer,
        "evidence": outcome.evidence,
        "reason": outcome.reason,
        "value": (child.last_result or {}).get("value"),
    }


def _told(iter_n: int, notes: Sequence[AnswerNote]) -> CapsuleDelta:
    good = [note.name for note in notes if note.state == State.SUCCEEDED]
    bad = [f"{note.name} ({note.state}: {note.says})" for note in notes if note.state != State.SUCCEEDED]
    lines = [f"{note.name}: {note.state}. {note.says}" for note in notes]
    return CapsuleDelta(
        digest="\n".join([f"Iteration {iter_n}: {len(notes)} child runs have ended.", *lines]),
        decisions=[f"Iteration {iter_n}: child runs answered: {', '.join(good)}"] if good else [],
        failed_approaches=[f"Iteration {iter_n}: child runs failed: {'; '.join(bad)}"] if bad else [],
    )
