"""Spark DataFrames as Delta tables of the scratch schema."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from executor_harness import protocol
from executor_harness.data.frames import shape_in_words
from executor_harness.data.inputs import opened
from executor_harness.data.kinds import TABLE
from executor_harness.data.saved import Entry
from executor_harness.results_table import quoted

_HASH_CHARS = 12


class ScratchTables:
    """The tables behind the variables of one attempt."""

    def __init__(self, request: protocol.Request, session: Callable[[], Any]) -> None:
        self._request = request
        self._session = session
        self._lock = threading.Lock()
        self._schema_asked = False
        self._made: list[str] = []

    @property
    def made(self) -> tuple[str, ...]:
        """What this attempt has begun to write."""
        return (*self._made,)

    def keep(self, name: str, frame: Any) -> Entry:
        """Write a DataFrame. Raises RuntimeError naming variable and table."""
        table = self._table(name)
        said = self._ask_for_schema()
        try:
            frame.write.format("delta").saveAsTable(quoted(table))
            kept = self.open(name, table)
            size = shape_in_words(int(kept.count()), kept.columns)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise RuntimeError(
                f"rlm.vars[{name!r}]: the DataFrame could not be kept as table {table}: {reason}{said}"
            ) from error
        return Entry(kind=TABLE, type="DataFrame", size=size, table=table)

    def open(self, name: str, table: str) -> Any:
        """A table as a DataFrame. Raises LookupError naming the variable."""
        return opened(self._session(), table, f"rlm.vars[{name!r}]")

    def drop(self, tables: Iterable[str]) -> list[str]:
        """Drop tables, on a best effort; those that may still be there."""
        left = [table for table in tables if self._is_ours(table)]
        if not left or "pyspark" not in sys.modules:
            return left  # a program without Spark does not start it for this; a later one will do it
        try:
            spark = self._session()
            while left:
                spark.sql(f"DROP TABLE IF EXISTS {quoted(left[0])}").collect()
                left.pop(0)
        except Exception as error:  # noqa: BLE001 -- said, and what is left is returned
            sys.stderr.write(f"rlm: {', '.join(left)} could not be dropped yet: {error}\n")
            left.append(left.pop(0))  # next time it does not stand before the others
        return left

    def _table(self, name: str) -> str:
        schema = self._request.get("scratch_schema")
        if not schema:
            raise RuntimeError(
                f"rlm.vars[{name!r}]: this run has no scratch schema to keep a DataFrame in; write it with "
                "saveAsTable, report it with rlm.table, and keep its name"
            )
        with self._lock:
            # Each assignment has a table of its own: a DataFrame that was built on the one before stays as
            # it is, and may be what the next is computed from.
            parts = [str(self._request[part]) for part in ("run_id", "iter_n", "attempt")]
            whole = "/".join([*parts, name, str(len(self._made))])
            digest = hashlib.sha256(whole.encode("ascii")).hexdigest()[:_HASH_CHARS]
            self._made.append(f"{schema}.v_{digest}_{name.lower()}")
            return self._made[-1]

    def _ask_for_schema(self) -> str:
        """See to it that the schema is there; what the engine said against it, for the error that follows."""
        if self._schema_asked:
            return ""
        schema = str(self._request.get("scratch_schema"))
        try:
            self._session().sql(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}").collect()
        except Exception as error:  # noqa: BLE001 -- who may not create schemas may still write to this one
            return f" (and before: {str(error).strip().partition(chr(10))[0]})"
        self._schema_asked = True
        return ""

    def _is_ours(self, table: str) -> bool:
        schema = re.escape(str(self._request.get("scratch_schema")))
        return bool(re.fullmatch(rf"{schema}\.v_[0-9a-f]{{{_HASH_CHARS}}}_\w+", table))
