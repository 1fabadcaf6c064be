"""A workflow's files on their way from the planner to Job B: limits, hash, and the source of a plan. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import partial

from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.sqlflow.plan.declarations import FILE
from databricks_rlm_agent.sqlflow.plan.plan import SqlSource

_CALL_AGAIN = "call run_sql_workflow again"
# Options of the command line in messages, and what the agent reads instead. The first match counts.
_REPLACEMENTS = [
    (re.compile(pattern, re.IGNORECASE), text)
    for pattern, text in (
        (r"\brun (?:again|the same command) with --resume|\b(?:run with|use) --resume", _CALL_AGAIN),
        (r"with --max-iterations and --resume", "by max_iterations, at another call"),
        (r" \(--max-parallel\)| or profile \(DATABRICKS_TOKEN, --profile\)", ""),
        (r"--var (\w+)=VALUE", r'variables {"\1": VALUE}'),
        (r"--var (?=\w)", "variable "),
        (r"--var\b", "variables"),
        (r"--(?:catalog|schema)\b", "target"),
        (r"--max-iterations\b", "max_iterations"),
        (r"--resume\b", "another call"),
    )
]


def for_agent(text: str) -> str:
    """Replace options of the command line in a message by what the agent can do."""
    for pattern, template in _REPLACEMENTS:
        text = pattern.sub(partial(_replacement, template), text)
    return text


def _replacement(template: str, found: re.Match[str]) -> str:
    """Return the text for a match, with a capital letter where the match has one."""
    text = found.expand(template)
    return text[:1].upper() + text[1:] if found[0][:1].isupper() else text


MAX_FILES = 300
MAX_BYTES = 4 << 20  # of all files together
SUFFIX = ".sql"
DECLARATIONS = frozenset({FILE, "workflow.yaml"})
NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
"""The name of a workflow, which is part of the id of its run."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_][\w .,()+=-]{0,199}", re.ASCII)


def check_files(files: Mapping[str, str]) -> Mapping[str, str]:
    """Return the files if they can be published as a workflow; raise InvalidData if not."""
    for name in files:
        if not is_workflow_file(name) or not _FILE_NAME.fullmatch(name):
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


def is_workflow_file(name: str) -> bool:
    """Return whether a file with that name belongs to a workflow; hidden files do not."""
    return (name.lower().endswith(SUFFIX) and not name.startswith(".")) or name in DECLARATIONS


def source_of(
    files: Mapping[str, str], *, variables: Mapping[str, str], catalog: str, schema: str
) -> SqlSource:
    """Return the source of a plan."""
    return SqlSource(
        texts={name: text for name, text in files.items() if name not in DECLARATIONS},
        declared=next((files[name] for name in sorted(DECLARATIONS) if name in files), None),
        variables=variables,
        catalog=catalog,
        schema=schema,
    )


def content_hash(files: Mapping[str, str]) -> str:
    """Return the SHA-256 (hex) of all names and texts."""
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name].encode()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
