"""A directory of SQL on this machine, read into what a plan is made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from databricks_rlm_agent.domain.workflow.planning.declared import FILE
from databricks_rlm_agent.domain.workflow.planning.plan import Source
from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.logs import keep_off_root

MAX_FILES = 2_000
MAX_BYTES = 16 << 20  # of one file; what a warehouse takes in a request is less
SUFFIX = ".sql"


def read_directory(
    directory: Path,
    *,
    variables: Mapping[str, str] | None = None,
    catalog: str | None = None,
    schema: str | None = None,
) -> Source:
    """The ``*.sql`` files of a directory and its ``workflow.yml``; directories below it are not looked into.

    Raises UsageError for a directory that is not there or has no such file, and for what cannot be read.
    """
    keep_off_root("sqlglot")  # it warns of statements that it does not know; notices tell that
    found = _entries(directory)
    paths = [path for path in found if path.suffix.lower() == SUFFIX and not path.is_dir()]
    if not paths:
        raise UsageError(
            f"There is no {SUFFIX} file.", where=str(directory), fix="Give the directory that has them."
        )
    if len(paths) > MAX_FILES:
        raise UsageError(
            f"{len(paths)} files are more than {MAX_FILES}.", where=str(directory), fix="Split the directory."
        )
    declared = next((path for path in found if path.name in {FILE, "workflow.yaml"}), None)
    return Source(
        texts={path.name: _text(path) for path in paths},
        declared=_text(declared) if declared else None,
        variables=dict(variables or {}),
        catalog=catalog,
        schema=schema,
        notices=tuple(
            f"{path.name}/ is not looked into."
            for path in found
            if path.is_dir() and (path.suffix.lower() == SUFFIX or any(path.glob(f"*{SUFFIX}")))
        ),
    )


def _entries(directory: Path) -> list[Path]:
    """What the directory has, by name, without hidden files."""
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        raise UsageError("There is no such directory.", where=str(directory), fix="Check the path.") from None
    except NotADirectoryError:
        raise UsageError(
            "It is a file.", where=str(directory), fix="Give the directory that it is in."
        ) from None
    except (OSError, ValueError) as error:  # the latter for a NUL in the name
        raise UsageError(
            f"The directory cannot be read: {_reason(error)}.", where=str(directory)[:200], fix="Check it."
        ) from None


def _text(path: Path) -> str:
    """A file's text, without a byte order mark."""
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            link = "a link to what is not there" if path.is_symlink() else "no regular file"
            raise UsageError(f"It is {link}.", where=str(path), fix="Remove it, or put the file there.")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UsageError(
                f"It has {size:,} bytes, more than {MAX_BYTES:,}.", where=str(path), fix="Split it."
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise UsageError("It is not valid UTF-8.", where=f"{path}:{line}", fix="Save it as UTF-8.") from None
    except OSError as error:
        raise UsageError(
            f"It cannot be read: {_reason(error)}.", where=str(path), fix="Check it and its permissions."
        ) from None


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
