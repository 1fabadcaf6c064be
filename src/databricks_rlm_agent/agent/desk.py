"""Where one invocation's decision lands: at most one, within a bounded number of tries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from databricks_rlm_agent.ports import Note

T = TypeVar("T")


@dataclass(kw_only=True)
class Desk(Generic[T]):
    """The state of one invocation: a decision or a failure ends it. Used on the event loop's thread only."""

    max_refusals: int
    decision: T | None = None
    failure: str | None = None
    notes: list[Note] = field(default_factory=list)
    _refusals: int = 0
    _silences: int = 0

    @property
    def closed(self) -> bool:
        """Whether nothing further is wanted of the model."""
        return self.decision is not None or self.failure is not None

    def accept(self, decision: T) -> None:
        """Take the decision."""
        self.decision = decision

    def refuse(self, reason: str, *, tool: str) -> None:
        """Count a refusal; too many of them are a failure."""
        self._refusals += 1
        self.notes.append(Note(kind="refusal", payload={"tool": tool, "reason": reason}))
        if self._refusals >= self.max_refusals and not self.closed:
            self.failure = (
                f"The model's actions were refused {self._refusals} times; the last reason: {reason}"
            )

    def explain(self) -> None:
        """Add the last refusal to a failure that came after it: most often it is the cause."""
        reasons = [str(note.payload["reason"]) for note in self.notes if note.kind == "refusal"]
        if reasons and self.failure is not None and reasons[-1] not in self.failure:
            self.failure = f"{self.failure} Before that, an action was refused: {reasons[-1]}"

    def silence(self) -> None:
        """Count a reply without any action: the first one is forgiven."""
        self._silences += 1
        self.notes.append(Note(kind="silence", payload={}))
        if self._silences > 1 and not self.closed:
            self.failure = "The model gave no action."
