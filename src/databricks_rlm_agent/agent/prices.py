"""The price and the longest reply of a model: from the setting first, then from LiteLLM's own list."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from databricks_rlm_agent.domain.prices import FREE, Price

# LiteLLM's list as it ships in the package: read as a file, since the import downloads a newer one unless it
# is told not to, and takes seconds.
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
        """The price of a model, or None if nobody has told it."""
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
        """How many tokens a reply has at most by itself; a careful guess where nobody knows."""
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
