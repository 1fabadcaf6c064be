"""The attempt's row in `execution_results`: one MERGE … WHEN NOT MATCHED, retried while others commit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_STATEMENT = """MERGE INTO {table} AS t
USING (SELECT {source}) AS s
ON t.run_id = s.run_id AND t.iter_n = s.iter_n AND t.attempt = s.attempt
WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"""

_PLAIN = re.compile(r"[A-Za-z0-9 _.,:;/=()+-]*")
_CONFLICT = re.compile(
    # Delta on Databricks (conditions and JVM class names), then the wording of delta-rs and of Sail
    r"DELTA_CONCURRENT|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED|Concurrent\w*Exception|MetadataChangedException"
    r"|ProtocolChangedException|[Cc]ommit conflict|[Ff]ailed to commit transaction|version already exists"
)
_TRIES = 8
_FIRST_WAIT_S = 0.2

_TYPES = {"iter_n": "INT", "attempt": "INT", "databricks_run_id": "BIGINT"}
_TIMES = frozenset({"started_at", "finished_at"})


def literal(value: str | int | None) -> str:
    """A value as a SQL literal that no parser can read differently.

    Text beyond a plain alphabet goes as hexadecimal digits: escapes in quotes depend on the engine's settings
    (`spark.sql.parser.escapedStringLiterals`), and Spark substitutes `${…}` even inside of quotes. What
    UTF-8 cannot express (lone surrogates) becomes a question mark.
    """
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(int(value))
    if _PLAIN.fullmatch(value) and "--" not in value:
        return f"'{value}'"
    return f"CAST(X'{value.encode('utf-8', 'replace').hex().upper()}' AS STRING)"


def quoted(name: str) -> str:
    """A dotted table name with each part in backticks."""
    return ".".join(f"`{part.replace('`', '``')}`" for part in name.split("."))


def statement(table: str, row: Mapping[str, str | int | None]) -> str:
    """The MERGE for one row; its columns are the keys of `row`."""
    source = ", ".join(f"{_typed(name, value)} AS {name}" for name, value in row.items())
    return _STATEMENT.format(
        table=quoted(table),
        source=source,
        names=", ".join(row),
        values=", ".join(f"s.{name}" for name in row),
    )


def _typed(name: str, value: str | int | None) -> str:
    kind = "TIMESTAMP" if name in _TIMES else _TYPES.get(name, "STRING")
    return f"CAST({literal(value)} AS {kind})"


def row_of(result: Mapping[str, Any], encode: Callable[[object], str]) -> dict[str, str | int | None]:
    """The row of a result.json. `encode` makes JSON of the three structured columns."""
    same = ("run_id", "iter_n", "attempt", "databricks_run_id")
    return {
        **{name: result[name] for name in same},
        "run_url": None,  # the controller knows it; a job is not told its own
        **{name: result[name] for name in ("status", "error_type", "error_summary")},
        **{name: encode(result[name]) for name in ("metrics", "produced_artifacts", "produced_tables")},
        **{name: result[name] for name in ("started_at", "finished_at", "reported_by")},
    }


def append(
    execute: Callable[[str], object],
    table: str,
    row: Mapping[str, str | int | None],
    *,
    sleep: Callable[[float], None],
) -> None:
    """Create the row unless it is there. Raises what the engine raises, after bounded retries of
    conflicts.
    """
    commit(execute, statement(table, row), sleep=sleep)


def commit(execute: Callable[[str], object], text: str, *, sleep: Callable[[float], None]) -> None:
    """Execute a statement, again while others commit to the same table. Raises what the engine raises."""
    wait = _FIRST_WAIT_S
    for left in range(_TRIES - 1, -1, -1):
        try:
            execute(text)
            return
        except Exception as error:
            if not left or not _CONFLICT.search(f"{type(error).__name__}: {error}"):
                raise
        sleep(wait)
        wait = min(2 * wait, 5.0)
