"""Answers that are there already, and where new ones go: the run's journal, and the table for every run.

A question that was answered once is not asked again: not by this program, not by the next one of the run,
whatever ended this one (journal), and not by another run (table). Failures are not kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from executor_harness.models import journal, table
from executor_harness.models.journal import Journal, Record
from executor_harness.results_table import quoted
from executor_harness.volumes import Volumes

_KEYS = 2_000  # in one look-up
_KEPT_S = 60.0  # for the journal to take an answer
_TRIES, _PAUSE_S = 3, 0.2

_FIND = (
    "SELECT call_key, answer FROM {table} WHERE call_key IN ({keys}) AND answer IS NOT NULL AND error IS NULL"
)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where answers are: the calls table, and the run's journal folder (a Volume path)."""

    table: str
    folder: str


class Answers:
    """The answers that one program finds and leaves. `note` takes lines for the log."""

    def __init__(
        self,
        places: Places,
        volumes: Volumes,
        session: Callable[[], Any],
        written: Journal,
        note: Callable[[str], None],
    ) -> None:
        self._places = places
        self._volumes = volumes
        self._session = session
        self._journal = written
        self._note = note
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self._absent: set[str] = set()  # looked up in vain: the table is not asked for them twice
        self._pending: dict[str, Record] = {}
        self._left_over: list[str] | None = None
        self._table_works = True

    def find(self, keys: Iterable[str], meanwhile: Callable[[int], None]) -> dict[str, str]:
        """The answers that are there, by key. Calls the engine once for what is known nowhere nearer;
        `meanwhile` is told before how many these are.
        """
        wanted = list(dict.fromkeys(keys))
        with self._lock:
            self._read_left_overs()
            unknown = [key for key in wanted if key not in self._known and key not in self._absent]
        if unknown:
            meanwhile(len(unknown))
        looked_up = self._look_up(unknown) if unknown and self._table_works else {}
        with self._lock:
            self._known.update(looked_up)
            self._absent.update(key for key in unknown if key not in looked_up)
            return {key: self._known[key] for key in wanted if key in self._known}

    def keep(self, record: Record) -> None:
        """A new answer: in the journal when this returns, if it can be written; in the table at the end.

        Whoever asks goes on only then: so a killed program has no more prompts to ask again than may be on
        their way at once.
        """
        self._journal.add(record)
        with self._lock:
            self._known[record["call_key"]] = record["answer"]
            self._pending[record["call_key"]] = record
        self._journal.flush(_KEPT_S)

    def appeared(self, keys: Iterable[str]) -> None:
        """Others have put answers to these into the table."""
        with self._lock:
            self._absent.difference_update(keys)

    def flush(self, seconds: float) -> bool:
        """Wait until the answers so far are on record; False when time was too short."""
        return self._journal.flush(seconds)

    def bring_in(self) -> None:
        """Put everything into the table, then take the journal away. Raises what the engine raises."""
        with self._lock:
            self._read_left_overs()
            records = list(self._pending.values())
        if records:
            table.append(self._session(), self._places.table, records)
        journal.remove(self._volumes, [*(self._left_over or []), *self._journal.paths])
        with self._lock:
            for record in records:
                self._pending.pop(record["call_key"], None)

    def close(self, seconds: float) -> None:
        """Bring them in, within that time; whatever is not done stays in the journal for the next program."""
        said: list[str] = []

        def work() -> None:
            try:
                self.bring_in()
            except Exception as error:  # noqa: BLE001 -- said in the log; engines raise anything
                said.append(f"{type(error).__name__}: {str(error)[:300]}")

        with self._lock:
            if not self._pending:
                return
        worker = threading.Thread(target=work, name="rlm-answers", daemon=True)
        worker.start()
        worker.join(seconds)
        if worker.is_alive():
            said.append(f"no answer from the engine within {seconds:g} s")
        if said:
            self._note(
                f"{len(self._pending)} answers of models are not in {self._places.table} yet ({said[0]}); "
                "they wait in the run's folder for its next program that asks a model"
            )

    def _read_left_overs(self) -> None:
        """What an earlier program of the run could not bring in; once."""
        if self._left_over is not None:
            return
        self._left_over = []
        try:
            records, self._left_over = journal.read(self._volumes, self._places.folder)
        except OSError as error:
            self._note(f"earlier answers in {self._places.folder} could not be read: {error}")
            return
        self._known.update({key: record["answer"] for key, record in records.items()})
        self._pending.update(records)

    def _look_up(self, keys: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        try:
            spark = self._session()
            for start in range(0, len(keys), _KEYS):
                found.update(self._rows(spark, keys[start : start + _KEYS]))
        except Exception as error:  # noqa: BLE001 -- said in the log; engines raise anything
            self._table_works = False
            self._note(
                f"answers of earlier runs could not be looked up in {self._places.table} "
                f"({type(error).__name__}: {str(error)[:300]}): everything new to this run is asked"
            )
        return found

    def _rows(self, spark: Any, keys: list[str]) -> dict[str, str]:
        text = _FIND.format(table=quoted(self._places.table), keys=", ".join(f"'{key}'" for key in keys))
        for left in range(_TRIES - 1, -1, -1):
            try:
                return {row[0]: row[1] for row in spark.sql(text).collect()}
            except Exception:
                if not left:
                    raise
            time.sleep(_PAUSE_S)
        raise AssertionError
