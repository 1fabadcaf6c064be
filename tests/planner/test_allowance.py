"""An iteration never spends more than it was given, whatever its model does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_fakes import FakeModels, call, reply

from databricks_rlm_agent.attempts.result import Result
from databricks_rlm_agent.errors import ConfigError, PlannerError
from databricks_rlm_agent.models import FREE, Price
from databricks_rlm_agent.planner import spending as listed
from databricks_rlm_agent.planner.planner import AdkPlanner
from databricks_rlm_agent.planner.spending import MIN_REPLY_TOKENS, Allowance, Prices, tokens_of
from databricks_rlm_agent.planner.tools import Toolbox
from databricks_rlm_agent.ports import Planner, PlanningContext, PlanResult
from databricks_rlm_agent.runs.budget import Budget, Usage
from databricks_rlm_agent.settings import from_environment, parse_prices
from executor_harness.protocol import Stream

Make = Callable[..., Planner]
# The fixtures hold nothing that an example changes; and a busy machine is no fault of the strategies.
CALM = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
LOOK = call("search_catalog", text="")
FINISH = call("finish", answer="JFK")
PRICE = Price(input_usd=1.0, output_usd=10.0)
A, B = "gemini-a-test", "gemini-b-test"


def budgeted(context: PlanningContext, **limits: Any) -> PlanningContext:
    return replace(context, budget=Budget(**limits))


@pytest.fixture
def planner(world: dict[str, Any]) -> Callable[..., AdkPlanner]:
    def make(replies: dict[str, Any], *, prices: Any = None, **options: Any) -> AdkPlanner:
        models = FakeModels(replies, prices=prices)
        return AdkPlanner(models=models, toolbox=Toolbox(**world), **options)

    return make


def requests_of(planner: AdkPlanner, link: int = 0) -> list[Any]:
    return planner.models.links[link].requests  # type: ignore[attr-defined]


# Replies by a model that does anything it likes, with the tokens that it claims.
USAGES = st.one_of(st.none(), st.tuples(st.integers(0, 3_000), st.integers(0, 2_000)))
REPLIES = st.builds(
    lambda parts, tokens: reply(*parts, tokens=tokens),
    st.lists(st.sampled_from([LOOK, call("finish"), call("nothing")]), max_size=3),
    USAGES,
)
ANYTHING = st.lists(st.one_of(REPLIES, st.builds(ConnectionError, st.just("down"))), max_size=30)


@settings(max_examples=25, deadline=None, suppress_health_check=CALM)
@given(
    first=ANYTHING,
    second=ANYTHING,
    calls=st.integers(1, 20),
    tokens=st.integers(1, 60_000),
    cost=st.one_of(st.none(), st.floats(0.0001, 0.1)),
)
def test_no_model_makes_a_context_spend_more_than_it_has(
    planner: Callable[..., AdkPlanner],
    context: PlanningContext,
    first: list[Any],
    second: list[Any],
    calls: int,
    tokens: int,
    cost: float | None,
) -> None:
    rest = repeat(ConnectionError("down"))
    made = planner({A: chain(first, rest), B: chain(second, rest)}, prices={A: PRICE, B: PRICE})
    budget = Budget(max_model_calls=calls, max_tokens=tokens, max_cost_usd=cost)
    planned = made.plan(replace(context, budget=budget))
    used = planned.usage
    assert used.calls <= calls
    assert len(planned.calls) == len(requests_of(made, 0)) + len(requests_of(made, 1))
    assert used.calls == sum(call.error is None for call in planned.calls)  # nobody charges for an outage
    # What is asked for never passes the limit; a reply that is longer than asked for is the provider's.
    one = max((call.usage.input_tokens + call.usage.output_tokens for call in planned.calls), default=0)
    assert used.input_tokens + used.output_tokens <= tokens + one
    before = sum((call.usage for call in planned.calls[:-1]), Usage())
    assert before.input_tokens + before.output_tokens < tokens
    assert cost is None or before.cost_usd < cost
    assert sum(end is not None for end in (planned.action, planned.failure, planned.fault)) == 1


def test_a_context_that_runs_out_of_tokens_keeps_its_calls(
    planner: Callable[..., AdkPlanner], context: PlanningContext
) -> None:
    made = planner({A: repeat(reply(LOOK, tokens=(4_000, 100)))})
    planned = made.plan(budgeted(context, max_tokens=9_000))
    assert planned.action is None
    assert (planned.failure or "").startswith("budget: The run has 800 tokens left; the next call of")
    assert [one.usage.calls for one in planned.calls] == [1, 1]
    assert [note.kind for note in planned.notes] == ["tool_call", "tool_call"]


def test_the_reply_is_held_within_what_is_left(
    planner: Callable[..., AdkPlanner], context: PlanningContext
) -> None:
    made = planner({A: iter([reply(LOOK), reply(FINISH)])})
    assert made.plan(context).failure is None
    assert [one.config.max_output_tokens for one in requests_of(made)] == [None, None]
    made = planner({A: iter([reply(LOOK, tokens=(2_000, 50)), reply(FINISH, tokens=(2_000, 50))])})
    assert made.plan(budgeted(context, max_tokens=9_000)).failure is None
    first, second = [one.config.max_output_tokens for one in requests_of(made)]
    assert MIN_REPLY_TOKENS <= second <= first - 2_050 <= 9_000


def test_what_a_model_does_not_tell_is_estimated(
    planner: Callable[..., AdkPlanner], context: PlanningContext
) -> None:
    planned = planner({A: iter([reply(FINISH)])}).plan(context)
    assert planned.usage.input_tokens > 1_000
    assert 5 < planned.usage.output_tokens < 100


def test_a_dead_model_is_not_asked_at_every_question(
    planner: Callable[..., AdkPlanner], context: PlanningContext
) -> None:
    alive = chain(repeat(reply(LOOK), 8), repeat(reply(FINISH)))
    made = planner({A: repeat(ConnectionError("down")), B: alive})
    planned = made.plan(budgeted(context, max_model_calls=10))
    assert planned.failure is None
    assert [one.model for one in planned.calls] == [A, *[B] * 9]


def test_cost_is_counted_and_limited(planner: Callable[..., AdkPlanner], context: PlanningContext) -> None:
    made = planner({A: repeat(reply(LOOK, tokens=(5_000, 500)))}, prices={A: PRICE})
    planned = made.plan(budgeted(context, max_cost_usd=0.024))
    assert planned.calls[0].usage.cost_usd == pytest.approx(0.01)
    assert planned.usage.cost_usd == pytest.approx(0.02)
    assert (planned.failure or "").startswith("budget: The run has $0.004000 left; the next call of")


def test_a_limit_of_cost_needs_prices(planner: Callable[..., AdkPlanner], context: PlanningContext) -> None:
    made = planner({A: iter([]), B: iter([])}, prices={A: PRICE})
    limited = budgeted(context, max_cost_usd=1.0)
    planned = made.plan(limited)
    assert planned.calls == ()
    assert requests_of(made) == []
    for word in ("budget: ", B, "RLM_MODEL_PRICES", '"input": USD'):
        assert word in (planned.failure or "")
    assert A not in (planned.failure or "")
    long = Result(
        run_id="r1", iter_n=1, attempt=1, status="SUCCESS", stdout=Stream(bytes=10**6, head="h", tail="t")
    )
    assert made.summarize(limited, long).calls == ()


def test_without_a_limit_an_unknown_price_is_no_error(
    planner: Callable[..., AdkPlanner], context: PlanningContext
) -> None:
    planned = planner({A: iter([reply(FINISH, tokens=(10, 1))])}).plan(context)
    assert planned.failure is None
    assert planned.usage.cost_usd == 0


def test_a_summary_is_not_paid_for_where_nothing_is_left(
    planner: Callable[..., AdkPlanner], context: PlanningContext
) -> None:
    long = Result(
        run_id="r1", iter_n=1, attempt=1, status="SUCCESS", stdout=Stream(bytes=10**6, head="h", tail="t")
    )
    made = planner({A: repeat(reply(call("remember", digest="d")))})
    assert made.summarize(context, long).delta is not None
    spent = Budget(max_tokens=100)
    summary = made.summarize(replace(context, budget=spent), long)
    assert (summary.delta, summary.calls) == (None, ())


def test_a_script_may_say_what_it_used(scripted: Make, context: PlanningContext) -> None:
    usage = {"input_tokens": 700, "output_tokens": 30, "cost_usd": 0.5}
    finish = {"call": "finish", "args": {"answer": "x"}}
    look = {"call": "search_catalog", "usage": usage}
    planned = scripted(look, {**finish, "usage": {"input_tokens": 5}}).plan(context)
    assert planned.calls[0].usage == Usage(calls=1, input_tokens=700, output_tokens=30, cost_usd=0.5)
    assert planned.calls[1].usage.input_tokens == 5
    assert planned.calls[1].usage.output_tokens > 0
    assert planned.calls[1].usage.cost_usd == 0
    planned = scripted(look, finish, prices={"scripted": PRICE}).plan(budgeted(context, max_cost_usd=0.4))
    assert "budget: The run has $0.000000 left" in (planned.failure or "")
    planned = scripted({**look, "usage": {}}, finish, prices={"scripted": PRICE}).plan(context)
    assert planned.calls[0].usage.cost_usd > 0


@pytest.mark.parametrize(
    ("left", "prompt", "price", "words"),
    [
        (Allowance(calls=0, tokens=10**6), 1, FREE, "no model calls left"),
        (Allowance(calls=1, tokens=-5), 1, FREE, "0 tokens left"),
        (Allowance(calls=1, tokens=1_000), 900, FREE, "1,000 tokens left"),
        (Allowance(calls=1, tokens=10**6, cost_usd=0.001), 1_000, PRICE, "$0.001000 left"),
        (Allowance(calls=1, tokens=10**6, cost_usd=0.0), 1, FREE, "$0.000000 left"),
        (Allowance(calls=1, tokens=10**6, cost_usd=1.0), 1, None, "price of m is not known"),
    ],
)
def test_why_a_call_is_not_made(left: Allowance, prompt: int, price: Price | None, words: str) -> None:
    with pytest.raises(PlannerError, match=r"^budget: ") as caught:
        left.reply_tokens(prompt, model="m", price=price)
    assert words in str(caught.value)


@given(
    st.integers(1, 10**6),
    st.integers(1, 10**5),
    st.floats(0.0001, 10),
    st.floats(0, 100),
    st.floats(0, 100),
)
def test_what_may_be_asked_for_can_be_paid(
    tokens: int, prompt: int, cost: float, input_usd: float, output_usd: float
) -> None:
    price = Price(input_usd=input_usd, output_usd=output_usd)
    try:
        limit = Allowance(calls=1, tokens=tokens, cost_usd=cost).reply_tokens(prompt, model="m", price=price)
    except PlannerError:
        return
    assert MIN_REPLY_TOKENS <= limit <= tokens - prompt
    assert price.cost(input_tokens=prompt, output_tokens=limit) <= cost * 1.000001


def test_tokens_are_estimated_upwards() -> None:
    assert tokens_of("word " * 300) >= 300
    assert tokens_of("数据" * 300) >= 600
    assert tokens_of("\ud800") > 0
    assert tokens_of({"a": "x" * 300, "b": object()}) > 100


def test_prices_are_read_from_the_environment(tmp_path: Path) -> None:
    table = {"gemini-2.5-pro": {"input": 1.25, "output": 10.0}}
    wanted = {"gemini-2.5-pro": Price(input_usd=1.25, output_usd=10)}
    assert from_environment({"RLM_MODEL_PRICES": json.dumps(table)}).prices == wanted
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(table))
    assert from_environment({"RLM_MODEL_PRICES": f"@{file}"}).prices == wanted
    assert from_environment({}).prices == {}
    with pytest.raises(ConfigError, match=r"not readable.*none\.json"):
        from_environment({"RLM_MODEL_PRICES": f"@{tmp_path / 'none.json'}"})
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not readable"):
        from_environment({"RLM_MODEL_PRICES": f"@{file}"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        '{"m": 5}',
        '{"m": {"input": 1}}',
        '{"m": {"input": 1, "output": 2, "cached": 3}}',
        '{"m": {"input": "1", "output": 2}}',
        '{"m": {"input": true, "output": 2}}',
        '{"m": {"input": -1, "output": 2}}',
        '{"m": {"input": NaN, "output": 2}}',
        '{"m": {"input": 1, "output": Infinity}}',
    ],
    ids=range(12),
)
def test_a_bad_table_of_prices_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="RLM_MODEL_PRICES") as caught:
        parse_prices(text)
    assert "per million tokens" in str(caught.value)


def test_litellms_list_is_read_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    listed._list.cache_clear()
    monkeypatch.delitem(sys.modules, "litellm", raising=False)
    known = Prices()
    price = known.of("openai/gpt-4o")
    assert price is not None
    assert price.output_usd > price.input_usd > 0
    assert known.of("anthropic/claude-sonnet-4-5") is not None
    assert known.of("gemini-2.5-pro") is not None
    assert known.reply_tokens("gemini-2.5-pro") > 8_192
    assert "litellm" not in sys.modules
    for unknown in ("openai/no-such-model", "databricks/my-endpoint", "anthropic/gpt-4o", "gemini-none"):
        assert known.of(unknown) is None
        assert known.reply_tokens(unknown) == 8_192
    assert Prices({"openai/gpt-4o": PRICE}).of("openai/gpt-4o") == PRICE
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    listed._list.cache_clear()
    assert known.of("openai/gpt-4o") is None
    listed._list.cache_clear()


def test_usages_add_up(context: PlanningContext) -> None:
    left = Allowance.left(Budget(max_model_calls=5, max_tokens=100, max_cost_usd=1.0))
    left = left.less(Usage(calls=2, input_tokens=10, output_tokens=5, cost_usd=0.25))
    assert left == Allowance(calls=3, tokens=85, cost_usd=0.75)
    assert PlanResult(action=None, failure="x").usage == Usage()
