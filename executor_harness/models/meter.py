"""What model calls may use: admitted at its upper bound before a call, settled to the server's word after.

At no moment are more tokens, calls or dollars admitted than were allowed, so the budget holds whatever
replies come, or do not come. A call that does not fit waits while others are on their way: they mostly use
less than their bound.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

from executor_harness.models.chat import Message, Options, Tokens
from executor_harness.models.errors import BudgetExhausted
from executor_harness.protocol import Allowance, Price, Usage

# Costs are kept as whole millionths of a millionth of a dollar: sums of floats would drift.
_PICO = 10**12
_BLOCK = 8  # calls that are declared ahead where nobody announced how many will come
_MESSAGE_TOKENS = 16  # for what a chat template adds to each message, and
_REQUEST_TOKENS = 64  # to the whole


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Something to spend. `cost` is in picodollars."""

    calls: int = 0
    read: int = 0
    written: int = 0
    cost: int = 0

    @property
    def tokens(self) -> int:
        """Both kinds together."""
        return self.read + self.written

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            calls=self.calls + other.calls,
            read=self.read + other.read,
            written=self.written + other.written,
            cost=self.cost + other.cost,
        )

    def __sub__(self, other: Amount) -> Amount:
        """What is left of it; nothing where the other is more."""
        return Amount(
            calls=max(0, self.calls - other.calls),
            read=max(0, self.read - other.read),
            written=max(0, self.written - other.written),
            cost=max(0, self.cost - other.cost),
        )

    def least(self, other: Amount) -> Amount:
        """The smaller one of the two in each way."""
        return Amount(
            calls=min(self.calls, other.calls),
            read=min(self.read, other.read),
            written=min(self.written, other.written),
            cost=min(self.cost, other.cost),
        )

    def within(self, other: Amount) -> bool:
        """Whether it is no more than the other in any way."""
        return (
            self.calls <= other.calls
            and self.read <= other.read
            and self.written <= other.written
            and self.cost <= other.cost
        )

    def usage(self, cached: int) -> Usage:
        """The same for a result."""
        return {
            "calls": self.calls,
            "input_tokens": self.read,
            "output_tokens": self.written,
            "cost_usd": self.cost / _PICO,
            "cached": cached,
        }


NOTHING = Amount()


def amount_of(usage: Usage) -> Amount:
    """What a record says."""
    return Amount(
        calls=usage["calls"],
        read=usage["input_tokens"],
        written=usage["output_tokens"],
        cost=round(usage["cost_usd"] * _PICO),
    )


def used(tokens: Tokens, price: Price | None) -> Amount:
    """What one call used, by the server's word; it costs nothing where no price is known."""
    return Amount(calls=1, read=tokens.read, written=tokens.written, cost=_cost(tokens, price))


def most(messages: list[Message], options: Options, price: Price | None) -> Amount:
    """What one call may use: no token is shorter than a byte, and the reply's length is limited."""
    read = _REQUEST_TOKENS + sum(_MESSAGE_TOKENS + _bytes(message["content"]) for message in messages)
    if options.schema is not None:
        read += _bytes(json.dumps(options.schema))
    return used(Tokens(read=read, written=options.max_tokens), price)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _cost(tokens: Tokens, price: Price | None) -> int:
    if price is None:
        return 0
    # a price is in dollars per million tokens
    return round((tokens.read * price["input_usd"] + tokens.written * price["output_usd"]) * (_PICO / 10**6))


