"""What a contender's run leaves: its answer, what it says it has used, and what the stub saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.rlm.programs import Dialect
from benchmarks.rlm.stubclient import Log


@dataclass(frozen=True, kw_only=True)
class Done:
    """``usage`` has calls, input_tokens and output_tokens as the contender reports them; None: not told.

    ``hops`` are the seconds that programs spent away from the planner's process, one for each gap between two
    calls of the root model; empty where programs run in or beside that process.
    """

    answer: str
    usage: Mapping[str, int | None]
    log: Log
    hops: Sequence[float] = field(default=())


class Contender(Protocol):
    """Whoever is measured."""

    @property
    def name(self) -> str: ...

    @property
    def dialect(self) -> Dialect: ...

    def run(
        self, programs: Sequence[str], *, context: int, sub_latency_s: float = 0.0, children: int = 0
    ) -> Done: ...
