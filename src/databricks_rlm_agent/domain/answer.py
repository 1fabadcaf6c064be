"""Answers that quote the last result: ``{{value.path}}`` stands for a part of what ``rlm.finish`` was given.

A model that writes figures down again can get them wrong; one that names them cannot.
"""

from __future__ import annotations

import json
import re
from typing import Any

from databricks_rlm_agent.errors import InvalidData

_QUOTE = re.compile(r"\{\{\s*value((?:\.[A-Za-z0-9_]+)*)\s*\}\}")


def resolve(text: str, value: Any) -> str:
    """``text`` with every quotation replaced; raise InvalidData for one that names nothing."""
    return _QUOTE.sub(lambda match: _shown(_part(value, match.group(1))), text)


def _part(value: Any, path: str) -> Any:
    for step in path.split(".")[1:]:
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            known = ", ".join(sorted(value)) if isinstance(value, dict) else type(value).__name__
            raise InvalidData(
                f"{{{{value{path}}}}} names nothing: there is no {step!r} in the last result's value.",
                fix=f"There is: {known[:500]}. The value is what the last program gave to rlm.finish(…).",
            ) from None
    return value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
