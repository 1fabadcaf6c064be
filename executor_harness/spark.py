"""Spark: its session, and SQL that no parser can read differently.

The session is made when first needed, never ended by the program, and interrupted at a time-out; over Py4J
(classic clusters) and over Spark Connect (serverless, the local workspace) alike.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_IGNORED = "rlm: spark.stop() was ignored: the session belongs to the job, which still has to report\n"
_RELEASE_S = 2.0
_PLAIN = re.compile(r"[A-Za-z0-9 _.,:;/=()+-]*")
_CONFLICT = re.compile(
    # Delta on Databricks (conditions and JVM class names), then the wording of delta-rs and of Sail
    r"DELTA_CONCURRENT|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED|Concurrent\w*Exception|MetadataChangedException"
    r"|ProtocolChangedException|[Cc]ommit conflict|[Ff]ailed to commit transaction|version already exists"
)
_TRIES = 8
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0


def get_or_create() -> Any:
    """The session of this job. Raises ImportError without pyspark, and what pyspark raises."""
    from pyspark.sql import SparkSession

    return SparkSession.builder.getOrCreate()


class Unavailable:
    """Stands in for `spark` where there is no engine: a program fails with the reason when it uses it."""

    def __init__(self, reason: BaseException) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"there is no Spark session: {self._reason}") from None


class Session:
    """Hands out the session and guards it."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._spark: Any = None
        self._guarded: dict[type, Any] = {}
        self._ours = True

    @property
    def used(self) -> bool:
        """Return whether the program got a session."""
        return self._spark is not None

    def get(self) -> Any:
        """The session, made on first use, and guarded against `stop`."""
        if self._spark is None:
            self.guard()
            self._ours = not _is_active()
            self._spark = get_or_create()
            self.guard()
            if not is_connect(self._spark):
                # What runs under this group is ours to cancel; a cluster's other jobs are not.
                self._spark.sparkContext.setJobGroup(self._group, self._group, True)
        return self._spark

    def fresh(self) -> Any:
        """A session that works, also where the program broke its own."""
        self._spark = get_or_create()
        return self._spark

    def guard(self) -> None:
        """Make `stop` a warning on every session class that is loaded. Loads nothing itself."""
        names = {
            "pyspark.sql.session": "SparkSession",
            "pyspark.sql.connect.session": "SparkSession",
            "pyspark.core.context": "SparkContext",  # Spark 4
            "pyspark.context": "SparkContext",  # Spark 3
        }
        for module, name in names.items():
            found = getattr(sys.modules.get(module), name, None)
            if isinstance(found, type) and found not in self._guarded and "stop" in vars(found):
                self._guarded[found] = vars(found)["stop"]
                found.stop = _ignored  # type: ignore[attr-defined] # seen just above

    def unguard(self) -> None:
        """Give `stop` back."""
        for guarded, original in self._guarded.items():
            guarded.stop = original  # type: ignore[attr-defined] # it was taken from there
        self._guarded.clear()

    def interrupt(self) -> None:
        """End what the engine is doing for the program, on a best effort."""
        spark = self._spark
        if spark is None:
            return
        try:
            if is_connect(spark):
                spark.interruptAll()
            else:
                spark.sparkContext.cancelJobGroup(self._group)
        except Exception as error:  # noqa: BLE001 -- engines raise anything here; the time-out goes on without it
            sys.stderr.write(f"rlm: Spark could not be interrupted: {error}\n")

    def release(self) -> None:
        """Let go of a session that we made; a server elsewhere keeps it otherwise. Bounded in time."""
        spark = self._spark
        if spark is not None and self._ours and is_connect(spark):
            stopper = threading.Thread(target=spark.stop, name="rlm-release", daemon=True)
            stopper.start()
            stopper.join(_RELEASE_S)


def _ignored(_session: object) -> None:
    sys.stderr.write(_IGNORED)


def is_connect(spark: object) -> bool:
    """Return whether a session is one of Spark Connect, and not classic."""
    return ".connect." in type(spark).__module__


def _is_active() -> bool:
    module = sys.modules.get("pyspark.sql.session")
    if module is None:
        return False
    try:
        return module.SparkSession.getActiveSession() is not None
    except Exception:  # noqa: BLE001 -- a version that cannot tell: then nobody made one before us
        return False


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
