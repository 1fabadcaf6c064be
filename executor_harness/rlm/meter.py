"""The account of model calls: what they use, how much is left of what is allowed, and when the next may go.

Calls are admitted at their upper bound before they are made, and settled to the server's report after. At no
moment is more admitted than was allowed, so the budget holds whatever replies come, or do not come. A call
that does not fit waits while others are on their way: they mostly use less than their bound.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from executor_harness.protocol import Allowance, Price, Usage
from executor_harness.rlm.chat import BudgetExhausted, Message, Options, Tokens, messages_of

# Costs are kept as whole millionths of a millionth of a dollar: sums of floats would drift.
PICO = 10**12
_MESSAGE_TOKENS = 16  # for what a chat template adds to each message, and
_REQUEST_TOKENS = 64  # to the whole
_BLOCK = 8  # calls that are declared beforehand where nobody announced how many will come
_MINUTE_S = 60.0
_USED_UP = (
    "the budget for model calls is used up: {}. What was answered is kept and costs nothing again. Finish "
    "with what there is, or ask fewer or shorter prompts with a lower max_tokens"
)


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Something to spend. `cost` is in picodollars."""

    calls: int = 0
    read: int = 0
    written: int = 0
    cost: int = 0

    @classmethod
    def of(cls, calls: int, read: int, written: int, cost: int) -> Amount:
        """An amount from its fields in order."""
        return cls(calls=calls, read=read, written=written, cost=cost)

    def __iter__(self) -> Iterator[int]:
        return iter((self.calls, self.read, self.written, self.cost))

    @property
    def tokens(self) -> int:
        """Read and written together."""
        return self.read + self.written

    def __add__(self, other: Amount) -> Amount:
        return Amount.of(*map(int.__add__, self, other))

    def __sub__(self, other: Amount) -> Amount:
        """Return the difference, at least zero in each part."""
        return Amount.of(*(max(0, one - two) for one, two in zip(self, other, strict=True)))

    def __mul__(self, factor: int) -> Amount:
        return Amount.of(*(value * factor for value in self))

    def least(self, other: Amount) -> Amount:
        """The smaller one of the two in each field."""
        return Amount.of(*map(min, self, other))

    def within(self, other: Amount) -> bool:
        """Return whether it is no more than the other in any field."""
        return all(one <= two for one, two in zip(self, other, strict=True))

    def share(self, some: int, of: int) -> Amount:
        """The share of some of so many prompts, rounded up."""
        return Amount.of(*(-(-value * some // of) for value in self))

    def usage(self, cached: int) -> Usage:
        """The same for a result."""
        return Usage(
            calls=self.calls,
            input_tokens=self.read,
            output_tokens=self.written,
            cost_usd=self.cost / PICO,
            cached=cached,
        )


NOTHING = Amount()


def amount_of(usage: Usage) -> Amount:
    """The amount of a usage."""
    cost = round(usage.cost_usd * PICO)
    return Amount(calls=usage.calls, read=usage.input_tokens, written=usage.output_tokens, cost=cost)


def used(tokens: Tokens, price: Price | None) -> Amount:
    """Return the usage of one call, as the server reports it; it costs nothing where no price is known."""
    cost = 0
    if price is not None:  # in dollars per million tokens
        cost = round((tokens.read * price.input_usd + tokens.written * price.output_usd) * (PICO / 10**6))
    return Amount(calls=1, read=tokens.read, written=tokens.written, cost=cost)


def most(messages: list[Message], options: Options, price: Price | None) -> Amount:
    """The most that one call may use: no token is shorter than a byte, and the reply's length is limited."""
    read = _REQUEST_TOKENS + sum(_MESSAGE_TOKENS + _bytes(message["content"]) for message in messages)
    if options.schema is not None:
        read += _bytes(json.dumps(options.schema))
    return used(Tokens(read=read, written=options.max_tokens), price)


def most_of(prompt: str, options: Options, price: Price | None) -> Amount:
    """The most that asking a prompt once may use."""
    return most(messages_of(prompt, options), options, price)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


class Meter:
    """The account of one program. `declare` puts on record what it may have spent at most; `before` is what
    an earlier start of the same attempt has there.

    The record exceeds what is admitted by a block of calls, no more, so that the charge of a program that is
    killed stays near what it used. One thread at a time writes it, while the others go on.
    """

    def __init__(
        self, allowance: Allowance, declare: Callable[[Usage], None], before: Amount | None = None
    ) -> None:
        self._allowance = allowance
        cost = allowance.cost_usd
        self._max_cost = None if cost is None else int(cost * PICO)
        self._declare = declare
        self._writer = threading.Lock()  # of the record; it is taken before the other one
        self._changed = threading.Condition()
        self._admitted: dict[int, Amount] = {}
        self._numbers = itertools.count()
        self._spent = self._total = self._declared = before or NOTHING  # the total: with what is admitted
        self._expected = self._block = NOTHING
        self._recorded: Usage | None = None
        self._cached = 0
        self._stopped = False

    def admit(self, bound: Amount) -> int | None:
        """Set aside what a call may use; a number to settle it by, or None once the meter is stopped.

        Waits while it may yet fit. Raises BudgetExhausted when it never will.
        """
        while True:
            with self._changed:
                if self._stopped:
                    return None
                after = self._total + bound
                lack = self._lack(after, bound)
                if lack and not self._admitted:
                    raise BudgetExhausted(lack)
                if lack:
                    self._changed.wait(1.0)
                    continue
                if after.within(self._declared):
                    number = self._admit(bound)
                    low = self._declared.calls - self._total.calls < self._block.calls // 2
                    break
            self._record(lambda: self._ahead(bound))
        if low and not self._writer.locked():
            self._record(lambda: self._ahead(NOTHING))  # in time, so that nobody has to wait for it
        return number

    def lack(self, bound: Amount) -> str:
        """Why it would not be admitted now, or nothing."""
        with self._changed:
            return self._lack(self._total + bound, bound)

    def settle(self, number: int, amount: Amount) -> None:
        """The call is over, and this is what it used."""
        with self._changed:
            bound = self._admitted.pop(number)
            self._spent += amount
            self._total = self._total - bound + amount
            self._changed.notify_all()
            more = not self._total.within(self._declared)  # a server used more than it was asked to
        if more:
            self._record(lambda: None if self._total.within(self._declared) else self._total)

    def part(self, number: int, freed: Amount, amount: Amount) -> None:
        """A part of what was set aside is over: it used `amount`, and `freed` was its bound."""
        with self._changed:
            freed = freed.least(self._admitted[number])
            self._admitted[number] -= freed
            self._spent += amount
            self._total = self._total - freed + amount
            enough = 4 * self._total.tokens < 3 * self._declared.tokens
            wanted = enough or not self._total.within(self._declared)
        if wanted and not self._writer.locked():
            self._record(lambda: self._total)

    def announce(self, amount: Amount, block: Amount | None = None) -> None:
        """Expect to be asked for so much; put `block` of it on record at a time (None: all)."""
        with self._changed:
            self._expected += amount
            self._block = block or amount
        self._record(lambda: self._ahead(NOTHING))

    def record_spent(self) -> None:
        """Put on record what was really spent, if anything is on record. The announcement is over."""
        with self._changed:
            self._expected = NOTHING
        self._record(
            lambda: None if self._recorded in (None, self._total.usage(self._cached)) else self._total
        )

    def count_cached(self, answers: int) -> None:
        """So many answers were there already."""
        with self._changed:
            self._cached += answers

    def stop(self) -> None:
        """Admit nothing any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def usage(self) -> Usage:
        """Return the usage; calls in flight count as the most they may use."""
        with self._changed:
            return self._total.usage(self._cached)

    def _admit(self, bound: Amount) -> int:
        number = next(self._numbers)
        self._admitted[number] = bound
        self._total += bound
        self._expected -= bound
        return number

    def _ahead(self, bound: Amount) -> Amount | None:
        """Return the amount to record before a call like this is admitted; None if there is no need."""
        after = self._total + bound
        wanted = after + self._margin(after, bound)
        return None if wanted.within(self._declared) or self._lack(after, bound) else wanted

    def _lack(self, after: Amount, bound: Amount) -> str:
        """Say which limit is too small for it, if one is."""
        allowed = self._allowance
        lack = []
        if after.calls > allowed.calls:
            lack.append(f"{max(0, allowed.calls - self._spent.calls)} of {allowed.calls} calls are left")
        if after.tokens > allowed.tokens:
            left = max(0, allowed.tokens - self._spent.tokens)
            lack.append(
                f"it may use {bound.tokens} tokens ({bound.read} for the prompt, {bound.written} for the "
                f"reply), and {left} of {allowed.tokens} are left"
            )
        if self._max_cost is not None and after.cost > self._max_cost:
            left = max(0, self._max_cost - self._spent.cost)
            cost, whole = bound.cost / PICO, self._max_cost / PICO
            lack.append(f"it may cost ${cost:.4f}, and ${left / PICO:.4f} of ${whole:.4f} are left")
        return _USED_UP.format("; ".join(lack)) if lack else ""

    def _margin(self, total: Amount, bound: Amount) -> Amount:
        """Return the amount to record beyond the total: a block of what was announced, or some calls more
        like this.

        Only so much as may really be spent: a record above the allowance would be nonsense.
        """
        margin = self._expected.least(self._block) if self._expected.calls else bound * (_BLOCK - 1)
        tokens = max(0, self._allowance.tokens - total.tokens)
        written = min(margin.written, tokens)
        cost = margin.cost if self._max_cost is None else max(0, self._max_cost - total.cost)
        return Amount(
            calls=min(margin.calls, max(0, self._allowance.calls - total.calls)),
            read=min(margin.read, tokens - written),
            written=written,
            cost=min(margin.cost, cost),
        )

    def _record(self, wanted: Callable[[], Amount | None]) -> None:
        """Write the record, if `wanted`, asked under the lock, gives one. The others go on meanwhile: what
        they admit is within both records, for a kill leaves the one or the other.
        """
        with self._writer:
            with self._changed:
                amount = wanted()
                if amount is None:
                    return
                self._declared = amount.least(self._declared)
                self._recorded = usage = amount.usage(self._cached)
            self._declare(usage)
            with self._changed:
                self._declared = amount
                self._changed.notify_all()


class RateLimit:
    """When the next call may go: at most so many in any minute (None: no limit), and none while the endpoint
    asks for a pause. Shared by all threads. `clock` is monotonic, in seconds; `sent_ago` are earlier calls.

    The last minute's calls are kept one by one: a token bucket would let twice as many through in the minute
    after an idle one.
    """

    def __init__(
        self, per_minute: int | None, clock: Callable[[], float], sent_ago: Iterable[float] = ()
    ) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._sent: deque[float] = deque(sorted(clock() - age for age in sent_ago))
        self._paused_until = 0.0
        self._lent = 0

    def wait_s(self) -> float:
        """0 when a call may go now, and then it counts; else seconds after which to ask again."""
        with self._lock:
            now = self._clock()
            if now < self._paused_until:
                return self._paused_until - now
            if self._per_minute is None:
                return 0.0
            self._forget(now)
            limit = self._per_minute - self._lent
            if limit <= 0:
                return 1.0
            if len(self._sent) >= limit:
                return self._sent[len(self._sent) - limit] + _MINUTE_S - now
            self._sent.append(now)
            return 0.0

    def lend(self) -> int | None:
        """Most of the limit, for calls that are made elsewhere until `give_back`; None: no limit."""
        with self._lock:
            if self._per_minute is None:
                return None
            self._lent = max(1, self._per_minute - max(1, self._per_minute // 8))
            return self._lent

    def give_back(self, ages: Iterable[float]) -> None:
        """End the loan. Calls elsewhere began so many seconds ago."""
        with self._lock:
            self._lent = 0
            now = self._clock()
            if self._per_minute is not None:
                self._sent = deque(sorted([*self._sent, *(now - age for age in ages)]))

    def ages(self) -> list[float]:
        """How many seconds ago the calls of the last minute began; none where there is no limit."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            return [now - sent for sent in self._sent]

    def pause(self, seconds: float) -> None:
        """Let nobody send for so long (429 with Retry-After)."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _forget(self, now: float) -> None:
        while self._sent and now - self._sent[0] >= _MINUTE_S:
            self._sent.popleft()
