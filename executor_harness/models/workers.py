"""What Spark's Python workers do for `llm_map`: ask the prompts of one partition.

It needs the standard library and pyarrow, runs from a bundle (`shipping`) with the modules of `BUNDLE`, and
is told everything in one plain dict.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import Any, TypedDict

from executor_harness.models import chat, meter
from executor_harness.models.asking import Answer, Asker, Question
from executor_harness.models.chat import Options
from executor_harness.models.client import Endpoint, Line
from executor_harness.models.journal import Journal, Record
from executor_harness.models.meter import NOTHING, Amount, Meter
from executor_harness.models.pace import Pace
from executor_harness.protocol import Price
from executor_harness.redaction import Redactor
from executor_harness.volumes import Volumes

BUNDLE = (
    *("protocol", "redaction", "volumes"),
    *(
        f"models.{name}"
        for name in ("errors", "chat", "shapes", "client", "pace", "meter", "journal", "asking", "workers")
    ),
)
SCHEMA = (
    "call_key string, answer string, kind string, message string, calls bigint, read bigint, written bigint, "
    "cost bigint, seconds double, at string"
)
_FLUSH_S = 10.0


class Work(TypedDict):
    """How a partition asks: the endpoint with its credential, the question's options, what this partition
    may do at once and per minute (`sent_ago`: seconds since its share of the last minute's calls), whose
    answers they are, and where they are written down at once.
    """

    host: str
    headers: dict[str, str]
    timeout_s: float
    options: dict[str, Any]
    price: Price | None
    calls_each: int
    threads: int
    per_minute: int | None
    sent_ago: list[float]
    run_id: str
    iter_n: int
    attempt: int
    volumes_root: str
    folder: str
    stem: str
    secrets: list[str]


class Row(TypedDict):
    """What became of one prompt. `cost` is in picodollars; `answer` None: `kind` and `message` say why."""

    call_key: str
    answer: str | None
    kind: str | None
    message: str | None
    calls: int
    read: int
    written: int
    cost: int
    seconds: float
    at: str


def ask(work: Work, batches: Iterator[Any]) -> Iterator[Any]:
    """Batches of (key, prompt) in, batches of `Row` out, as answers come."""
    import pyarrow as pa

    prompts = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
    if not prompts:
        return
    partition = _Partition(work, [prompt for _, prompt in prompts])
    with closing(partition):
        for rows in partition.rows(prompts):
            yield pa.RecordBatch.from_pylist(rows, schema=_schema(pa))


def record_of(row: Row, *, model: str, run_id: str, iter_n: int, attempt: int) -> Record:
    """An answered row as it is kept."""
    return {
        "call_key": row["call_key"],
        "run_id": run_id,
        "iter_n": iter_n,
        "attempt": attempt,
        "model": model,
        "answer": row["answer"] or "",
        "error": None,
        "input_tokens": row["read"],
        "output_tokens": row["written"],
        "cost_usd": amount_of(row).usage(0)["cost_usd"],
        "seconds": row["seconds"],
        "at": row["at"],
    }


def amount_of(row: Row) -> Amount:
    """What a row used."""
    return Amount(calls=row["calls"], read=row["read"], written=row["written"], cost=row["cost"])


def now() -> str:
    """The time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class _Partition:
    """Threads, connections and the journal of one partition."""

    def __init__(self, work: Work, prompts: list[str]) -> None:
        self._work = work
        self._options = Options(**work["options"])
        self._stop = threading.Event()
        self._lines = ExitStack()
        self._local = threading.local()
        self._journal = Journal(
            Volumes(root=work["volumes_root"]),
            work["folder"],
            f"{work['stem']}_{random.getrandbits(64):x}",
            lambda _note: None,  # the answers of a wave reach the table anyhow
        )
        endpoint = Endpoint(
            host=work["host"],
            model=self._options.model,
            timeout_s=work["timeout_s"],
            headers=work["headers"],
        )
        self._asker = Asker(
            endpoint=lambda _model: endpoint,
            account=self._account(prompts),
            pace=_Pace(work["per_minute"], work["sent_ago"]),
            prices={} if work["price"] is None else {self._options.model: work["price"]},
            redactor=Redactor(work["secrets"]),
            note=lambda _note: None,
            stop=self._stop,
        )
        self._threads = ThreadPoolExecutor(work["threads"], thread_name_prefix="rlm-map")

    def rows(self, prompts: list[tuple[str, str]]) -> Iterator[list[Row]]:
        """What became of the prompts, some at a time, once the answers among them are on record."""
        left: set[Future[Row]] = {self._threads.submit(self._row, key, prompt) for key, prompt in prompts}
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            self._journal.flush(_FLUSH_S)
            yield [future.result() for future in done]

    def close(self) -> None:
        """Ask nothing any more. What is on its way ends with its connection."""
        self._stop.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._lines.close()
        self._journal.close(_FLUSH_S)

    def _account(self, prompts: list[str]) -> Meter:
        """What was set aside for this partition's prompts: tries and repairs must do with it, too."""
        bound = sum((most_of(prompt, self._options, self._work["price"]) for prompt in prompts), NOTHING)
        each = self._work["calls_each"]
        # A little more than the sum, or the rounding of floats would refuse the last prompt.
        cost = None if self._work["price"] is None else bound.usage(0)["cost_usd"] * each * (1 + 1e-9)
        allowance = {"calls": bound.calls * each, "tokens": bound.tokens * each, "cost_usd": cost}
        return Meter(allowance, lambda _usage: None)  # type: ignore[arg-type] # of the right shape

    def _row(self, key: str, prompt: str) -> Row:
        began = time.monotonic()
        messages = chat.messages_of(prompt, self._options)
        answer = self._asker.ask(Question(key=key, messages=messages, options=self._options), self._line())
        row = _row_of(key, answer, time.monotonic() - began)
        if answer.text is not None:
            work = self._work
            self._journal.add(
                record_of(
                    row,
                    model=self._options.model,
                    run_id=work["run_id"],
                    iter_n=work["iter_n"],
                    attempt=work["attempt"],
                )
            )
        return row

    def _line(self) -> Line:
        line: Line | None = getattr(self._local, "line", None)
        if line is None:
            line = Line(self._work["host"], self._work["timeout_s"])
            self._local.line = self._lines.enter_context(closing(line))
        return line


class _Pace(Pace):
    """One that remembers calls of an earlier wave."""

    def __init__(self, per_minute: int | None, sent_ago: list[float]) -> None:
        super().__init__(per_minute, time.monotonic)
        now = time.monotonic()
        self._sent.extend(sorted(now - age for age in sent_ago))


def most_of(prompt: str, options: Options, price: Price | None) -> Amount:
    """The most that asking a prompt once may use."""
    return meter.most(chat.messages_of(prompt, options), options, price)


def _row_of(key: str, answer: Answer, seconds: float) -> Row:
    kind, message = (None, None) if answer.text is not None else (answer.kind, answer.message)
    if kind == "budget" and answer.used.calls:
        message = "no usable reply, and what was set aside for this prompt is used up"
    return {
        "call_key": key,
        "answer": answer.text,
        "kind": kind,
        "message": message,
        "calls": answer.used.calls,
        "read": answer.used.read,
        "written": answer.used.written,
        "cost": answer.used.cost,
        "seconds": seconds,
        "at": now(),
    }


def _schema(pa: Any) -> Any:
    kinds = {"string": pa.string(), "bigint": pa.int64(), "double": pa.float64()}
    return pa.schema([(name, kinds[kind]) for name, kind in (part.split() for part in SCHEMA.split(", "))])
