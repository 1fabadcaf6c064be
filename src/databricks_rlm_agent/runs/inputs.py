"""Inputs of a task, from what people write to handles. Pure: paths are asked for in ``cli/work.py``.

A handle is what a request carries (``executor_harness.protocol.Input``): the data itself stays where it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.values import check_table_name, check_volume_path

Handle = dict[str, str]
MAX_TEXT_CHARS = 4_000
"""The longest text that is kept with the run itself; longer ones become files."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SUFFIX = re.compile(r"[^.](\.[A-Za-z0-9]{1,10})?(?:\.(?:gz|bz2|xz|zst))?$")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """An input as it was written: a table, a ``path`` in a Volume, a ``local`` file or a text."""

    name: str
    kind: Literal["table", "path", "local", "text"]
    value: str


def parse_inputs(texts: Sequence[str]) -> list[InputSpec]:
    """``NAME=VALUE`` each; raise UsageError for one that is none, and for a name that is given twice."""
    found = [parse_input(text) for text in texts]
    names = [given.name for given in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"--input {name} is given {names.count(name)} times.", fix="Name each input once."
            )
    return found


def parse_input(text: str) -> InputSpec:
    """``NAME=VALUE``: a Volume path, ``@`` and a file of this machine, a three-level table name, or text."""
    name, found, value = text.partition("=")
    if not found or not _NAME.fullmatch(name):
        raise UsageError(
            f"--input {text[:80]!r} is not NAME=VALUE.",
            fix="For example --input flights=main.nyc.flights; a name has up to 64 letters, digits and '_'.",
        )
    if value.startswith("/Volumes/"):
        return InputSpec(name=name, kind="path", value=_path(value))
    if value.startswith("@"):
        return InputSpec(name=name, kind="local", value=value[1:])
    try:
        return InputSpec(name=name, kind="table", value=check_table_name(value))
    except UsageError:
        return InputSpec(name=name, kind="text", value=value)


def upload_path(run_dir: str, name: str, file_name: str) -> str:
    """Where an input is kept that had to be brought along: the suffix tells a program how to read it."""
    found = _SUFFIX.search(file_name)
    return f"{run_dir}/inputs/{name}{found[0][1:] if found else ''}"


def _path(value: str) -> str:
    """The normal form of a path; a slash at its end stays, since it says that this is a folder."""
    clean = check_volume_path(value)
    return f"{clean}/" if value.endswith("/") else clean
