"""The part of `llm_map` in Spark's Python workers: ask the prompts of one partition.

It needs the standard library and pyarrow, and gets everything in one plain dict (`Work`).
"""

from __future__ import annotations

import pkgutil
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from typing import Any, TypedDict

from executor_harness import protocol
from executor_harness.protocol import Allowance, Price
from executor_harness.redaction import Redactor
from executor_harness.rlm import chat
from executor_harness.rlm.asker import Asker
from executor_harness.rlm.chat import Options, Question
from executor_harness.rlm.client import Connection, Endpoint
from executor_harness.rlm.journal import AttemptId, Journal, Record, now, record_of
from executor_harness.rlm.meter import NOTHING, Amount, Meter, RateLimit, most_of
from executor_harness.volumes import Volumes

_PACKAGE = "executor_harness"
_MODULES = (
    *("protocol", "redaction", "volumes"),
    *(f"rlm.{name}" for name in ("chat", "client", "meter", "journal", "asker", "workers")),
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

    endpoint: dict[str, Any]
    options: dict[str, Any]
    price: tuple[float, float] | None
    calls_each: int
    threads: int
    per_minute: int | None
    sent_ago: list[float]
    attempt: AttemptId
    volumes_root: str
    folder: str
    stem: str
    secrets: list[str]


class Row(TypedDict):
    """The outcome of one prompt. `cost` is in picodollars; `answer` None: `kind` and `message` say why."""

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


def amount_of(row: Row) -> Amount:
    """Return the usage of a row."""
    return Amount(calls=row["calls"], read=row["read"], written=row["written"], cost=row["cost"])


def row_of(
    key: str, text: str | None, kind: str | None, message: str | None, used: Amount, *, seconds: float
) -> Row:
    """A row that says what became of a prompt just now."""
    return {
        "call_key": key,
        "answer": text,
        "kind": kind,
        "message": message,
        "calls": used.calls,
        "read": used.read,
        "written": used.written,
        "cost": used.cost,
        "seconds": seconds,
        "at": now(),
    }


class _Partition:
    """Threads, connections and the journal of one partition."""

    def __init__(self, work: Work, prompts: list[str]) -> None:
        self._work = work
        self._options = Options(**work["options"])
        price = work["price"]
        self._price = None if price is None else Price(input_usd=price[0], output_usd=price[1])
        self._stop = threading.Event()
        self._connections = ExitStack()
        self._local = threading.local()
        self._journal = Journal(
            Volumes(root=work["volumes_root"]),
            work["folder"],
            f"{work['stem']}_{random.getrandbits(64):x}",
            lambda _note: None,  # the answers of a wave reach the table anyhow
        )
        self._endpoint = Endpoint(**work["endpoint"])
        self._asker = Asker(
            endpoint=lambda _model: self._endpoint,
            meter=self._meter(prompts),
            rate=RateLimit(work["per_minute"], time.monotonic, work["sent_ago"]),
            prices={} if self._price is None else {self._options.model: self._price},
            redactor=Redactor(work["secrets"]),
            note=lambda _note: None,
            stop=self._stop,
        )
        self._threads = ThreadPoolExecutor(work["threads"], thread_name_prefix="rlm-map")

    def rows(self, prompts: list[tuple[str, str]]) -> Iterator[list[Row]]:
        """Yield the outcomes of the prompts, some at a time, once their answers are on record."""
        left: set[Future[Row]] = {self._threads.submit(self._row, key, prompt) for key, prompt in prompts}
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            self._journal.flush(_FLUSH_S)
            yield [future.result() for future in done]

    def close(self) -> None:
        """Ask nothing any more. What is on its way ends with its connection."""
        self._stop.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._connections.close()
        self._journal.close(_FLUSH_S)

    def _meter(self, prompts: list[str]) -> Meter:
        """The share reserved for this partition's prompts, retries and repairs included."""
        whole = sum((most_of(prompt, self._options, self._price) for prompt in prompts), NOTHING)
        whole *= self._work["calls_each"]
        # A little more than the sum, or the rounding of floats would refuse the last prompt.
        cost = None if self._price is None else whole.usage(0).cost_usd * (1 + 1e-9)
        allowance = Allowance(calls=whole.calls, tokens=whole.tokens, cost_usd=cost)
        return Meter(allowance, lambda _usage: None)

    def _row(self, key: str, prompt: str) -> Row:
        began = time.monotonic()
        messages = chat.messages_of(prompt, self._options)
        question = Question(key=key, messages=messages, options=self._options)
        answer = self._asker.ask(question, self._connection())
        seconds = time.monotonic() - began
        if answer.text is None:
            message = answer.message
            if answer.kind == "budget" and answer.used.calls:
                message = "no usable reply, and what was set aside for this prompt is used up"
            return row_of(key, None, answer.kind, message, answer.used, seconds=seconds)
        row = row_of(key, answer.text, None, None, answer.used, seconds=seconds)
        self._journal.add(record_of_row(row, self._work["attempt"], self._options.model))
        return row

    def _connection(self) -> Connection:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = Connection(self._endpoint.host, self._endpoint.timeout_s)
            self._local.connection = self._connections.enter_context(closing(connection))
        return connection


def record_of_row(row: Row, attempt: AttemptId, model: str) -> Record:
    """An answered row as it is kept."""
    return record_of(
        attempt,
        key=row["call_key"],
        model=model,
        answer=row["answer"] or "",
        used=amount_of(row),
        seconds=row["seconds"],
        at=row["at"],
    )


def _schema(pa: Any) -> Any:
    kinds = {"string": pa.string(), "bigint": pa.int64(), "double": pa.float64()}
    return pa.schema([(name, kinds[kind]) for name, kind in (part.split() for part in SCHEMA.split(", "))])


def sources() -> dict[str, str]:
    """The sources of `_MODULES` by their names, under a package name of their own."""
    found = {name: _source(name) for name in _MODULES}
    alias = f"_rlm_{protocol.digest(found)[:16]}"
    packages = {alias, *(f"{alias}.{name.rpartition('.')[0]}" for name in _MODULES if "." in name)}
    named = {f"{alias}.{name}": text.replace(_PACKAGE, alias) for name, text in found.items()}
    return {**dict.fromkeys(sorted(packages), ""), **named}


def _source(name: str) -> str:
    data = pkgutil.get_data(_PACKAGE, f"{name.replace('.', '/')}.py")  # from a folder or a zip
    assert data is not None
    return data.decode("utf-8")


def mapper(work: Work) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """`ask(work, batches)` as a function of batches for `mapInArrow`.

    Spark's workers have no harness installed, or may have met another version: the sources travel with the
    function, and are imported there under a name made of their content.
    """
    from pyspark.cloudpickle import register_pickle_by_value

    register_pickle_by_value(sys.modules[__name__])
    texts = sources()
    name = f"{min(texts)}.rlm.workers"

    def run(batches: Iterator[Any]) -> Iterator[Any]:
        yield from _imported(name, texts).ask(work, batches)

    return run


def _imported(name: str, texts: dict[str, str]) -> Any:
    """A module of the bundle. Runs in the worker, where this module is a copy without a file."""
    import importlib
    import importlib.abc
    import importlib.util
    import sys

    class Bundle(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
        """Finds and loads the modules of the bundle; the import system sees to threads."""

        def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002
            if fullname not in texts:
                return None
            return importlib.util.spec_from_loader(fullname, self, is_package=not texts[fullname])

        def get_source(self, fullname: str) -> str:
            return texts[fullname]

        def is_package(self, fullname: str) -> bool:
            return not texts[fullname]

    if name not in sys.modules:
        sys.meta_path.append(Bundle())  # perhaps twice, by two threads: the first one is asked
    return importlib.import_module(name)
