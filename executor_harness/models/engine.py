"""`ai_query`: model calls that the engine makes itself, where it can (Databricks).

From the documentation as remembered, to be verified on a live workspace: the named arguments `failOnError`,
`modelParameters` and `responseFormat`, and that with `failOnError => false` the result is a struct of the
answer and an error message, in that order. The engine retries and paces by itself, and reports no usage:
a call counts as many tokens as its texts have bytes, which is never too little.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from executor_harness.models import shapes, workers
from executor_harness.models.chat import Options, Tokens
from executor_harness.models.meter import used
from executor_harness.models.workers import Row
from executor_harness.protocol import Price
from executor_harness.results_table import literal


def has_ai_query(spark: Any) -> bool:
    """Whether the engine has it: a look at its list of functions, which calls no model."""
    try:
        return bool(spark.sql("SHOW FUNCTIONS LIKE 'ai_query'").collect())
    except Exception:  # noqa: BLE001 -- an engine that cannot list its functions is asked no more of
        return False


def plan(prompts: Any, options: Options) -> Any:
    """Prompts (key, prompt) with the size in bytes and `ai_query`'s reply; asks nothing yet. Raises what the
    engine raises when it does not take the call.
    """
    from pyspark.sql import functions as F  # noqa: N812 -- everybody's name for it

    key, prompt = prompts.columns
    asked = prompts.select(key, F.octet_length(prompt), F.expr(expression(prompt, options)).alias("reply"))
    asked.schema  # noqa: B018 -- has the engine look at it
    return asked


def rows_of(
    answered: Iterable[Any], options: Options, price: Price | None, redact: Callable[[str], str]
) -> Iterator[Row]:
    """What became of the rows of a plan."""
    for key, size, (answer, error) in answered:  # by place: the names in the struct have changed over time
        yield row_of(key, size, answer, error, options=options, price=price, redact=redact)


def expression(prompt: str, options: Options) -> str:
    """The call for one row, in SQL. A system prompt goes before the prompt itself."""
    request = f"`{prompt}`"
    if options.system:
        request = f"concat({literal(options.system)}, '\n\n', {request})"
    parameters = [f"'max_tokens', {options.max_tokens}"]
    if options.temperature is not None:
        parameters.append(f"'temperature', {options.temperature!r}D")
    named = ["failOnError => false", f"modelParameters => named_struct({', '.join(parameters)})"]
    if options.schema is not None:
        shape = {"name": "answer", "schema": options.schema, "strict": True}
        text = json.dumps({"type": "json_schema", "json_schema": shape})
        named.append(f"responseFormat => {literal(text)}")
    return f"ai_query({literal(options.model)}, {request}, {', '.join(named)})"


def row_of(
    key: str,
    size: int,
    answer: str | None,
    error: str | None,
    *,
    options: Options,
    price: Price | None,
    redact: Callable[[str], str],
) -> Row:
    """A row from the engine's answer; `size` is that of the prompt in bytes."""
    kind, message, text = None, None, None if answer is None or error else redact(answer)
    if text is None:
        kind, message = "refused", redact(error or "ai_query gave no answer")
    elif options.schema is not None:
        try:
            text = json.dumps(shapes.read(text, options.schema), ensure_ascii=False)
        except shapes.Misshapen as misshapen:
            kind, message, text = "schema", redact(f"the answer is not of the shape: {misshapen}"), None
    most = workers.most_of("", options, price)
    written = min(options.max_tokens, len((answer or "").encode("utf-8")))
    amount = used(Tokens(read=most.read + size, written=written), price)
    return {
        "call_key": key,
        "answer": text,
        "kind": kind,
        "message": message,
        "calls": amount.calls,
        "read": amount.read,
        "written": amount.written,
        "cost": amount.cost,
        "seconds": 0.0,
        "at": workers.now(),
    }
