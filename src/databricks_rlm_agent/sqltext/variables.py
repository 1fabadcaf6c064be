"""Variables of a workflow: ``{name}``, ``${name}`` and ``{{ name }}`` in its files. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqltext.split import tokens_of

if TYPE_CHECKING:
    from sqlglot import Token

_NAME = re.compile(r"[A-Za-z_]\w*")
# The last is how Databricks' own queries have their parameters.
_USED = re.compile(r"\$?\{([A-Za-z_]\w*)\}|\{\{\s*([A-Za-z_]\w*)\s*\}\}")
_JINJA = re.compile(r"\{\{|\{%")
NUMBERS = ("iteration", "previous")
"""Stand for the numbers of an iteration in a loop's template and convergence query."""


def parse_variables(given: Iterable[str]) -> dict[str, str]:
    """Read ``NAME=VALUE``, as given by ``--var``; raise UsageError for what is not that."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name) or name in NUMBERS or "\n" in value:
            raise UsageError(
                f"--var {text[:80]!r} is not a variable.",
                fix="Write NAME=VALUE on one line; NAME is a word other than iteration and previous.",
            )
        if found.get(name, value) != value:
            raise UsageError(f"--var {name} is given twice.", fix="Give it one value.")
        found[name] = value
    return found


def used(text: str) -> set[str]:
    """Names of possible variables in a text, also within strings."""
    return {found[1] or found[2] for found in _USED.finditer(text)}


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Replace the variables that have a value."""
    return _USED.sub(lambda found: values.get(found[1] or found[2], found[0]), text)


def check_all_known(text: str, file: str) -> None:
    """Raise UsageError for a variable without a value; in strings and comments braces mean themselves."""
    jinja = _JINJA.search(text)
    if not jinja and not _USED.search(text):
        return
    tokens = tokens_of(text, file)
    if jinja:
        _check_no_jinja(tokens, text, file)
    for one, two, three in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if one.text == "{" and three.text == "}" and _NAME.fullmatch(two.text):
            raise _without_value(two.text, f"{file}:{1 + text.count(chr(10), 0, one.start)}")
    for token in tokens:
        found = _USED.search(token.text)
        if found and token.token_type.name == "IDENTIFIER":  # a quoted name
            raise _without_value(found[1] or found[2], f"{file}:{1 + text.count(chr(10), 0, token.start)}")


def _check_no_jinja(tokens: Sequence[Token], text: str, file: str) -> None:
    places = {found.start() for found in _JINJA.finditer(text)}
    found = next((token for token in tokens if token.start in places), None)
    if found is not None and (name := _USED.match(text, found.start)):
        raise _without_value(name[2], f"{file}:{1 + text.count(chr(10), 0, found.start)}")
    if found is not None:
        raise UsageError(
            f"It is a template that has not been filled in: {text[found.start :][:40].splitlines()[0]}",
            where=f"{file}:{1 + text.count(chr(10), 0, found.start)}",
            fix="Give the compiled files (of dbt, those below target/compiled), or write {name} for --var.",
        )


def _without_value(name: str, where: str) -> UsageError:
    fix = f"Give --var {name}=VALUE."
    if name in NUMBERS:
        fix = "Declare the file as the template of a loop in workflow.yml."
    return UsageError(f"The variable {{{name}}} has no value.", where=where, fix=fix)
