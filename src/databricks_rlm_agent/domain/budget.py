"""What a run may spend, and what it has spent. Pure: stored as JSON in ``run_state.budget``."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field


class Usage(BaseModel):
    """Model usage: calls, tokens as the models reported them, cost in US dollars (0 where nothing is known)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

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
    """Limits of a run and what of them is used up."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    max_iterations: int = Field(default=30, ge=1)
    max_attempts: int = Field(default=3, ge=1)
    max_model_calls: int = Field(default=300, ge=1)
    max_tokens: int = Field(default=5_000_000, ge=1)
    usage: Usage = Usage()

    def spend(self, usage: Usage) -> Self:
        """This budget after ``usage``."""
        return self.model_copy(update={"usage": self.usage + usage})

    def exhausted(self, iter_n: int) -> str | None:
        """Why iteration ``iter_n`` may not be planned any more, or None."""
        if iter_n > self.max_iterations:
            return f"The run has used its {self.max_iterations} iterations."
        if self.usage.calls >= self.max_model_calls:
            return f"The run has used its {self.max_model_calls} model calls."
        if self.usage.input_tokens + self.usage.output_tokens >= self.max_tokens:
            return f"The run has used its {self.max_tokens:,} tokens."
        return None
