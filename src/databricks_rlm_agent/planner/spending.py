"""The spending limit of model calls, decided before each call; prices and longest replies of models."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from databricks_rlm_agent.errors import PlannerError
from databricks_rlm_agent.models import FREE, Price
from databricks_rlm_agent.runs.budget import Budget, Usage

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
        """Return the rest of a budget."""
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
            raise PlannerError("budget: There are no model calls left for this iteration of the run.")
        limit = self.tokens - prompt_tokens
        if limit < MIN_REPLY_TOKENS:
            raise PlannerError(
                f"budget: The run has {max(0, self.tokens):,} tokens left; the next call of {model} may need"
                f" {prompt_tokens + MIN_REPLY_TOKENS:,}."
            )
        if self.cost_usd is None:
            return limit
        if price is None:
            raise PlannerError(unpriced([model]))
        limit = min(limit, _affordable(self.cost_usd, prompt_tokens, price))
        if limit < MIN_REPLY_TOKENS:
            need = price.cost(input_tokens=prompt_tokens, output_tokens=MIN_REPLY_TOKENS)
            raise PlannerError(
                f"budget: The run has ${max(0.0, self.cost_usd):.6f} left; the next call of {model} may cost"
                f" ${need:.6f}."
            )
        return limit


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
"""Tokens, if no price sets a limit: an infinite amount is no number of tokens."""


def _affordable(cost_usd: float, prompt_tokens: int, price: Price) -> int:
    left = cost_usd - price.cost(input_tokens=prompt_tokens, output_tokens=0)
    if cost_usd <= 0 or left < 0:
        return 0
    per_token = price.cost(input_tokens=0, output_tokens=1)
    return int(min(left / per_token, _PLENTY)) if per_token else _PLENTY


# LiteLLM's list as it ships in the package: read as a file, since the import takes seconds and may download a
# newer one.
_LIST = "model_prices_and_context_window_backup.json"
_DEFAULT_REPLY_TOKENS = 8_192
_MILLION = 1_000_000


class Prices:
    """Looks models up by their names in the model setting. ``given`` wins over LiteLLM's list.

    A scripted model is no provider's: it is free, unless ``given`` has a price for ``scripted``.
    """

    def __init__(self, given: Mapping[str, Price] | None = None) -> None:
        self._given = dict(given or {})

    def of(self, model: str) -> Price | None:
        """The price of a model, or None if it is not known."""
        name = "scripted" if model.startswith("scripted:") else model
        if name in self._given:
            return self._given[name]
        if name == "scripted":
            return FREE
        entry = _listed(name)
        if "input_cost_per_token" not in entry or "output_cost_per_token" not in entry:
            return None
        return Price(
            input_usd=float(entry["input_cost_per_token"]) * _MILLION,
            output_usd=float(entry["output_cost_per_token"]) * _MILLION,
        )

    def reply_tokens(self, model: str) -> int:
        """The most tokens that a reply of the model has; a careful guess if that is not known."""
        limit = _listed(model).get("max_output_tokens")
        return limit if isinstance(limit, int) and limit > 0 else _DEFAULT_REPLY_TOKENS


def _listed(model: str) -> Mapping[str, Any]:
    """LiteLLM's entry for a model; nothing where it has none, or is not installed."""
    if model.startswith("scripted:"):
        return {}  # the list is large, and holds no script
    provider, slash, name = model.partition("/")
    entries = _list()
    if not slash:
        return entries.get(f"gemini/{model}") or entries.get(model) or {}
    entry = entries.get(model) or entries.get(name) or {}
    return entry if entry.get("litellm_provider") == provider else {}


@cache
def _list() -> Mapping[str, Mapping[str, Any]]:
    spec = importlib.util.find_spec("litellm")
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        try:
            entries = json.loads((Path(folder) / _LIST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # another version of LiteLLM may keep it elsewhere: then no price is known
        keep = ("litellm_provider", "input_cost_per_token", "output_cost_per_token", "max_output_tokens")
        return {
            name: {key: entry[key] for key in keep if key in entry}
            for name, entry in entries.items()
            if isinstance(entry, dict) and entry.get("mode") in {"chat", "responses"}
        }
    return {}
