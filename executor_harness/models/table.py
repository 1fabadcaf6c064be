"""Many answers into the calls table at once, as data: no statement has to spell them.

Measured with pysail 0.7.2, 1,024 answers: 0.05 s, where MERGEs from VALUES take 1.8 s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from executor_harness.models.journal import Record
from executor_harness.results_table import commit, quoted

_ROWS, _CHARS = 5_000, 16_000_000  # in one MERGE; the commits are what takes time on a large table
_COLUMNS = (
    "call_key string, run_id string, iter_n bigint, attempt bigint, model string, answer string, "
    "error string, input_tokens bigint, output_tokens bigint, cost_usd double, seconds double, at string"
)
_MERGE = """MERGE INTO {table} AS t
USING (SELECT {source} FROM {view}) AS s
ON t.call_key = s.call_key
WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"""


def append(spark: Any, table: str, records: Sequence[Record]) -> None:
    """Create the rows that are not there. Raises what the engine raises, after bounded retries of
    conflicts.
    """
    for part in parts_of(records):
        _append(spark, table, part)


def parts_of(records: Sequence[Record]) -> Iterator[list[Record]]:
    """The records in parts of bounded size: each goes to the engine in one message."""
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


def _append(spark: Any, table: str, records: Sequence[Record]) -> None:
    names = [part.split()[0] for part in _COLUMNS.split(", ")]
    view = f"rlm_answers_{time.time_ns():x}"
    rows = [tuple(_plain(record.get(name)) for name in names) for record in records]
    spark.createDataFrame(rows, _COLUMNS).createOrReplaceTempView(view)
    text = _MERGE.format(
        table=quoted(table),
        source=", ".join("CAST(at AS TIMESTAMP) AS at" if name == "at" else name for name in names),
        view=view,
        names=", ".join(names),
        values=", ".join(f"s.{name}" for name in names),
    )
    try:
        commit(lambda text: spark.sql(text).collect(), text, sleep=time.sleep)
    finally:
        spark.catalog.dropTempView(view)


def _plain(value: object) -> object:
    # A lone surrogate, which JSON may carry and UTF-8 cannot, becomes a question mark.
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
