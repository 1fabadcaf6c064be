"""Small files put together after a write, where the table asks for it (`delta.autoOptimize.autoCompact`).

Databricks does so in the statement that wrote, after its commit, once there are 50 small files (in its
documentation: "Configure Delta Lake to control data file size"; the number is the default of
`spark.databricks.delta.autoCompact.minNumFiles`). Sail does not, and makes a file per commit: reading a table
would cost more with every commit that ever was.

Nothing is vacuumed: readers of an older snapshot find their files.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from .catalog import CatalogTree
from .deltalog import TableShape
from .names import TableName

_PROPERTY = "delta.autooptimize.autocompact"
MIN_FILES = 50
# Files to wait for after a compaction that lost to a concurrent writer, so that not every statement tries.
_AGAIN = 10
_log = logging.getLogger(__name__)


class AutoCompaction:
    """Compacts the tables of one catalog tree after writes. Safe for threads."""

    def __init__(self, tree: CatalogTree) -> None:
        self._tree = tree
        self._due: dict[TableName, int] = {}
        self._busy: set[TableName] = set()
        self._guard = threading.Lock()

    def after_write(self, name: TableName) -> None:
        """Compact the table that a statement has just written, if it is time. Never raises: the statement
        has done its work, and the next one can compact as well.
        """
        try:
            files = self._files(name)
            if files is not None and self._begin(name, files):
                self._attempt(name, files)
        except Exception as error:  # noqa: BLE001 - recorded; most likely a concurrent writer was first
            _log.debug("compaction of %s dropped: %s", name.sql, error)

    def _files(self, name: TableName) -> int | None:
        """Return how many files a table has that asks for compaction; None where that is not known."""
        shape = self._tree.shape(name)
        if shape is None or not _wanted(shape):
            return None
        return _files_of(self._tree.location(name), shape.version)

    def _attempt(self, name: TableName, files: int) -> None:
        due = files + _AGAIN
        try:
            due = self._compact(name) + MIN_FILES
        finally:
            with self._guard:
                self._due[name] = due
                self._busy.discard(name)

    def _begin(self, name: TableName, files: int) -> bool:
        """Tell whether the caller should compact now.

        Files that the last compaction left apart (of several partitions, large ones) do not count again.
        """
        with self._guard:
            due = min(self._due.get(name, MIN_FILES), files + MIN_FILES)
            self._due[name] = due
            if files < due or name in self._busy:
                return False
            self._busy.add(name)
            return True

    def _compact(self, name: TableName) -> int:
        """Compact the table; return the number of files that are left."""
        from deltalake import DeltaTable

        with self._tree.lock(name):  # nobody may drop or rename the table meanwhile
            self._tree.require(name)
            delta = DeltaTable(str(self._tree.location(name)))
            delta.optimize.compact()
            return len(delta.file_uris())


def _wanted(shape: TableShape) -> bool:
    """Tell whether a table asks for compaction: `true`, `auto`, `legacy` or a size do, `false` does not."""
    values = [value.lower() for key, value in shape.properties.items() if key.lower() == _PROPERTY]
    return bool(values) and values[-1] not in {"false", "disabled", ""}


def _files_of(table: Path, version: int) -> int | None:
    """Return how many files a version has, by its checksum file (Delta protocol, "Version Checksum File").

    Sail writes one with each commit. None where there is none, such as after a commit by another writer.
    """
    try:
        text = (table / "_delta_log" / f"{version:020d}.crc").read_text(encoding="utf-8")
        return int(json.loads(text)["numFiles"])
    except (OSError, ValueError, KeyError):
        return None
