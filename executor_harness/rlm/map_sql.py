"""`llm_map` as expressions of Spark: prompts, their keys, and `ai_query`, so that no row leaves the engine.

The key of a prompt (`chat.key_of`) is an expression too: look-ups of answers are joins. It spells JSON as
`protocol.canonical_json` does; a test holds the two in step.

`ai_query` is a model call that the engine makes itself, where it can (Databricks). From the documentation as
remembered, to be verified on a live workspace: the named arguments `failOnError`, `modelParameters` and
`responseFormat`, and that with `failOnError => false` the result is a struct of the answer and an error
message, in that order. The engine retries and limits its rate by itself, and reports no usage: a call counts
as many tokens as its texts have bytes, which is never too little.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from executor_harness import protocol
from executor_harness.protocol import ModelAccess, Price
from executor_harness.rlm import chat
from executor_harness.rlm.chat import Options, Tokens
from executor_harness.rlm.meter import Amount, most_of, used
from executor_harness.rlm.workers import Row, row_of
from executor_harness.spark import literal

_SENTINEL = "<rlm:prompt:8d1f4c>"  # stands for the prompt where the rest of its key is spelt out
_PARTITIONS = 8  # they run at once on all but the smallest clusters
_STRUCTURED = frozenset({"array", "map", "struct", "variant"})


def parse(template: str, columns: Sequence[str]) -> list[tuple[str, str | None]]:
    """A template as pairs of a literal text and the column that follows it (None: none).

    Raises ValueError for what is not a plain `{column}`, for a column that is not there, and without any.
    """
    hint = "rlm.llm_map: a template names columns as {column}; write {{ and }} for braces"
    try:
        found = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{hint}: {error}") from None
    parts: list[tuple[str, str | None]] = []
    for text, name, spec, conversion in found:
        if name is not None and (spec or conversion or name not in columns):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ValueError(f"{hint}: {{{shown}}} is no column; the columns are: {', '.join(columns)}")
        parts.append((text, name))
    if not any(name is not None for _, name in parts):
        raise ValueError(f"{hint}: it names none, so every row would ask the same; use rlm.llm_query")
    return parts


def prompt(df: Any, parts: Sequence[tuple[str, str | None]]) -> Any:
    """The prompt of each row, as a column; NULL where one of its columns is. Structures go as JSON."""
    from pyspark.sql import functions as F  # noqa: N812 -- everybody's name for it

    kinds = {field.name: field.dataType.typeName() for field in df.schema.fields}
    pieces = []
    for text, name in parts:
        if text:
            pieces.append(F.lit(text))
        if name is not None:
            column = F.col(f"`{name.replace('`', '``')}`")
            pieces.append(F.to_json(column) if kinds[name] in _STRUCTURED else column.cast("string"))
    return F.concat(*pieces)


def key(prompt: Any, options: Options) -> Any:
    """`chat.key_of` of each prompt, as a column; NULL for NULL."""
    from pyspark.sql import functions as F  # noqa: N812 -- as above

    messages = chat.messages_of(_SENTINEL, options)
    whole = [options.model, messages, options.schema, options.temperature, options.max_tokens]
    before, after = protocol.canonical_json(whole).split(_SENTINEL)
    escaped = prompt
    for character in ["\\", '"', *map(chr, range(0x20))]:  # as within the quotes of JSON, backslash first
        spelt = protocol.canonical_json(character)[1:-1]
        escaped = F.replace(escaped, F.lit(character), F.lit(spelt))
    return F.sha2(F.concat(F.lit(before), escaped, F.lit(after)), 256)


def has_ai_query(spark: Any) -> bool:
    """Return whether the engine has it: a look at its list of functions, which calls no model."""
    try:
        return bool(spark.sql("SHOW FUNCTIONS LIKE 'ai_query'").collect())
    except Exception:  # noqa: BLE001 -- an engine that cannot list its functions is asked no more of
        return False


def ai_query_plan(prompts: Any, options: Options) -> Any:
    """Prompts (key, prompt) with the size in bytes and `ai_query`'s reply; asks nothing yet. Raises what the
    engine raises when it does not take the call.
    """
    from pyspark.sql import functions as F  # noqa: N812 -- as above

    key, prompt = prompts.columns
    asked = prompts.select(key, F.octet_length(prompt), F.expr(ai_query(prompt, options)).alias("reply"))
    asked.schema  # noqa: B018 -- has the engine look at it
    return asked


def ai_query(prompt: str, options: Options) -> str:
    """The call for one row, in SQL. A system prompt goes before the prompt itself."""
    request = f"`{prompt}`"
    if options.system:
        request = f"concat({literal(options.system)}, '\n\n', {request})"
    parameters = [f"'max_tokens', {options.max_tokens}"]
    if options.temperature is not None:
        parameters.append(f"'temperature', {options.temperature!r}D")
    named = ["failOnError => false", f"modelParameters => named_struct({', '.join(parameters)})"]
    if options.schema is not None:
        named.append(f"responseFormat => {literal(json.dumps(chat.response_format(options.schema)))}")
    return f"ai_query({literal(options.model)}, {request}, {', '.join(named)})"


def ai_query_rows(
    answered: Iterable[Any], options: Options, price: Price | None, redact: Callable[[str], str]
) -> Iterator[Row]:
    """The answers to the rows of a plan: (key, size of the prompt in bytes, (answer, error))."""
    for key, size, (answer, error) in answered:  # by place: the names in the struct have changed over time
        kind, message, text = None, None, None if answer is None or error else redact(answer)
        if text is None:
            kind, message = "refused", redact(error or "ai_query gave no answer")
        elif options.schema is not None:
            try:
                text = chat.canonical(text, options.schema)
            except chat.SchemaMismatch as mismatch:
                kind, message, text = "schema", redact(f"the answer is not of the shape: {mismatch}"), None
        read = most_of("", options, price).read + size
        written = min(options.max_tokens, len((answer or "").encode("utf-8")))
        amount = used(Tokens(read=read, written=written), price)
        yield row_of(key, text, kind, message, amount, seconds=0.0)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Prompts to ask: buckets from `first` to `last`, how many, and their size in bytes."""

    first: int
    last: int
    prompts: int
    size: int

    def bound(self, options: Options, price: Price | None) -> Amount:
        """The most that asking them may use; with a schema, each may need a repair."""
        each = most_of("", options, price)
        tokens = Tokens(read=each.read * self.prompts + self.size, written=each.written * self.prompts)
        rounding = 0 if price is None else self.prompts
        whole = used(tokens, price) + Amount(cost=rounding)
        return Amount.of(self.prompts, whole.read, whole.written, whole.cost) * calls_each(options)


def calls_each(options: Options) -> int:
    """Calls that one prompt may need: with a schema, one more to repair the answer."""
    return 1 if options.schema is None else 2


def spread_of(access: ModelAccess, prompts: int) -> tuple[int, int]:
    """Partitions, and threads in each: together no more calls at once than allowed, and nearly as many."""
    calls = access.concurrency
    limit = min(_PARTITIONS, calls, prompts, access.per_minute or _PARTITIONS)
    best = max(range(1, limit + 1), key=lambda partitions: (partitions * (calls // partitions), partitions))
    return best, calls // best


def waves(parts: list[Part], most: float = math.inf, size: float = math.inf) -> list[Part]:
    """Parts that follow each other, joined up to `most` prompts and `size` bytes; a larger one stays."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last is None or last.prompts + part.prompts > most or last.size + part.size > size:
            joined.append(part)
        else:
            prompts, whole = last.prompts + part.prompts, last.size + part.size
            joined[-1] = Part(first=last.first, last=part.last, prompts=prompts, size=whole)
    return joined
