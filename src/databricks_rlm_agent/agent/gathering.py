"""A SQL workflow that a model wants to run, made whole: the files of its folder, and its own over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from databricks_rlm_agent.domain.actions import RunSqlWorkflow
from databricks_rlm_agent.domain.layout import Namespace
from databricks_rlm_agent.domain.workflow.planning.plan import plan_of
from databricks_rlm_agent.domain.workflow.planning.shipped import (
    MAX_BYTES,
    MAX_FILES,
    check_files,
    is_part,
    source_of,
)
from databricks_rlm_agent.domain.workflow.planning.speech import to_agent
from databricks_rlm_agent.errors import Forbidden, InvalidData, NotFound, UsageError
from databricks_rlm_agent.ports import FileEntry, Volume

_LISTED = 2_000


def gathered(action: RunSqlWorkflow, *, volume: Volume, namespace: Namespace) -> RunSqlWorkflow:
    """The workflow with all its texts, which can be planned.

    Raises InvalidData with what the model is to mend, RemoteError where the Volume has no answer.
    """
    files = {**(_read(action.path, volume) if action.path else {}), **action.files}
    source = source_of(
        check_files(files),
        variables=action.variables,
        catalog=action.catalog or namespace.catalog,
        schema=action.schema or namespace.schema,
    )
    try:
        plan_of(source)
    except UsageError as error:
        raise InvalidData(error.what, where=error.where, fix=to_agent(error.fix or "") or None) from None
    return replace(action, files=files, path=None)


def _read(path: str, volume: Volume) -> Mapping[str, str]:
    try:
        entries = volume.list(path, limit=_LISTED)
    except (NotFound, Forbidden) as error:
        raise InvalidData(
            f"The folder cannot be listed: {error.what}", where=path, fix="Check it with list_files."
        ) from None
    parts = [entry for entry in entries if not entry.is_directory and is_part(_name(entry))]
    if len(entries) >= _LISTED:
        raise InvalidData(
            f"The folder has {_LISTED:,} entries or more.",
            where=path,
            fix="Name one that has the SQL files only.",
        )
    size = sum(entry.size or 0 for entry in parts)
    if not parts:
        raise InvalidData("The folder has no *.sql file.", where=path, fix="Name the folder that has them.")
    if len(parts) > MAX_FILES or size > MAX_BYTES:
        raise InvalidData(
            f"The folder has {len(parts):,} files of {size:,} bytes; the limits of a workflow are "
            f"{MAX_FILES:,} and {MAX_BYTES:,}.",
            where=path,
            fix="Split it, or run a part of it by `files`.",
        )
    return {_name(entry): _text(entry.path, volume) for entry in parts}


def _text(path: str, volume: Volume) -> str:
    content = volume.get(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content[: error.start].count(b"\n")
        raise InvalidData(
            "It is not valid UTF-8.", where=f"{path}:{line}", fix="Send its text in `files`."
        ) from None


def _name(entry: FileEntry) -> str:
    return entry.path.rstrip("/").rpartition("/")[2]
