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
        self._spent = self._declared = before or NOTHING
        self._recorded: Usage | None = None
        self._cached = 0
        self._stopped = False

    def admit(self, bound: Amount) -> int | None:
        """Set aside what a call may use; a number to settle it by, or None once the meter is stopped.

        Waits while it may yet fit. Raises BudgetExhausted when it never will.
        """
        with self._changed:
            while not self._stopped:
                lack = self._lack(bound)
                if not lack:
                    number = next(self._numbers)
                    self._admitted[number] = bound
                    self._cover(_times(bound, _BLOCK - 1))
                    return number
                if not self._admitted:
                    raise BudgetExhausted(_message(lack))
                self._changed.wait(1.0)
            return None

    def settle(self, number: int, amount: Amount) -> None:
        """The call is over, and this is what it used."""
        with self._changed:
            del self._admitted[number]
            self._spent += amount
            self._cover(NOTHING)  # only where a server used more than it was asked to
            self._changed.notify_all()

    def announce(self, amount: Amount) -> None:
        """So much may be asked for next: one record for all of it, where there would be many."""
        with self._changed:
            total = self._total()
            wanted = total + self._fitting(amount, total)
            if not wanted.within(self._declared):
                self._record(wanted)

    def exact(self) -> None:
        """Put on record what was really spent, if anything is on record."""
        with self._changed:
            if self._recorded not in (None, self._total().usage(self._cached)):
                self._record(self._total())

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
            return self._total().usage(self._cached)

    def _total(self) -> Amount:
        return sum(self._admitted.values(), self._spent)

    def _lack(self, bound: Amount) -> list[str]:
        """What is too little for it, in words."""
        after, allowed = self._total() + bound, self._allowance
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

    def _cover(self, ahead: Amount) -> None:
        """Have what is admitted on record; if it is not, so much more with it."""
        total = self._total()
        if not total.within(self._declared):
            self._record(total + self._fitting(ahead, total))

    def _fitting(self, ahead: Amount, total: Amount) -> Amount:
        """So much of it as may really be spent: a record above the allowance would be nonsense."""
        tokens = max(0, self._allowance["tokens"] - total.tokens)
        written = min(ahead.written, tokens)
        room = ahead.cost if self._max_cost is None else max(0, self._max_cost - total.cost)
        return Amount(
            calls=min(ahead.calls, max(0, self._allowance["calls"] - total.calls)),
            read=min(ahead.read, tokens - written),
            written=written,
            cost=min(ahead.cost, room),
        )

    def _record(self, amount: Amount) -> None:
        self._recorded = amount.usage(self._cached)
        self._declare(self._recorded)
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
