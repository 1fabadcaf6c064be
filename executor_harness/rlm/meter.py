"""The account of model calls: admitted at their upper bound before they are made, settled to the server's
report after.

At no moment are more tokens, calls or dollars admitted than were allowed, so the budget holds whatever
replies come, or do not come. A call that does not fit waits while others are on their way: they mostly use
less than their bound.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from executor_harness.protocol import Allowance, Usage
from executor_harness.rlm.amounts import NOTHING, PICO, Amount
from executor_harness.rlm.chat import BudgetExhausted

_BLOCK = 8  # calls that are declared beforehand where nobody announced how many will come


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
                    raise BudgetExhausted(_message(lack))
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
            lack = self._lack(self._total + bound, bound)
            return _message(lack) if lack else ""

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

    def _lack(self, after: Amount, bound: Amount) -> list[str]:
        """Name the limit that is too small for it."""
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
        return lack

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


def _message(lack: list[str]) -> str:
    return (
        f"the budget for model calls is used up: {'; '.join(lack)}. What was answered is kept and costs "
        "nothing again. Finish with what there is, or ask fewer or shorter prompts with a lower max_tokens"
    )
