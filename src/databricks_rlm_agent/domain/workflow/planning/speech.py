"""What is said to users of the command line, as it is said to an agent: of arguments in place of options."""

from __future__ import annotations

import re
from functools import partial

_AGAIN = "call run_sql_workflow again"
# The first that matches counts, at each place.
_WORDS = (
    (r"\brun (?:again|the same command) with --resume|\b(?:run with|use) --resume", _AGAIN),
    (r"with --max-iterations and --resume", "by max_iterations, at another call"),
    (r" \(--max-parallel\)", ""),
    (r"--var (\w+)=VALUE", r'variables {"\1": VALUE}'),
    (r"--var (?=\w)", "variable "),
    (r"--var\b", "variables"),
    (r"--(?:catalog|schema)\b", "target"),
    (r"--max-iterations\b", "max_iterations"),
    (r"--resume\b", "another call"),
)
_PATTERNS = [(re.compile(pattern, re.IGNORECASE), words) for pattern, words in _WORDS]


def to_agent(text: str) -> str:
    """The text without options of the command line."""
    for pattern, words in _PATTERNS:
        text = pattern.sub(partial(_said, words), text)
    return text


def _said(template: str, found: re.Match[str]) -> str:
    """What stands in its place, with a capital where there was one."""
    words = found.expand(template)
    return words[:1].upper() + words[1:] if found[0][:1].isupper() else words
