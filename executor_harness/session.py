"""The Spark session: made when first needed, never ended by the program, interrupted at a time-out.

Works over Py4J (classic clusters) and over Spark Connect (serverless, the local workspace) alike.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

_IGNORED = "rlm: spark.stop() was ignored: the session belongs to the job, which still has to report\n"
_RELEASE_S = 2.0


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
            if not _is_connect(self._spark):
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
            if _is_connect(spark):
                spark.interruptAll()
            else:
                spark.sparkContext.cancelJobGroup(self._group)
        except Exception as error:  # noqa: BLE001 -- engines raise anything here; the time-out goes on without it
            sys.stderr.write(f"rlm: Spark could not be interrupted: {error}\n")

    def release(self) -> None:
        """Let go of a session that we made; a server elsewhere keeps it otherwise. Bounded in time."""
        spark = self._spark
        if spark is not None and self._ours and _is_connect(spark):
            stopper = threading.Thread(target=spark.stop, name="rlm-release", daemon=True)
            stopper.start()
            stopper.join(_RELEASE_S)


def _ignored(_session: object) -> None:
    sys.stderr.write(_IGNORED)


def _is_connect(spark: object) -> bool:
    return ".connect." in type(spark).__module__


def _is_active() -> bool:
    module = sys.modules.get("pyspark.sql.session")
    if module is None:
        return False
    try:
        return module.SparkSession.getActiveSession() is not None
    except Exception:  # noqa: BLE001 -- a version that cannot tell: then nobody made one before us
        return False
