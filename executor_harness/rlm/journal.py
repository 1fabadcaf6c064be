"""The journal of answers: small files in the run's folder, so that a killed program's answers are not lost.

A Volume takes no appends, so each file is written once: with all answers that came while the one before was
being written (group commit). Many small files are joined into one now and then. A file that a kill cut off
loses its last line at most. They go when their answers are in the table.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TypedDict

from executor_harness.rlm.meter import Amount
from executor_harness.volumes import Volumes

_JOINED = 32  # files
_READERS = 16  # at once: a Volume answers each read late, and many at a time
_SUFFIX = ".jsonl"


class Record(TypedDict):
    """An answer as it is kept: a row of the calls table. `at` is UTC, ISO 8601."""

    call_key: str
    run_id: str
    iter_n: int
    attempt: int
    model: str
    answer: str
    error: str | None
    input_tokens: int
    output_tokens: int
    cost_usd: float
    seconds: float
    at: str


class AttemptId(TypedDict):
    """Whose answers they are."""

    run_id: str
    iter_n: int
    attempt: int


def record_of(
    attempt: AttemptId, *, key: str, model: str, answer: str, used: Amount, seconds: float, at: str = ""
) -> Record:
    """An answer as it is kept; `at` is now unless it is given."""
    usage = used.usage(0)
    return {
        **attempt,
        "call_key": key,
        "model": model,
        "answer": answer,
        "error": None,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_usd": usage.cost_usd,
        "seconds": round(seconds, 3),
        "at": at or now(),
    }


def now() -> str:
    """The time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")  # noqa: UP017 -- Python 3.10


class Journal:
    """The files of one program. `note` is called when they cannot be written."""

    def __init__(self, volumes: Volumes, folder: str, stem: str, note: Callable[[str], None]) -> None:
        self._volumes = volumes
        self._folder = folder
        self._stem = f"{stem}_{time.time_ns():x}"  # a second start of an attempt must not overwrite the first
        self._note = note
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._added = 0
        self._written = 0
        self._closed = False
        self._thread: threading.Thread | None = None
        self._files = 0
        self._small: list[tuple[str, bytes]] = []
        self.paths: set[str] = set()

    def add(self, record: Record) -> None:
        """Take an answer; it is being written when this returns."""
        line = json.dumps(record, ensure_ascii=True).encode("ascii") + b"\n"
        with self._changed:
            self._waiting.append(line)
            self._added += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rlm-journal", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float) -> None:
        """Wait until everything added so far is written (or could not be), but no longer than `seconds`."""
        deadline = time.monotonic() + seconds
        with self._changed:
            goal = self._added
            while self._written < goal and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, 0.5))  # an interruption must come through

    def close(self, seconds: float) -> None:
        """Write the rest and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                lines, self._waiting = self._waiting, []
                if not lines:
                    return
            data = b"".join(lines)
            with self._noting_errors():
                self._small.append((self._put(data), data))
            with self._changed:
                self._written += len(lines)
                self._changed.notify_all()
            if len(self._small) >= _JOINED:  # after that: nobody has to wait for it
                self._join()

    def _join(self) -> None:
        small, self._small = self._small, []
        with self._noting_errors():
            self._put(b"".join(data for _, data in small))
            remove(self._volumes, [path for path, _ in small])
            self.paths.difference_update(path for path, _ in small)

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._note(
                f"answers of models could not be written to {self._folder} ({error}): if the job is killed, "
                "they will be asked for again"
            )

    def _put(self, data: bytes) -> str:
        self._files += 1
        path = f"{self._folder}/{self._stem}_{self._files:06d}{_SUFFIX}"
        self._volumes.put(path, data)
        self.paths.add(path)
        return path


def read(volumes: Volumes, folder: str) -> tuple[dict[str, Record], list[str]]:
    """The answers in a run's journal by their keys, and the paths of its files. Raises OSError."""
    local = volumes.local(folder)
    names = sorted(entry.name for entry in local.glob(f"*{_SUFFIX}")) if local.is_dir() else []
    if not names:
        return {}, []
    with ThreadPoolExecutor(_READERS, thread_name_prefix="rlm-journal") as readers:
        texts = list(readers.map(lambda name: volumes.read(f"{folder}/{name}"), names))
    found: dict[str, Record] = {}
    for text in texts:
        found.update(_records(text))
    return found, [f"{folder}/{name}" for name in names]


def remove(volumes: Volumes, paths: Iterable[str]) -> None:
    """Remove files; one that is gone already is no error. Raises OSError."""
    for path in paths:
        volumes.local(path).unlink(missing_ok=True)


def _records(text: bytes) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for line in text.split(b"\n"):
        try:
            record = json.loads(line)
            if isinstance(record["answer"], str) and not record.get("error"):
                found[str(record["call_key"])] = {name: record[name] for name in Record.__annotations__}  # type: ignore[assignment]
        except (ValueError, TypeError, KeyError):
            continue  # cut off, or not ours
    return found
