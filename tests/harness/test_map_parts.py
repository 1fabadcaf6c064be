"""The parts of llm_map that need no engine: templates, waves, ai_query, what is sent to the workers."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_support import access

from executor_harness import protocol
from executor_harness.protocol import Price
from executor_harness.rlm import chat, map_sql, workers
from executor_harness.rlm.chat import Options
from executor_harness.rlm.map_sql import Part, spread_of, waves
from executor_harness.rlm.meter import NOTHING, RateLimit, most

PRICE = Price(input_usd=1.5, output_usd=7.25)


def test_a_template_names_columns() -> None:
    parts = map_sql.parse("Is {{this}} {title}:\n{body text}?", ["title", "body text", "id"])
    assert parts == [("Is {", None), ("this}", None), (" ", "title"), (":\n", "body text"), ("?", None)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{nope}", r"\{nope\} is no column; the columns are: a, b"),
        ("{a!r}", r"\{a!r\} is no column"),
        ("{a:>5}", r"\{a:>5\} is no column"),
        ("{}", r"\{\} is no column"),
        ('{"key": {a}}', "is no column.*"),
        ("{a", "expected '}'"),
        ("no column at all", "every row would ask the same"),
    ],
)
def test_a_template_that_does_not_fit(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        map_sql.parse(text, ["a", "b"])
    assert "write {{ and }} for braces" in str(caught.value)


sizes = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5_000)), min_size=1, max_size=40)


@given(sizes, st.integers(1, 120))
def test_waves_are_all_parts_in_order_and_bounded(
    given_sizes: list[tuple[int, int]], most_prompts: int
) -> None:
    parts = [
        Part(first=at, last=at, prompts=prompts, size=size) for at, (prompts, size) in enumerate(given_sizes)
    ]
    joined = waves(parts, most_prompts)
    assert [at for wave in joined for at in range(wave.first, wave.last + 1)] == list(range(len(parts)))
    assert sum(wave.prompts for wave in joined) == sum(prompts for prompts, _ in given_sizes)
    assert sum(wave.size for wave in joined) == sum(size for _, size in given_sizes)
    assert all(wave.prompts <= most_prompts or wave.first == wave.last for wave in joined)
    assert len(waves(parts)) == 1
    assert all(wave.size <= 7_000 for wave in waves(parts, size=7_000))


@given(st.lists(st.text(max_size=30), min_size=1, max_size=20), st.sampled_from([None, {"type": "object"}]))
def test_the_bound_of_a_part_is_that_of_its_prompts(prompts: list[str], schema: Any) -> None:
    options = Options(model="m", max_tokens=50, system="Be brief.", schema=schema)
    size = sum(len(prompt.encode("utf-8", "surrogatepass")) for prompt in prompts)
    bound = Part(first=0, last=0, prompts=len(prompts), size=size).bound(options, PRICE)
    each = sum((most(chat.messages_of(prompt, options), options, PRICE) for prompt in prompts), NOTHING)
    factor = 1 if schema is None else 2
    assert (bound.calls, bound.read, bound.written) == tuple(
        factor * number for number in (each.calls, each.read, each.written)
    )
    assert factor * each.cost <= bound.cost <= factor * (each.cost + 2 * len(prompts))


def test_the_bundle_needs_nothing_but_itself() -> None:
    texts = workers.sources()
    alias = min(texts)
    assert alias == min(workers.sources()), "the same content has the same name"
    assert "executor_harness" not in "".join(texts.values())
    try:
        module = workers._imported(f"{alias}.rlm.workers", texts)
        assert module.ask is not workers.ask
        assert {name for name in sys.modules if name.startswith(alias)} <= set(texts)
        assert list(module.ask({}, iter([]))) == []
    finally:
        for name in texts:
            sys.modules.pop(name, None)
        sys.meta_path[:] = [one for one in sys.meta_path if type(one).__name__ != "Bundle"]


def test_ai_query_in_sql() -> None:
    plain = map_sql.ai_query("p", Options(model="m-1", max_tokens=20))
    assert plain == (
        "ai_query('m-1', `p`, failOnError => false, modelParameters => named_struct('max_tokens', 20))"
    )
    full = map_sql.ai_query(
        "p", Options(model="m", max_tokens=5, system="It's", temperature=0.5, schema={"type": "string"})
    )
    assert "concat(CAST(X'49742773' AS STRING), '\n\n', `p`)" in full
    assert "'temperature', 0.5D" in full
    asked = full.split("responseFormat => CAST(X'")[1].split("'")[0]
    assert json.loads(bytes.fromhex(asked))["json_schema"]["schema"] == {"type": "string"}


def row(answer: str | None, error: str | None = None, **options: Any) -> workers.Row:
    chosen = Options(model="m", max_tokens=20, **options)
    answered = [("k", 30, (answer, error))]
    (found,) = map_sql.ai_query_rows(answered, chosen, PRICE, lambda text: text.replace("s3cret", "***"))
    return found


def test_what_ai_query_returns() -> None:
    good = row("yes, s3cret")
    assert (good["answer"], good["kind"], good["calls"]) == ("yes, ***", None, 1)
    assert good["read"] > 30
    assert good["written"] == len("yes, s3cret")
    failed = row(None, "429 s3cret")
    assert (failed["answer"], failed["kind"], failed["message"]) == (None, "refused", "429 ***")
    shaped = {"schema": {"type": "object", "required": ["a"]}}
    assert row('```json\n{"a": 1}\n```', **shaped)["answer"] == '{"a": 1}'
    assert row('{"b": 1}', **shaped)["kind"] == "schema"


class Functions:
    """An engine that lists its functions."""

    def __init__(self, listed: list[str] | None) -> None:
        self.listed = listed

    def sql(self, text: str) -> Functions:
        assert text == "SHOW FUNCTIONS LIKE 'ai_query'"
        if self.listed is None:
            raise RuntimeError("no such statement")
        return self

    def collect(self) -> list[str]:
        return self.listed or []


def test_the_engine_is_asked_whether_it_has_ai_query() -> None:
    assert map_sql.has_ai_query(Functions(["ai_query"]))
    assert not map_sql.has_ai_query(Functions([]))
    assert not map_sql.has_ai_query(Functions(None))


@given(st.integers(1, 300), st.none() | st.integers(1, 500), st.integers(1, 5_000))
def test_partitions_together_keep_to_the_limits(calls: int, per_minute: int | None, prompts: int) -> None:
    partitions, threads = spread_of(
        protocol.read(protocol.ModelAccess, access(concurrency=calls, per_minute=per_minute)),
        prompts,
    )
    assert 1 <= partitions <= min(8, prompts)
    assert 0.5 * calls < partitions * threads <= calls
    assert per_minute is None or per_minute // partitions >= 1


def test_a_wave_remembers_the_calls_of_the_one_before() -> None:
    assert RateLimit(3, time.monotonic, [1.0, 2.0]).wait_s() == 0.0
    assert 57 < RateLimit(2, time.monotonic, [1.0, 2.0]).wait_s() <= 58
    assert RateLimit(None, time.monotonic, [1.0]).wait_s() == 0.0
