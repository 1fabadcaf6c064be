"""Answers that are there already, and where new ones go: the run's journal, and the table for every run.

A question that was answered once is not asked again: not by this program, not by the next one of the run,
whatever ended this one (journal), and not by another run (table). Failures are not kept.

Many answers go into the table at once, as data: no statement has to spell them. Measured with pysail 0.7.2,
1,024 answers: 0.05 s, where MERGEs from VALUES take 1.8 s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from executor_harness.leftovers import failure_within
from executor_harness.rlm import journal
from executor_harness.rlm.journal import Journal, Record
from executor_harness.spark import commit, quoted
from executor_harness.volumes import Volumes

_KEYS = 2_000  # in one look-up
_KEPT_S = 60.0  # for the journal to take an answer
_TRIES, _PAUSE_S = 3, 0.2
_ROWS, _CHARS = 5_000, 16_000_000  # in one MERGE; the commits are what takes time on a large table
_COLUMNS = (
    "call_key string, run_id string, iter_n bigint, attempt bigint, model string, answer string, "
    "error string, input_tokens bigint, output_tokens bigint, cost_usd double, seconds double, at string"
)
_FIND = (
    "SELECT call_key, answer FROM {table} WHERE call_key IN ({keys}) AND answer IS NOT NULL AND error IS NULL"
)
_MERGE = """MERGE INTO {table} AS t
USING (SELECT {source} FROM {view}) AS s
ON t.call_key = s.call_key
WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"""


@dataclass(kw_only=True)
class Answers:
    """The answers that one program finds and leaves: in a calls table, and in the run's journal folder (a
    Volume path), to which `journal` adds. `note` takes lines for the log.
    """

    table: str
    folder: str
    volumes: Volumes
    session: Callable[[], Any]
    journal: Journal
    note: Callable[[str], None]
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _known: dict[str, str] = field(init=False, default_factory=dict)
    # Looked up in vain: the table is not asked for them twice.
    _absent: set[str] = field(init=False, default_factory=set)
    _pending: dict[str, Record] = field(init=False, default_factory=dict)
    _earlier_files: list[str] | None = field(init=False, default=None)
    _table_works: bool = field(init=False, default=True)

    def find(self, keys: Iterable[str], prepare: Callable[[int], None]) -> dict[str, str]:
        """The answers that are there, by key. Calls the engine once for what is known nowhere nearer, and
        before it `prepare` with how many these are.
        """
        wanted = list(dict.fromkeys(keys))
        with self._lock:
            self._read_earlier()
            unknown = [key for key in wanted if key not in self._known and key not in self._absent]
        if unknown:
            prepare(len(unknown))
        found = self._look_up(unknown) if unknown and self._table_works else {}
        with self._lock:
            self._known.update(found)
            self._absent.update(key for key in unknown if key not in found)
            return {key: self._known[key] for key in wanted if key in self._known}

    def keep(self, record: Record) -> None:
        """Take a new answer: in the journal when this returns, if it can be written; in the table at the end.

        Whoever asks goes on only then: so a killed program has no more prompts to ask again than may be on
        their way at once.
        """
        self.journal.add(record)
        with self._lock:
            self._known[record["call_key"]] = record["answer"]
            self._pending[record["call_key"]] = record
        self.journal.flush(_KEPT_S)

    def appeared(self, keys: Iterable[str]) -> None:
        """Others have put answers to these into the table."""
        with self._lock:
            self._absent.difference_update(keys)

    def store(self) -> None:
        """Put everything into the table, then remove the journal. Raises what the engine raises."""
        with self._lock:
            self._read_earlier()
            records = list(self._pending.values())
        if records:
            append(self.session(), self.table, records)
        journal.remove(self.volumes, [*(self._earlier_files or []), *self.journal.paths])
        with self._lock:
            for record in records:
                self._pending.pop(record["call_key"], None)

    def close(self, seconds: float) -> None:
        """Store within that time; whatever is not done stays in the journal for the next program."""
        with self._lock:
            if not self._pending:
                return
        if failure := failure_within(seconds, self.store):
            self.note(
                f"{len(self._pending)} answers of models are not in {self.table} yet ({failure}); "
                "they wait in the run's folder for its next program that asks a model"
            )

    def _read_earlier(self) -> None:
        """Read what an earlier program of the run could not store; once."""
        if self._earlier_files is not None:
            return
        self._earlier_files = []
        try:
            records, self._earlier_files = journal.read(self.volumes, self.folder)
        except OSError as error:
            self.note(f"earlier answers in {self.folder} could not be read: {error}")
            return
        self._known.update({key: record["answer"] for key, record in records.items()})
        self._pending.update(records)

    def _look_up(self, keys: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        try:
            spark = self.session()
            for start in range(0, len(keys), _KEYS):
                found.update(self._rows(spark, keys[start : start + _KEYS]))
        except Exception as error:  # noqa: BLE001 -- noted in the log; engines raise anything
            self._table_works = False
            self.note(
                f"answers of earlier runs could not be looked up in {self.table} "
                f"({type(error).__name__}: {error}): everything new to this run is asked"
            )
        return found

    def _rows(self, spark: Any, keys: list[str]) -> dict[str, str]:
        text = _FIND.format(table=quoted(self.table), keys=", ".join(f"'{key}'" for key in keys))
        for left in range(_TRIES - 1, -1, -1):
            try:
                return {row[0]: row[1] for row in spark.sql(text).collect()}
            except Exception:
                if not left:
                    raise
            time.sleep(_PAUSE_S)
        raise AssertionError


def append(spark: Any, table: str, records: Sequence[Record]) -> None:
    """Create the rows that are not there. Raises what the engine raises, after some retries of conflicts."""
    names = [part.split()[0] for part in _COLUMNS.split(", ")]
    for part in parts_of(records):
        view = f"rlm_answers_{time.time_ns():x}"
        rows = [tuple(_encodable(record.get(name)) for name in names) for record in part]
        spark.createDataFrame(rows, _COLUMNS).createOrReplaceTempView(view)
        text = _MERGE.format(
            table=quoted(table),
            source=", ".join("CAST(at AS TIMESTAMP) AS at" if name == "at" else name for name in names),
            view=view,
            names=", ".join(names),
            values=", ".join(f"s.{name}" for name in names),
        )
        try:
            commit(lambda text: spark.sql(text).collect(), text)
        finally:
            spark.catalog.dropTempView(view)


def parts_of(records: Sequence[Record]) -> Iterator[list[Record]]:
    """The records in parts of limited size: each goes to the engine in one message."""
    part: list[Record] = []
    size = 0
    for record in records:
        if part and (len(part) >= _ROWS or size + len(record["answer"]) > _CHARS):
            yield part
            part, size = [], 0
        part.append(record)
        size += len(record["answer"])
    if part:
        yield part


def _encodable(value: object) -> object:
    # A lone surrogate, which JSON may carry and UTF-8 cannot, becomes a question mark.
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