class Meter:
    """The account of one program. `declare` puts on record what it may have spent at most; `before` is what
    an earlier start of the same attempt has there.

    The record leads what is admitted by a block of calls, no more: so that the charge of a program that is
    killed stays near what it used. One thread at a time writes it, while the others go on.
    """

    def __init__(
        self, allowance: Allowance, declare: Callable[[Usage], None], before: Amount | None = None
    ) -> None:
        self._allowance = allowance
        cost = allowance["cost_usd"]
        self._max_cost = None if cost is None else int(cost * _PICO)
        self._declare = declare
        self._changed = threading.Condition()
        self._admitted: dict[int, Amount] = {}
        self._numbers = itertools.count()
        self._spent = self._total = self._declared = before or NOTHING  # the total: with what is admitted
        self._expected = self._block = NOTHING
        self._recorded: Usage | None = None
        self._writing = False
        self._cached = 0
        self._stopped = False

    def admit(self, bound: Amount) -> int | None:
        """Set aside what a call may use; a number to settle it by, or None once the meter is stopped.

        Waits while it may yet fit. Raises BudgetExhausted when it never will.
        """
        with self._changed:
            while not self._stopped:
                after = self._total + bound
                lack = self._lack(after, bound)
                if lack and not self._admitted:
                    raise BudgetExhausted(_message(lack))
                if lack or (self._writing and not after.within(self._declared)):
                    self._changed.wait(1.0)
                elif after.within(self._declared):
                    return self._admit(bound)
                else:
                    self._record(after + self._ahead(after, bound))
            return None

    def lack(self, bound: Amount) -> str:
        """Why it would not be admitted now, or nothing."""
        with self._changed:
            lack = self._lack(self._total + bound, bound)
            return _message(lack) if lack else ""

    def settle(self, number: int, amount: Amount) -> None:
        """The call is over, and this is what it used."""
        with self._changed:
            bound = self._admitted.pop(number)
            self._spent += amount
            self._total = self._total - bound + amount
            self._changed.notify_all()
            while not self._total.within(self._declared):  # a server used more than it was asked to
                if self._writing:
                    self._changed.wait(1.0)
                else:
                    self._record(self._total)

    def part(self, number: int, freed: Amount, amount: Amount) -> None:
        """A part of what was set aside together is over: it used `amount`, and `freed` was its bound."""
        with self._changed:
            freed = freed.least(self._admitted[number])
            self._admitted[number] -= freed
            self._spent += amount
            self._total = self._total - freed + amount
            enough = 4 * self._total.tokens < 3 * self._declared.tokens
            if not self._writing and (enough or not self._total.within(self._declared)):
                self._record(self._total)

    def announce(self, amount: Amount, block: Amount | None = None) -> None:
        """So much may be asked for next; on record is to be `block` of it at a time (None: all)."""
        with self._changed:
            self._expected += amount
            self._block = block or amount
            self._turn()
            wanted = self._total + self._ahead(self._total, NOTHING)
            if not wanted.within(self._declared):
                self._record(wanted)

    def exact(self) -> None:
        """Put on record what was really spent, if anything is on record. What was announced is over."""
        with self._changed:
            self._expected = NOTHING
            self._turn()
            if self._recorded not in (None, self._total.usage(self._cached)):
                self._record(self._total)

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
        """What was used; calls on their way count as what they may use."""
        with self._changed:
            return self._total.usage(self._cached)

    def _admit(self, bound: Amount) -> int:
        number = next(self._numbers)
        self._admitted[number] = bound
        self._total += bound
        self._expected -= bound
        if not self._writing and self._declared.calls - self._total.calls < self._block.calls // 2:
            wanted = self._total + self._ahead(self._total, NOTHING)
            if not wanted.within(self._declared):
                self._record(wanted)  # in time, so that nobody has to wait for it
        return number

    def _lack(self, after: Amount, bound: Amount) -> list[str]:
        """What is too little for it, in words."""
        allowed = self._allowance
        lack = []
        if after.calls > allowed["calls"]:
            lack.append(
                f"{max(0, allowed['calls'] - self._spent.calls)} of {allowed['calls']} calls are left"
            )
        if after.tokens > allowed["tokens"]:
            left = max(0, allowed["tokens"] - self._spent.tokens)
            lack.append(
                f"it may use {bound.tokens} tokens ({bound.read} for the prompt, {bound.written} for the "
                f"reply), and {left} of {allowed['tokens']} are left"
            )
        if self._max_cost is not None and after.cost > self._max_cost:
            left = max(0, self._max_cost - self._spent.cost)
            cost, whole = bound.cost / _PICO, self._max_cost / _PICO
            lack.append(f"it may cost ${cost:.4f}, and ${left / _PICO:.4f} of ${whole:.4f} are left")
        return lack

    def _ahead(self, total: Amount, bound: Amount) -> Amount:
        """What goes on record beyond the total: of what was announced, or some calls more like this one.

        Only so much as may really be spent: a record above the allowance would be nonsense.
        """
        ahead = self._expected.least(self._block) if self._expected.calls else _times(bound, _BLOCK - 1)
        tokens = max(0, self._allowance["tokens"] - total.tokens)
        written = min(ahead.written, tokens)
        room = ahead.cost if self._max_cost is None else max(0, self._max_cost - total.cost)
        return Amount(
            calls=min(ahead.calls, max(0, self._allowance["calls"] - total.calls)),
            read=min(ahead.read, tokens - written),
            written=written,
            cost=min(ahead.cost, room),
        )

    def _turn(self) -> None:
        """Wait until nobody writes the record."""
        while self._writing:
            self._changed.wait(1.0)

    def _record(self, amount: Amount) -> None:
        """Write the record. Called with the lock, which others may have meanwhile: what they admit then is
        within both, for a kill leaves the one or the other.
        """
        self._declared = amount.least(self._declared)
        self._recorded = usage = amount.usage(self._cached)
        self._writing = True
        self._changed.release()
        try:
            self._declare(usage)
        finally:
            self._changed.acquire()
            self._writing = False
            self._changed.notify_all()
        self._declared = amount


def _times(amount: Amount, factor: int) -> Amount:
    return Amount(
        calls=amount.calls * factor,
        read=amount.read * factor,
        written=amount.written * factor,
        cost=amount.cost * factor,
    )


def _message(lack: list[str]) -> str:
    return (
        f"the budget for model calls is used up: {'; '.join(lack)}. What was answered is kept and costs "
        "nothing again. Finish with what there is, or ask fewer or shorter prompts with a lower max_tokens"
    )
