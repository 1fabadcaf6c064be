"""`rlm.llm_map`: one question per row, asked where Spark runs, each distinct prompt once.

Prompts and their keys are expressions of the engine, look-ups are joins with the calls table, and the result
is a join with it, too: neither rows nor prompts pass through this process. Only answers do, a wave at a time,
on their way into the table. A wave's answers are in the run's journal as soon as they are there, so a kill
loses what was in flight and no more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from executor_harness.rlm import answers, journal, map_sql, meter, workers
from executor_harness.rlm.chat import BudgetExhausted, Options, Tokens
from executor_harness.rlm.map_sql import Part, calls_each, spread_of, waves
from executor_harness.rlm.meter import Amount
from executor_harness.rlm.model_calls import ModelCalls
from executor_harness.rlm.workers import Row, Work
from executor_harness.spark import is_connect

KEY, PROMPT, BUCKET = "__rlm_key", "__rlm_prompt", "__rlm_bucket"
ANSWER, ERROR = "__rlm_answer", "__rlm_error"
_WAVE = 16  # prompts for each call at once: the end of a wave, when calls run out, is a small part of it
_BUCKETS = 1024  # parts by key, of which waves are made
_WAVE_BYTES = 256 * 1024 * 1024
_RECORD_S = 60.0
_ERRORS = 100_000  # held in this process; with so many there is something wrong beyond single prompts


def llm_map(calls: ModelCalls, df: Any, text: str, output_col: str, **options: Any) -> Any:
    """`df` with two columns more: the answer to `text`, filled from each row's columns, and `…_error`.

    `text` names columns as `{column}`; options are those of `query_batched`. All rows are kept, in no
    promised order. A row of which a named column is NULL is not asked: its answer is NULL, and so is its
    error. A prompt without an answer has NULL and the reason. With a schema, answers are JSON texts of that
    shape. Raises ValueError for a template or column name that does not fit, BudgetExhausted when the budget
    is too small for all prompts that have no answer yet (nothing is asked then), and what the engine raises.
    """
    calls.check_process()
    if not hasattr(df, "withColumn"):
        raise TypeError(
            f"rlm.llm_map: df must be a Spark DataFrame, not {type(df).__name__}: make one with "
            "spark.createDataFrame, or use rlm.llm_query_batched"
        )
    chosen = calls.options(**options)
    names = list(df.columns)
    _check_names(names, output_col)
    filled = map_sql.prompt(df, map_sql.parse(text, names))
    prompts = df.select(filled.alias(PROMPT)).where(f"{PROMPT} IS NOT NULL").distinct()
    keyed = prompts.withColumn(KEY, map_sql.key(_column(PROMPT), chosen))
    mapper = _Mapper(calls, keyed, chosen)
    mapper.run()
    rows = df.withColumn(KEY, map_sql.key(filled, chosen))
    return _joined(calls, rows, output_col, mapper.errors, mapper.rest)


class _Mapper:
    """Asks what has no answer yet. `errors` are by key; `rest` is why prompts beyond those were not asked."""

    def __init__(self, calls: ModelCalls, keyed: Any, options: Options) -> None:
        self._calls = calls
        self._keyed = keyed
        self._options = options
        self._price = calls.access.prices.get(options.model)
        self._stem = f"map_{calls.attempt['iter_n']}_{calls.attempt['attempt']}_{time.time_ns():x}"
        self.errors: dict[str, str] = {}
        self.rest = "the rows were not the same when they were read again: keep them in a table first"

    def run(self) -> None:
        """Ask, a wave at a time. Raises BudgetExhausted before anything is asked."""
        self._store_earlier()
        total = self._keyed.count()
        parts = self._parts()
        missing = sum(part.prompts for part in parts)
        self._calls.meter.count_cached(total - missing)
        if parts:
            self._afford(parts)
        answered = number = 0
        while parts:
            part, parts = self._next(parts)
            found = self._wave(number, part)
            answered, number = answered + found, number + 1
            if not self._goes_on(found):
                break
        self._calls.note(
            f"llm_map: {total} prompts: {total - missing} had an answer, {answered} were answered now, "
            f"{missing - answered} have none"
        )

    def _parts(self) -> list[Part]:
        """Return the prompts without an answer, by bucket."""
        from pyspark.sql import functions as F  # noqa: N812 -- everybody's name for it

        counted = (
            self._missing()
            .groupBy(BUCKET)
            .agg(F.count(F.lit(1)).alias("prompts"), F.sum(F.octet_length(PROMPT)).alias("size"))
        )
        return [
            Part(first=row[0], last=row[0], prompts=row[1], size=row[2])
            for row in sorted(counted.collect(), key=lambda row: int(row[0]))
        ]

    def _missing(self) -> Any:
        from pyspark.sql import functions as F  # noqa: N812 -- as above

        known = _known(self._calls).select(_column("call_key").alias(KEY))
        bucket = F.pmod(F.xxhash64(KEY), F.lit(_BUCKETS)).cast("int")
        return self._keyed.join(known, KEY, "left_anti").withColumn(BUCKET, bucket)

    def _afford(self, parts: list[Part]) -> None:
        """Raise BudgetExhausted where the budget surely has no room for everything, or for nothing."""
        whole = waves(parts)[0]
        least = meter.used(Tokens(read=0, written=whole.prompts), self._price)
        smallest = min(parts, key=lambda part: part.size).bound(self._options, self._price)
        for amount in (replace(least, calls=whole.prompts), smallest):
            if lack := self._calls.meter.lack(amount):
                raise BudgetExhausted(
                    f"rlm.llm_map has {whole.prompts} prompts to ask, each with a reply of up to "
                    f"{self._options.max_tokens} tokens, and asked none: {lack}"
                )

    def _next(self, parts: list[Part]) -> tuple[Part, list[Part]]:
        """The next wave, no larger than what is left to spend at its most, and what comes after it."""
        most: float = _WAVE * self._calls.access.concurrency
        while True:
            wave = waves(parts, most, _WAVE_BYTES)[0]
            if wave.first == wave.last or not self._calls.meter.lack(wave.bound(self._options, self._price)):
                return wave, [part for part in parts if part.first > wave.last]
            most = wave.prompts // 2

    def _wave(self, number: int, part: Part) -> int:
        """Ask a part; how many answers came."""
        calls, bound = self._calls, part.bound(self._options, self._price)
        try:
            calls.meter.announce(bound)
            admitted = calls.meter.admit(bound)
        except BudgetExhausted as error:  # something else in the program spent it meanwhile
            self.rest = f"budget: {error}"
            return 0
        if admitted is None:
            self.rest = "stopped: the program was at its end"
            return 0
        rows: list[Row] = []
        try:
            for row in self._rows(part, f"{self._stem}_{number}"):
                rows.append(row)
                used = workers.amount_of(row)
                calls.meter.part(admitted, self._freed(used), used)
        finally:
            # What the workers did not report, after an interruption: they may have asked it, and may go on
            # for a moment.
            unknown = max(0, part.prompts - len(rows))
            calls.meter.settle(admitted, bound.share(unknown, part.prompts))
        calls.meter.record_spent()
        self._keep(rows)
        self._remove(f"{self._stem}_{number}")
        return sum(row["answer"] is not None for row in rows)

    def _freed(self, used: Amount) -> Amount:
        """Estimate the reservation of a prompt that used so much: its size is not known."""
        calls = calls_each(self._options)
        tokens = Tokens(read=used.read, written=calls * self._options.max_tokens)
        return replace(meter.used(tokens, self._price), calls=calls)

    def _rows(self, part: Part, stem: str) -> Iterator[Row]:
        """The outcomes of a part's prompts, as the engine returns them."""
        chosen = self._missing().where(_column(BUCKET).between(part.first, part.last)).select(KEY, PROMPT)
        by_engine = self._plan_of_engine(chosen)
        if by_engine is not None:
            answered, redact = self._streamed(by_engine), self._calls.redactor.text
            yield from map_sql.ai_query_rows(answered, self._options, self._price, redact)
            return
        with self._calls.pool.lend() as at_once:
            yield from self._by_workers(chosen, part, stem, at_once)

    def _by_workers(self, chosen: Any, part: Part, stem: str, at_once: int) -> Iterator[Row]:
        """Return the reports of Spark's workers, with so many calls at once."""
        rate = self._calls.rate
        # Taken before the limit is shared out: what anybody of this program sent within the last minute.
        sent_ago, per_minute = rate.ages(), rate.lend()
        began: list[float] = []
        try:
            access = replace(self._calls.access, concurrency=at_once, per_minute=per_minute)
            partitions, threads = spread_of(access, part.prompts)
            work = self._work(threads, sent_ago[::partitions], stem)
            work["per_minute"] = None if per_minute is None else per_minute // partitions
            plan = chosen.repartition(partitions).mapInArrow(workers.mapper(work), workers.SCHEMA)
            for row in self._streamed(plan):
                began.append(time.monotonic() - row["seconds"])
                yield row.asDict()
        finally:
            now = time.monotonic()
            unknown = min(part.prompts - len(began), per_minute or 0)  # sent just now, for all we know
            rate.give_back([*(now - one for one in began), *[0.0] * unknown])

    def _streamed(self, plan: Any) -> Iterable[Any]:
        """Rows as they come, where the engine streams (Spark Connect); elsewhere that would be one partition
        at a time.
        """
        is_streaming = is_connect(self._calls.session())
        rows: Iterable[Any] = plan.toLocalIterator() if is_streaming else plan.collect()
        return rows

    def _plan_of_engine(self, chosen: Any) -> Any:
        """How the engine would ask by itself; None where it cannot."""
        if not map_sql.has_ai_query(self._calls.session()):
            return None
        try:
            return map_sql.ai_query_plan(chosen, self._options)
        except Exception as error:  # noqa: BLE001 -- noted in the log; the workers ask then
            self._calls.note(
                f"llm_map: ai_query does not take the call ({type(error).__name__}: {error}); "
                "Spark's workers ask instead"
            )
            return None

    def _work(self, threads: int, sent_ago: list[float], stem: str) -> Work:
        calls, price = self._calls, self._price
        endpoint = calls.credentials().endpoint(self._options.model, calls.access.timeout_s)
        return {
            "endpoint": vars(endpoint),
            "options": vars(self._options),
            "price": None if price is None else (price.input_usd, price.output_usd),
            "calls_each": calls_each(self._options),
            "threads": threads,
            "per_minute": None,
            "sent_ago": sent_ago,
            "attempt": calls.attempt,
            "volumes_root": calls.volumes.root,
            "folder": calls.folder,
            "stem": stem,
            "secrets": list(calls.redactor.secrets),
        }

    def _keep(self, rows: list[Row]) -> None:
        """Put answers into the table, and remember failures."""
        calls = self._calls
        records = [
            workers.record_of_row(row, calls.attempt, self._options.model)
            for row in rows
            if row["answer"] is not None
        ]
        answers.append(calls.session(), calls.access.calls_table, records)
        calls.answers.appeared(record["call_key"] for record in records)
        for row in rows:
            if row["answer"] is None:
                self.errors[row["call_key"]] = f"{row['kind']}: {row['message']}"

    def _store_earlier(self) -> None:
        """Store answers that are only in the journal, of this program or an earlier one that was killed."""
        calls = self._calls
        calls.answers.journal.flush(_RECORD_S)
        records, _ = journal.read(calls.volumes, calls.folder)
        if records:
            answers.append(calls.session(), calls.access.calls_table, list(records.values()))

    def _remove(self, stem: str) -> None:
        folder = self._calls.volumes.local(self._calls.folder)
        for path in folder.glob(f"{stem}_*"):
            path.unlink(missing_ok=True)

    def _goes_on(self, answered: int) -> bool:
        """Return whether to ask more: not when a whole wave got no answer, or errors are too many to hold."""
        if answered and len(self.errors) < _ERRORS:
            return True
        if self.errors:
            last = next(reversed(self.errors.values()))
            self.rest = f"stopped: {len(self.errors)} prompts before this one got no answer; the last: {last}"
        return False


