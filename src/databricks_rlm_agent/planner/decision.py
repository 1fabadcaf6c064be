"""The pending decision of one conversation: at most one, within a bounded number of tries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from databricks_rlm_agent.errors import RemoteError
from databricks_rlm_agent.policy.judge import PolicyFinding
from databricks_rlm_agent.ports import PlannerNote

T = TypeVar("T")


@dataclass(kw_only=True)
class PendingDecision(Generic[T]):
    """The state of one conversation: a decision ends it, a failure of the model, or a fault that is not the
    model's. Used on the event loop's thread only. ``redact`` hides keys in what is noted.
    """

    max_refusals: int
    redact: Callable[[str], str] = str
    decision: T | None = None
    failure: str | None = None
    fault: RemoteError | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while an action is looked at: a reply may hold several, which ADK runs at the same time."""
    notes: list[PlannerNote] = field(default_factory=list)
    _refusals: int = 0
    _without_action: int = 0

    @property
    def closed(self) -> bool:
        """Return whether the model has nothing more to do."""
        return self.decided or self.failure is not None

    @property
    def decided(self) -> bool:
        """Return whether no action can be taken any more."""
        return self.decision is not None or self.fault is not None

    def accept(self, decision: T) -> None:
        """Take the decision."""
        self.decision = decision

    def fail(self, reason: str) -> None:
        """End the conversation: the model could not decide, or its budget is used up."""
        if not self.closed:
            self.failure = reason

    def stop(self, fault: RemoteError) -> None:
        """End the conversation with a fault that is to be raised: nothing is decided."""
        if not self.decided:
            self.fault = fault

    def note_finding(self, finding: PolicyFinding, *, tool: str, mode: str) -> None:
        """Note what the policy found, whether it refuses or allows it."""
        payload = {"rule": finding.rule, "tool": tool, "reason": self.redact(finding.reason), "mode": mode}
        self.notes.append(PlannerNote(kind="policy", payload=payload | {"refused": finding.refused}))

    def refuse(self, reason: str, *, tool: str) -> None:
        """Count a refusal; too many of them are a failure."""
        self._refusals += 1
        reason = self.redact(reason)
        self.notes.append(PlannerNote(kind="refusal", payload={"tool": tool, "reason": reason}))
        if self._refusals >= self.max_refusals:
            self.fail(f"The model's actions were refused {self._refusals} times; the last reason: {reason}")

    def explain(self) -> None:
        """Add the last refusal to a failure that came after it: most often it is the cause."""
        reasons = [str(note.payload["reason"]) for note in self.notes if note.kind == "refusal"]
        if reasons and self.failure is not None and reasons[-1] not in self.failure:
            self.failure = f"{self.failure} Before that, an action was refused: {reasons[-1]}"

    def no_action(self) -> None:
        """Count a reply without any action; the second one is a failure."""
        self._without_action += 1
        self.notes.append(PlannerNote(kind="no_action", payload={}))
        if self._without_action > 1:
            self.fail("The model gave no action.")
