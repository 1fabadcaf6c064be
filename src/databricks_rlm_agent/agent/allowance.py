"""What is left to spend on models, decided before each call rather than found out after it. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any, Self

from databricks_rlm_agent.domain.budget import Budget, Usage
from databricks_rlm_agent.domain.prices import Price
from databricks_rlm_agent.errors import PlannerError

MIN_REPLY_TOKENS = 256
"""A shorter reply holds no action: with less left than this, a call would be wasted."""
_BYTES_PER_TOKEN = 3  # English and code need about 4, Chinese about 3: the estimate errs on the safe side


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """Model calls, tokens and US dollars that are left (``cost_usd`` None: no limit)."""

    calls: int
    tokens: int
    cost_usd: float | None = None

    @classmethod
    def left(cls, budget: Budget) -> Self:
        """What a turn's budget has left."""
        return cls(calls=budget.calls_left, tokens=budget.tokens_left, cost_usd=budget.cost_left_usd)

    def less(self, usage: Usage) -> Allowance:
        """This allowance after ``usage``."""
        return replace(
            self,
            calls=self.calls - usage.calls,
            tokens=self.tokens - usage.input_tokens - usage.output_tokens,
            cost_usd=None if self.cost_usd is None else self.cost_usd - usage.cost_usd,
        )

    def reply_tokens(self, prompt_tokens: int, *, model: str, price: Price | None) -> int:
        """The longest reply that may be asked for after such a prompt; raise PlannerError if none may."""
        if self.calls < 1:
            raise PlannerError("budget: There are no model calls left for this turn of the run.")
        room = self.tokens - prompt_tokens
        if room < MIN_REPLY_TOKENS:
            raise PlannerError(
                f"budget: The run has {max(0, self.tokens):,} tokens left; the next call of {model} may need"
                f" {prompt_tokens + MIN_REPLY_TOKENS:,}."
            )
        if self.cost_usd is None:
            return room
        if price is None:
            raise PlannerError(unpriced([model]))
        room = min(room, _affordable(self.cost_usd, prompt_tokens, price))
        if room < MIN_REPLY_TOKENS:
            need = price.cost(input_tokens=prompt_tokens, output_tokens=MIN_REPLY_TOKENS)
            raise PlannerError(
                f"budget: The run has ${max(0.0, self.cost_usd):.6f} left; the next call of {model} may cost"
                f" ${need:.6f}."
            )
        return room


def unpriced(models: list[str]) -> str:
    """Why a run with a limit of cost cannot be planned with models that have no known price."""
    names = ", ".join(models)
    return (
        f"budget: The run's cost is limited, and the price of {names} is not known. Set RLM_MODEL_PRICES to"
        f' {{"{models[0]}": {{"input": USD, "output": USD}}}} (US dollars per million tokens),'
        " or submit the run without a limit of cost."
    )


def tokens_of(value: Any) -> int:
    """An upper estimate of the tokens in a text, or in a value's JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return math.ceil(len(text.encode("utf-8", "replace")) / _BYTES_PER_TOKEN)


_PLENTY = 1_000_000_000
"""Tokens, where a price or none sets no limit; infinite amounts are no numbers of tokens."""


def _affordable(cost_usd: float, prompt_tokens: int, price: Price) -> int:
    left = cost_usd - price.cost(input_tokens=prompt_tokens, output_tokens=0)
    if cost_usd <= 0 or left < 0:
        return 0
    per_token = price.cost(input_tokens=0, output_tokens=1)
    return int(min(left / per_token, _PLENTY)) if per_token else _PLENTY