def _known(calls: ModelCalls) -> Any:
    """The answers in the table as they are now."""
    table = calls.session().table(calls.access.calls_table)
    return table.where("answer IS NOT NULL AND error IS NULL").select("call_key", "answer")


def _joined(calls: ModelCalls, rows: Any, output_col: str, errors: dict[str, str], rest: str) -> Any:
    """All rows with their answers, lazily; the errors are those of now."""
    from pyspark.sql import functions as F  # noqa: N812 -- everybody's name for it

    found = _known(calls).select(_column("call_key").alias(KEY), _column("answer").alias(ANSWER))
    # A platform may still let two rows of one key through.
    rows = rows.join(found.dropDuplicates([KEY]), KEY, "left")
    reason = F.lit(rest)
    if errors:
        known = calls.session().createDataFrame(list(errors.items()), f"{KEY} string, {ERROR} string")
        rows = rows.join(known, KEY, "left")
        reason = F.coalesce(_column(ERROR), reason)
    without = _column(KEY).isNotNull() & _column(ANSWER).isNull()
    rows = rows.withColumn(f"{output_col}_error", F.when(without, reason)).drop(KEY, ERROR)
    return rows.withColumnRenamed(ANSWER, output_col)


def _check_names(columns: list[str], output_col: str) -> None:
    taken = {name.casefold() for name in columns}
    if len(taken) < len(columns):
        raise ValueError("rlm.llm_map: two columns have the same name; rename one first")
    for name in (output_col, f"{output_col}_error"):
        if not isinstance(output_col, str) or not output_col or name.casefold() in taken:
            raise ValueError(
                f"rlm.llm_map: {name!r} cannot be a new column of {', '.join(columns)}; choose another"
            )


def _column(name: str) -> Any:
    from pyspark.sql import functions as F  # noqa: N812 -- as above

    return F.col(name)
