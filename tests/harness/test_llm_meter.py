"""The account of model calls: whatever comes, no more is used than was allowed, and records lead."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor_harness.protocol import Allowance, Price, Usage
from executor_harness.report import read_spend, remove_spend_twin, write_spend
from executor_harness.rlm import meter
from executor_harness.rlm.asker import CallResult, Pool
from executor_harness.rlm.chat import BudgetExhausted, Options, Tokens
from executor_harness.rlm.meter import NOTHING, Amount, Meter, RateLimit
from executor_harness.volumes import Volumes

PRICE = Price(input_usd=0.15, output_usd=0.6)

some = st.builds(
    Amount,
    calls=st.just(1),
    read=st.integers(0, 500),
    written=st.integers(0, 500),
    cost=st.integers(0, 10**9),
)
allowances = st.builds(
    Allowance,
    calls=st.integers(0, 20),
    tokens=st.integers(0, 5_000),
    cost_usd=st.one_of(st.none(), st.floats(0, 0.01)),
)
# What is done next: admit a call of so much at most; or settle the n-th on its way with a part of its bound.
steps = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), some),
        st.tuples(st.just("settle"), st.tuples(st.integers(0, 9), st.floats(0, 1))),
        st.tuples(st.just("part"), st.tuples(st.integers(0, 9), st.floats(0, 1), st.floats(0, 1))),
        st.tuples(st.just("announce"), some),
        st.tuples(st.just("exact"), st.none()),
    ),
    max_size=60,
)


def part(amount: Amount, share: float) -> Amount:
    return Amount(
        calls=amount.calls,
        read=int(amount.read * share),
        written=int(amount.written * share),
        cost=int(amount.cost * share),
    )


def within(used: Usage, allowed: Allowance) -> bool:
    tokens = used.input_tokens + used.output_tokens
    cost = allowed.cost_usd
    return (
        used.calls <= allowed.calls and tokens <= allowed.tokens and (cost is None or used.cost_usd <= cost)
    )


@given(allowed=allowances, todo=steps)
def test_never_more_than_allowed_nor_than_on_record(  # noqa: C901 -- one branch for each kind of step
    allowed: Allowance, todo: list[Any]
) -> None:
    records: list[Usage] = []
    account = Meter(allowed, records.append)
    under_way: list[tuple[int, Amount]] = []
    server = NOTHING
    for what, detail in todo:
        if what == "admit":
            if not under_way or fits(account, detail, allowed):  # else it would wait
                try:
                    number = account.admit(detail)
                except BudgetExhausted:
                    continue
                assert number is not None
                under_way.append((number, detail))
        elif what == "settle" and under_way:
            number, bound = under_way.pop(detail[0] % len(under_way))
            amount = part(bound, detail[1])
            server += amount
            account.settle(number, amount)
        elif what == "part" and under_way:
            server += report_part(account, under_way, *detail)
        elif what == "announce":
            account.announce(detail, part(detail, 0.5))
        elif what == "exact":
            account.record_spent()
        worst = sum((bound for _, bound in under_way), server)
        assert account.usage() == worst.usage(0)
        assert within(account.usage(), allowed)
        if records:
            assert within(records[-1], allowed)
        if worst != NOTHING:
            assert all(getattr(records[-1], name) >= value for name, value in asdict(worst.usage(0)).items())


def report_part(
    account: Meter, under_way: list[tuple[int, Amount]], at: int, over: float, used: float
) -> Amount:
    """A part of the n-th on its way is over; what it used."""
    number, bound = under_way[at % len(under_way)]
    freed = part(bound, over)
    amount = part(freed, used)
    account.part(number, freed, amount)
    under_way[at % len(under_way)] = (number, bound - freed)
    return amount


def fits(account: Meter, bound: Amount, allowed: Allowance) -> bool:
    now = account.usage()
    after = now.input_tokens + now.output_tokens + bound.tokens
    cost = round(now.cost_usd * 10**12) + bound.cost
    limit = allowed.cost_usd
    return (
        now.calls + 1 <= allowed.calls
        and after <= allowed.tokens
        and (limit is None or cost <= int(limit * 10**12))
    )


def test_a_call_waits_while_others_may_leave_it_room() -> None:
    account = Meter(Allowance(calls=9, tokens=100, cost_usd=None), lambda usage: None)
    first = account.admit(Amount(calls=1, read=80))
    assert first is not None
    got: list[int | None] = []
    thread = threading.Thread(target=lambda: got.append(account.admit(Amount(calls=1, read=80))))
    thread.start()
    thread.join(0.1)
    assert not got
    account.settle(first, Amount(calls=1, read=20))
    thread.join(60)
    assert len(got) == 1
    assert account.usage().input_tokens == 100


class Interrupted(BaseException):
    """What the guard raises in the program, at any line."""


@pytest.mark.fault("A23")
def test_an_interruption_at_any_line_leaves_the_locks_free_and_the_record_ahead() -> None:
    """A trace function raises at the n-th line of the meter, for every n until all of it has run. Not on the
    way out of a `with`: the interpreter delivers nothing between its body and its end.
    """
    module = Meter.admit.__code__.co_filename
    text = Path(module).read_text().splitlines()
    ended = False
    for at in itertools.count(1):
        records: list[Usage] = []
        meter = Meter(Allowance(calls=50, tokens=50_000, cost_usd=None), records.append)
        bound = Amount(calls=1, read=100, written=100, cost=0)
        lines = itertools.count(1)
        entered: set[tuple[int, int]] = set()

        def leaves(frame: Any) -> bool:
            place = (id(frame), frame.f_lineno)
            if not text[frame.f_lineno - 1].strip().startswith("with "):
                return False
            entered.symmetric_difference_update({place})  # noqa: B023 -- called within this turn of the loop
            return place not in entered  # noqa: B023 -- as above

        def trace(frame: Any, event: str, _argument: Any) -> Any:
            if frame.f_code.co_filename != module:
                return None
            if event == "line" and not leaves(frame) and next(lines) == at:  # noqa: B023 -- as above
                raise Interrupted
            return trace

        sys.settrace(trace)
        try:
            meter.announce(bound * 3, bound)
            for _ in range(4):
                number = meter.admit(bound)
                assert number is not None
                meter.part(number, bound, bound * 2)
                meter.settle(number, bound)
            meter.record_spent()
            ended = True
        except Interrupted:
            pass
        finally:
            sys.settrace(None)
        other = threading.Thread(target=lambda: meter.settle(meter.admit(bound) or 0, bound))  # noqa: B023
        other.start()
        other.join(60)
        assert not other.is_alive(), f"line {at} of the meter left a lock taken"
        assert records[-1].calls >= meter.usage().calls, f"line {at}"
        if ended:
            assert at > 50
            return


@pytest.mark.fault("A23")
def test_a_pool_that_was_interrupted_while_it_lends_lends_again() -> None:
    pool = Pool(4, lambda: None, lambda *_: CallResult())  # type: ignore[arg-type,return-value]
    with pytest.raises(Interrupted), pool.lend():
        raise Interrupted
    with pool.lend() as lent:
        assert lent == 4
    pool.close()


def test_a_stopped_meter_admits_nothing() -> None:
    account = Meter(Allowance(calls=9, tokens=100, cost_usd=None), lambda usage: None)
    account.stop()
    assert account.admit(Amount(calls=1)) is None


def test_a_loop_of_single_calls_is_recorded_in_blocks() -> None:
    records: list[Usage] = []
    account = Meter(Allowance(calls=100, tokens=10**6, cost_usd=None), records.append)
    for _ in range(64):
        number = account.admit(Amount(calls=1, read=100, written=100))
        assert number is not None
        account.settle(number, Amount(calls=1, read=25, written=10))
    assert len(records) <= 8
    assert account.usage().input_tokens == 64 * 25


def test_a_server_that_uses_more_than_it_was_asked_to() -> None:
    records: list[Usage] = []
    account = Meter(Allowance(calls=2, tokens=100, cost_usd=None), records.append)
    number = account.admit(Amount(calls=1, read=50))
    assert number is not None
    account.settle(number, Amount(calls=1, read=120))
    assert records[-1].input_tokens == account.usage().input_tokens == 120
    with pytest.raises(BudgetExhausted, match="0 of 100 are left"):
        account.admit(Amount(calls=1, read=1))


@given(st.text(max_size=50), st.integers(1, 100))
def test_the_bound_of_a_call(prompt: str, reply: int) -> None:
    options = Options(model="m", max_tokens=reply)
    bound = meter.most([{"role": "user", "content": prompt}], options, PRICE)
    assert bound.calls == 1
    assert bound.read >= len(prompt.encode())
    assert bound.written == reply
    assert bound.cost == round((bound.read * 0.15 + reply * 0.6) * 10**6)
    longer = Options(model="m", max_tokens=reply, schema={"type": "string"})
    assert meter.most([{"role": "user", "content": prompt}], longer, None).read > bound.read


def test_a_second_start_of_an_attempt_goes_on_counting(tmp_path: Path) -> None:
    usage = Amount(calls=3, read=40, written=5, cost=6).usage(0)
    account = Meter(Allowance(calls=4, tokens=100, cost_usd=None), lambda _: None, meter.amount_of(usage))
    assert account.usage() == usage
    assert account.admit(Amount(calls=1, read=55)) is not None
    with pytest.raises(BudgetExhausted):
        Meter(Allowance(calls=3, tokens=100, cost_usd=None), lambda _: None, meter.amount_of(usage)).admit(
            Amount(calls=1)
        )


def test_costs_do_not_drift() -> None:
    account = Meter(Allowance(calls=10**6, tokens=10**9, cost_usd=None), lambda usage: None)
    one = meter.used(Tokens(read=1, written=1), Price(input_usd=0.1, output_usd=0.2))
    for _ in range(3000):
        number = account.admit(one)
        assert number is not None
        account.settle(number, one)
    assert account.usage().cost_usd == 3000 * 0.3 / 1e6


# -- spend.json --------------------------------------------------------------------------------------

HOME = "/Volumes/main/rlm/work/scratchpad/run_r1/iter_1"


def put(root: Path, name: str, data: bytes) -> Volumes:
    volumes = Volumes(root=str(root))
    volumes.put(f"{HOME}/{name}", data)
    return volumes


def test_the_record_is_read_back(tmp_path: Path) -> None:
    usage = Amount(calls=3, read=4, written=5, cost=6 * 10**12).usage(7)
    volumes = Volumes(root=str(tmp_path))
    write_spend(volumes, HOME, usage)
    assert read_spend(volumes, HOME) == usage
    assert read_spend(Volumes(root=str(tmp_path)), HOME.replace("r1", "r2")) == Usage()


@pytest.mark.parametrize("data", [b"", b'{"schema_version": 1, "usa', b"[]", b'{"usage": {"calls": null}}'])
def test_a_record_that_was_cut_off_stands_for_the_allowance(data: bytes, tmp_path: Path) -> None:
    volumes = put(tmp_path, "spend.json", data)
    assert read_spend(volumes, HOME) == Usage()  # nobody knows what was allowed
    allowance = {"calls": 7, "tokens": 900, "cost_usd": 0.5}
    put(tmp_path, "manifest.json", json.dumps({"request": {"models": {"allowance": allowance}}}).encode())
    found = read_spend(volumes, HOME)
    assert (found.calls, found.input_tokens, found.cost_usd) == (7, 900, 0.5)


def test_one_of_the_two_can_always_be_read(tmp_path: Path) -> None:
    volumes = Volumes(root=str(tmp_path))
    before, after = (Amount(calls=n, read=n, written=n).usage(0) for n in (1, 2))
    write_spend(volumes, HOME, after)
    folder = volumes.local(HOME)
    twin = folder / "spend.json.next"
    new = twin.read_bytes()
    write_spend(volumes, HOME, before)
    twin.write_bytes(b"")  # killed while the twin was written
    assert read_spend(volumes, HOME) == before
    twin.write_bytes(new)
    (folder / "spend.json").write_bytes(b'{"schema')  # or this one
    assert read_spend(volumes, HOME) == after
    write_spend(volumes, HOME, after)
    remove_spend_twin(volumes, HOME)
    assert [path.name for path in folder.iterdir()] == ["spend.json"]
    assert read_spend(volumes, HOME) == after


# -- rate --------------------------------------------------------------------------------------------


@given(
    limit=st.integers(1, 5),
    gaps=st.lists(st.floats(0, 40, allow_nan=False), max_size=60),
)
def test_no_minute_has_more_calls_than_it_may(limit: int, gaps: list[float]) -> None:
    now = [1000.0]
    rate = RateLimit(limit, lambda: now[0])
    sent: list[float] = []
    for gap in gaps:
        now[0] += gap
        wait = rate.wait_s()
        if wait:
            assert len(sent) >= limit
            now[0] += wait + 1e-6
            assert rate.wait_s() == 0
        sent.append(now[0])
    for at in sent:
        assert sum(at <= other < at + 59.99 for other in sent) <= limit


@given(
    limit=st.integers(1, 20),
    steps=st.lists(
        st.tuples(st.floats(0, 25), st.sampled_from(["call", "lend", "elsewhere", "over"])), max_size=80
    ),
)
def test_what_is_lent_counts(limit: int, steps: list[tuple[float, str]]) -> None:
    now = [1000.0]
    rate = RateLimit(limit, lambda: now[0])
    sent: list[float] = []
    elsewhere: list[float] | None = None
    lent, earlier = 0, 0
    for gap, step in steps:
        now[0] += gap
        if step == "call" and not rate.wait_s():
            sent.append(now[0])
        elif step == "lend" and elsewhere is None:
            before = [now[0] - age for age in rate.ages()]
            lent, elsewhere = rate.lend() or 0, []
            assert 1 <= lent <= limit
        elif step == "elsewhere" and elsewhere is not None:
            earlier = sum(now[0] - at < 60 for at in [*before, *elsewhere])
            if earlier < lent:  # as they who borrow it see to
                elsewhere.append(now[0])
                sent.append(now[0])
        elif step == "over" and elsewhere is not None:
            rate.give_back(now[0] - at for at in elsewhere)
            elsewhere = None
    for at in sent:
        assert sum(at <= other < at + 59.99 for other in sent) <= limit


def test_a_pause_is_for_everybody() -> None:
    now = [0.0]
    rate = RateLimit(None, lambda: now[0])
    assert rate.wait_s() == 0
    rate.pause(5)
    rate.pause(2)
    assert rate.wait_s() == 5
    now[0] = 5.0
    assert rate.wait_s() == 0
