"""Hands a workflow over to what runs it: from a directory, or from the planner to Job B."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from databricks_rlm_agent.errors import InvalidData, UsageError
from databricks_rlm_agent.logs import keep_off_root
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
_DIRECTORY_FILES = 2_000
_FILE_BYTES = 16 << 20  # of one in a directory; what a warehouse takes in a request is less
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


@dataclass(frozen=True, kw_only=True)
class Order:
    """An order to run a workflow: the published ``folder`` with the ``sha256`` of its ``files``, and how.

    ``run_id`` is the id of the workflow's run: a later order with the same id resumes it. ``restart``: the
    number of the iteration that begins anew; later orders resume the newest beginning.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    sha256: str
    run_id: str
    catalog: str
    schema: str
    variables: Mapping[str, str] = field(default_factory=dict)
    max_iterations: int = 30
    max_parallel: int = 4
    on_error: str = "stop"
    restart: int | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Order:
        """Read an order from JSON."""
        return cls(**{**document, "files": tuple(document["files"])})


def read_directory(
    directory: Path,
    *,
    variables: Mapping[str, str] | None = None,
    catalog: str | None = None,
    schema: str | None = None,
) -> SqlSource:
    """Read the ``*.sql`` files of a directory and its ``workflow.yml``, but no directories below it.

    Raise UsageError for a directory that does not exist or has no such file, and for unreadable files.
    """
    keep_off_root("sqlglot")  # it warns about statements that it does not know; so do our notices
    entries = _entries(directory)
    paths = [path for path in entries if path.suffix.lower() == SUFFIX and not path.is_dir()]
    if not paths:
        raise UsageError(
            f"There is no {SUFFIX} file.", where=str(directory), fix="Give the directory that has them."
        )
    if len(paths) > _DIRECTORY_FILES:
        raise UsageError(
            f"{len(paths)} files are more than {_DIRECTORY_FILES}.",
            where=str(directory),
            fix="Split the directory.",
        )
    declared = next((path for path in entries if path.name in DECLARATIONS), None)
    return SqlSource(
        texts={path.name: _text_of(path) for path in paths},
        declared=_text_of(declared) if declared else None,
        variables=dict(variables or {}),
        catalog=catalog,
        schema=schema,
        notices=tuple(
            f"{path.name}/ is not looked into."
            for path in entries
            if path.is_dir() and (path.suffix.lower() == SUFFIX or any(path.glob(f"*{SUFFIX}")))
        ),
    )


def _entries(directory: Path) -> list[Path]:
    """Return the entries of the directory by name, without hidden ones."""
    where = str(directory)[:200]
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        raise UsageError("There is no such directory.", where=where, fix="Check the path.") from None
    except NotADirectoryError:
        raise UsageError("It is a file.", where=where, fix="Give the directory that it is in.") from None
    except (OSError, ValueError) as error:  # the latter for a NUL in the name
        what = f"The directory cannot be read: {_reason(error)}."
        raise UsageError(what, where=where, fix="Check it.") from None


def _text_of(path: Path) -> str:
    """Return a file's text, without a byte order mark."""
    where = str(path)
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            link = "a link to what is not there" if path.is_symlink() else "no regular file"
            raise UsageError(f"It is {link}.", where=where, fix="Remove it, or put the file there.")
        if (size := path.stat().st_size) > _FILE_BYTES:
            raise UsageError(
                f"It has {size:,} bytes, more than {_FILE_BYTES:,}.", where=where, fix="Split it."
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise UsageError("It is not valid UTF-8.", where=f"{where}:{line}", fix="Save it as UTF-8.") from None
    except OSError as error:
        what = f"It cannot be read: {_reason(error)}."
        raise UsageError(what, where=where, fix="Check it and its permissions.") from None


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
