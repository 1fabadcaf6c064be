"""SQL that no parser can read differently: literals, quoted names, and commits that conflict with others."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

_PLAIN = re.compile(r"[A-Za-z0-9 _.,:;/=()+-]*")
_CONFLICT = re.compile(
    # Delta on Databricks (conditions and JVM class names), then the wording of delta-rs and of Sail
    r"DELTA_CONCURRENT|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED|Concurrent\w*Exception|MetadataChangedException"
    r"|ProtocolChangedException|[Cc]ommit conflict|[Ff]ailed to commit transaction|version already exists"
)
_TRIES = 8
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0


def literal(value: str | int | None) -> str:
    """A value as a SQL literal.

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


def opened(spark: Any, table: str, label: str) -> Any:
    """A table as a DataFrame. Raises LookupError that names the label and the table."""
    try:
        frame = spark.table(quoted(table))
        frame.schema  # noqa: B018 -- Spark Connect looks the table up only now
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise LookupError(f"{label}: table {table} cannot be read: {reason}") from error
    return frame


def commit(
    execute: Callable[[str], object], text: str, *, sleep: Callable[[float], None] = time.sleep
) -> None:
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
        wait = min(2 * wait, _LONGEST_WAIT_S)
