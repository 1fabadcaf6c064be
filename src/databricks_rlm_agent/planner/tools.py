"""The planner's read-only tools. The docstrings are what the model reads; every answer is bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.planner.results import Results
from databricks_rlm_agent.planner.tool_answers import cell, take, take_text
from databricks_rlm_agent.ports import Catalog, Ledger, PlanningContext, SqlSession, Volume
from databricks_rlm_agent.values import check_table_name, check_volume_path, quoted_table

_MAX_ROWS = 20
_MAX_TABLES = 100
_MAX_LENGTH = 4_000


class Toolbox:
    """Reads of the catalog, of tables and of Volumes, for one namespace. Errors are RlmErrors.

    ``tools`` are the same for all runs; ``for_run`` adds those over a run's own earlier results. With a
    ``ledger`` these find results of which there is no file.
    """

    def __init__(
        self,
        *,
        volume: Volume,
        catalog: Catalog,
        sql: SqlSession,
        namespace: Namespace,
        ledger: Ledger | None = None,
    ) -> None:
        self.volume, self._catalog, self._sql = volume, catalog, sql
        self._namespace, self._ledger = namespace, ledger
        self.tools = (
            self.search_catalog,
            self.describe_table,
            self.sample_table,
            self.list_files,
            self.read_file,
        )

    def for_run(self, context: PlanningContext) -> tuple[Callable[..., Any], ...]:
        """The tools of one conversation: they serve this run, and no other."""
        if context.iter_n == 1:
            return self.tools  # there is no earlier result
        results = Results(
            run_id=context.run_id,
            iter_n=context.iter_n,
            volume=self.volume,
            namespace=self._namespace,
            ledger=self._ledger,
        )
        return (*self.tools, *results.tools)

    def search_catalog(self, text: str = "") -> dict[str, Any]:
        """Find tables whose name contains a text; all tables for an empty text.

        Args:
            text: A part of a table's name.
        """
        names, left_out = take(self._catalog.search(text, limit=_MAX_TABLES))
        return {"tables": names, "left_out": left_out}

    def describe_table(self, table: str) -> dict[str, Any]:
        """The columns of a table with their types.

        Args:
            table: The full name, catalog.schema.table.
        """
        columns = self._catalog.describe(check_table_name(table))
        shown, left_out = take(f"{cell(name)} {cell(kind)}" for name, kind in columns)
        return {"table": table, "columns": shown, "left_out": left_out}

    def sample_table(self, table: str, rows: int = 5) -> dict[str, Any]:
        """A few rows of a table.

        Args:
            table: The full name, catalog.schema.table.
            rows: How many rows, at most 20.
        """
        quoted = quoted_table(table)
        count = max(1, min(rows, _MAX_ROWS))
        # The names are checked and quoted, the count is a number: there is nothing here to inject.
        found = self._sql.fetch(f"SELECT * FROM {quoted} LIMIT {count:d}")  # noqa: S608 - checked name
        shown, left_out = take({cell(name): cell(value) for name, value in row.items()} for row in found)
        return {"table": table, "rows": shown, "left_out": left_out}

    def list_files(self, path: str = "") -> dict[str, Any]:
        """The files in a Volume folder.

        Args:
            path: A folder under /Volumes; the run's own Volume if it is empty.
        """
        folder = check_volume_path(path or self._namespace.volume_root)
        entries = (
            {"path": entry.path, "folder": True}
            if entry.is_directory
            else {"path": entry.path, "size": entry.size}
            for entry in self.volume.list(folder)
        )
        shown, left_out = take(entries)
        return {"folder": folder, "entries": shown, "left_out": left_out}

    def read_file(self, path: str, offset: int = 0, length: int = _MAX_LENGTH) -> dict[str, Any]:
        """Read a slice of a text file in a Volume.

        Args:
            path: A file under /Volumes.
            offset: The byte to start at.
            length: How many bytes, at most 4000.
        """
        file = check_volume_path(path)
        wanted = max(1, min(length, _MAX_LENGTH))
        content = self.volume.get(file, offset=max(0, offset), length=wanted)
        text, used = take_text(content)
        # A short answer to the question for `wanted` bytes means the end of the file.
        more = used < len(content) or len(content) == wanted
        return {"path": file, "text": text, "next_offset": max(0, offset) + used if more else None}
