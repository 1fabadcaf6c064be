"""What a run may spend, and what it has spent. Pure: stored as JSON in ``run_state.budget``.

Model calls are reserved by the claim, before anything is spent: what a controller used that died before it
could report is thus never more than what it had reserved, and counts as spent until its plan is found.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

# Enough for one turn: a summary, the planner's look-ups, refusals and its decision.
TURN_CALLS = 16


class Usage(BaseModel):
    """Model usage: calls, tokens, cost in US dollars.

    Tokens are as told by the models, estimated upward where they do not tell; the cost is 0 where no price is
    known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    calls: int = Field(default=0, ge=0)
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    cost_usd: float = Field(default=0.0, ge=0)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost_usd=self.cost_usd + other.cost_usd,
        )


class Budget(BaseModel):
    """Limits of a run and what of them is used up. Times are in seconds; ``max_cost_usd`` None is no limit.

    ``reserved`` holds, by lease epoch, the model calls of turns that have not reported yet. ``reserved_s`` is
    the time-out of the job run that is on its way.
    """

    # JSON knows no infinity: what is stored must be readable again.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    max_iterations: int = Field(default=30, ge=1)
    max_attempts: int = Field(default=3, ge=1)
    max_model_calls: int = Field(default=300, ge=1)
    max_tokens: int = Field(default=5_000_000, ge=1)
    max_cost_usd: float | None = Field(default=None, gt=0)
    max_executor_s: float = Field(default=86_400.0, gt=0)
    max_wall_s: float = Field(default=7 * 86_400.0, gt=0)
    usage: Usage = Usage()
    executor_s: float = Field(default=0.0, ge=0)
    reserved: dict[int, NonNegativeInt] = Field(default_factory=dict)
    reserved_s: float = Field(default=0.0, ge=0)

    @property
    def calls_left(self) -> int:
        """Model calls that are neither used nor reserved."""
        return max(0, self.max_model_calls - self.usage.calls - sum(self.reserved.values()))

    @property
    def tokens_left(self) -> int:
        """Tokens, of the question and the answer together."""
        return max(0, self.max_tokens - self.usage.input_tokens - self.usage.output_tokens)

    @property
    def cost_left_usd(self) -> float | None:
        """US dollars; None where the cost has no limit."""
        return None if self.max_cost_usd is None else max(0.0, self.max_cost_usd - self.usage.cost_usd)

    @property
    def executor_left_s(self) -> float:
        """Seconds of job runs."""
        return max(0.0, self.max_executor_s - self.executor_s - self.reserved_s)

    def spend(self, usage: Usage) -> Self:
        """This budget after ``usage``."""
        return self.model_copy(update={"usage": self.usage + usage})

    def reserve(self, epoch: int) -> Self:
        """This budget with the calls of one turn reserved for a lease's epoch."""
        calls = min(TURN_CALLS, self.calls_left)
        return self._reserving({**self.reserved, epoch: calls}) if calls else self

    def settle(self, epoch: int) -> Self:
        """This budget when a turn has reported: its reservation is over, what it used is in ``usage``."""
        return self._reserving({key: calls for key, calls in self.reserved.items() if key != epoch})

    def adopt(self, epoch: int, usage: Usage) -> Self:
        """This budget when the plan of a turn that never reported is found: what it used takes the place of
        its reservation. A turn that has reported is left alone.
        """
        return self.settle(epoch).spend(usage) if epoch in self.reserved else self

    def lent(self, epoch: int, *, used: int) -> Self:
        """What a turn may still spend, ``used`` calls after its begin: no more calls than it has reserved."""
        left = max(0, self.reserved.get(epoch, 0) - used)
        return self.model_copy(update={"max_model_calls": self.usage.calls + left, "reserved": {}})

    def starting(self, timeout_s: float) -> Self:
        """This budget when a job run has been submitted that may take so many seconds."""
        return self.model_copy(update={"reserved_s": timeout_s})

    def executed(self, seconds: float) -> Self:
        """This budget when the job run is over."""
        return self.model_copy(update={"reserved_s": 0.0, "executor_s": self.executor_s + seconds})

    def granted_s(self, wanted_s: float, *, age_s: float) -> int:
        """The time-out that a program gets: never more than what is left of the run's own time."""
        return int(min(wanted_s, self.executor_left_s, self.max_wall_s - age_s))

    def exhausted(self, iter_n: int, *, age_s: float) -> str | None:
        """Why a run of that age may not go on with iteration ``iter_n``, or None."""
        checks = (
            (iter_n > self.max_iterations, f"{self.max_iterations} iterations"),
            (self.calls_left <= 0, f"{self.max_model_calls} model calls{self._lost()}"),
            (self.tokens_left <= 0, f"{self.max_tokens:,} tokens"),
            (self.cost_left_usd == 0, f"{self.max_cost_usd} US dollars"),
            (self.executor_left_s < 1, f"{self.max_executor_s:,.0f} seconds of job runs"),
            (age_s > self.max_wall_s - 1, f"{self.max_wall_s:,.0f} seconds"),
        )
        used = [what for spent, what in checks if spent]
        return f"The run has used its {used[0]}." if used else None

    def _lost(self) -> str:
        lost = sum(self.reserved.values())
        return f" ({lost} of them reserved by controllers that never reported)" if lost else ""

    def _reserving(self, reserved: dict[int, int]) -> Self:
        return self.model_copy(update={"reserved": reserved})
