"""What models cost, as their owner was told: US dollars per million tokens. Pure; no price is built in."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from databricks_rlm_agent.errors import ConfigError

_MILLION = 1_000_000
_FORM = 'Write {"gemini-2.5-pro": {"input": USD, "output": USD}, …}, in US dollars per million tokens.'


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per million tokens that a model reads and writes."""

    input_usd: float
    output_usd: float

    def cost(self, *, input_tokens: int, output_tokens: int) -> float:
        """What so many tokens cost, in US dollars."""
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / _MILLION


FREE = Price(input_usd=0, output_usd=0)


def parse_prices(text: str, *, where: str = "RLM_MODEL_PRICES") -> dict[str, Price]:
    """Prices by model name from JSON; raise ConfigError that names the place and the format."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The table of prices is not JSON: {error}.", where=where, fix=_FORM) from None
    if not isinstance(table, dict):
        raise ConfigError("The table of prices is not a JSON object.", where=where, fix=_FORM)
    return {name: _price(name, entry, where) for name, entry in table.items()}


def _price(name: str, entry: Any, where: str) -> Price:
    if not isinstance(entry, dict) or set(entry) != {"input", "output"}:
        raise ConfigError(f"The price of {name!r} is not an input and an output.", where=where, fix=_FORM)
    if not all(_is_amount(value) for value in entry.values()):
        raise ConfigError(
            f"The price of {name!r} is not a number of dollars, zero or more.", where=where, fix=_FORM
        )
    return Price(input_usd=entry["input"], output_usd=entry["output"])


def _is_amount(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < _MILLION and math.isfinite(value)
