"""Amounts of model calls: their usage and their limits. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from executor_harness.protocol import ModelAccess, Price, Usage
from executor_harness.rlm.chat import Message, Options, Tokens, messages_of

# Costs are kept as whole millionths of a millionth of a dollar: sums of floats would drift.
PICO = 10**12
_MESSAGE_TOKENS = 16  # for what a chat template adds to each message, and
_REQUEST_TOKENS = 64  # to the whole
_PARTITIONS = 8  # they run at once on all but the smallest clusters


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


# For `llm_map`, which asks many prompts at a time.


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
