"""A workflow as it is handed over: files by name, whole; their hash, their bounds, and their source. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import partial

from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.sqlflow.plan.declarations import FILE
from databricks_rlm_agent.sqlflow.plan.plan import SqlSource

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


MAX_FILES = 300
MAX_BYTES = 4 << 20  # of all files together
SUFFIX = ".sql"
DECLARATIONS = frozenset({FILE, "workflow.yaml"})
NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
"""A workflow's name: a part of its run's id and of what people read."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_][\w .,()+=-]{0,199}", re.ASCII)


def check_files(files: Mapping[str, str]) -> Mapping[str, str]:
    """The files, if they can be published as a workflow; raise InvalidData."""
    for name in files:
        if not is_part(name) or not _FILE_NAME.fullmatch(name):
            raise InvalidData(
                f"{name[:200]!r} is not the name of a workflow's file.",
                fix=f"Use letters, digits, spaces and _ - . in it, and {SUFFIX} or {FILE} at the end.",
            )
    if not any(name not in DECLARATIONS for name in files):
        raise InvalidData(f"There is no {SUFFIX} file.", fix="Give `path`, or the texts in `files`.")
    size = sum(len(text.encode("utf-8", "replace")) for text in files.values())
    if len(files) > MAX_FILES or size > MAX_BYTES:
        raise InvalidData(
            f"The workflow has {len(files):,} files of {size:,} bytes; the limits are {MAX_FILES:,} and "
            f"{MAX_BYTES:,}.",
            fix="Keep data out of it, and split it into several workflows.",
        )
    return files


def is_part(name: str) -> bool:
    """Whether a file of that name belongs to a workflow; hidden ones do not."""
    return (name.lower().endswith(SUFFIX) and not name.startswith(".")) or name in DECLARATIONS


def source_of(
    files: Mapping[str, str], *, variables: Mapping[str, str], catalog: str, schema: str
) -> SqlSource:
    """What a plan is made from."""
    return SqlSource(
        texts={name: text for name, text in files.items() if name not in DECLARATIONS},
        declared=next((files[name] for name in sorted(DECLARATIONS) if name in files), None),
        variables=variables,
        catalog=catalog,
        schema=schema,
    )


def content_hash(files: Mapping[str, str]) -> str:
    """SHA-256 (hex) over all names and texts."""
    whole = hashlib.sha256()
    for name in sorted(files):
        content = files[name].encode()
        whole.update(f"{name}\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()
