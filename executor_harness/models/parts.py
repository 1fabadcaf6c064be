"""Parts of a large question to all rows: how many prompts, how many bytes, and what they may use. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from executor_harness.models import workers
from executor_harness.models.chat import Options
from executor_harness.models.meter import Amount
from executor_harness.protocol import ModelAccess, Price

_PARTITIONS = 8  # they run at once on all but the smallest clusters


@dataclass(frozen=True, kw_only=True)
class Part:
    """Prompts to ask: buckets from `first` to `last`, how many, and their size in bytes."""

    first: int
    last: int
    prompts: int
    size: int

    def bound(self, options: Options, price: Price | None) -> Amount:
        """The most that asking them may use; with a schema, each may need a repair."""
        each = workers.most_of("", options, price)
        read, written = each.read * self.prompts + self.size, each.written * self.prompts
        cost = 0
        if price is not None:
            cost = round((read * price["input_usd"] + written * price["output_usd"]) * 10**6) + self.prompts
        return times(Amount(calls=self.prompts, read=read, written=written, cost=cost), calls_each(options))


def calls_each(options: Options) -> int:
    """Calls that one prompt may need: with a schema, one more to repair the answer."""
    return 1 if options.schema is None else 2


def spread_of(access: ModelAccess, prompts: int) -> tuple[int, int]:
    """Partitions, and threads in each: together no more calls at once than allowed, and nearly as many."""
    calls = access["concurrency"]
    most = min(_PARTITIONS, calls, prompts, access["per_minute"] or _PARTITIONS)
    best = max(range(1, most + 1), key=lambda partitions: (partitions * (calls // partitions), partitions))
    return best, calls // best


def waves(parts: list[Part], most: float = math.inf, size: float = math.inf) -> list[Part]:
    """Parts that follow each other, joined up to `most` prompts and `size` bytes; a larger one stays."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last is None or last.prompts + part.prompts > most or last.size + part.size > size:
            joined.append(part)
            continue
        joined[-1] = Part(
            first=last.first,
            last=part.last,
            prompts=last.prompts + part.prompts,
            size=last.size + part.size,
        )
    return joined


def times(amount: Amount, factor: int) -> Amount:
    """So much, so many times."""
    return Amount(
        calls=amount.calls * factor,
        read=amount.read * factor,
        written=amount.written * factor,
        cost=amount.cost * factor,
    )


def share(amount: Amount, some: int, of: int) -> Amount:
    """The share of some prompts in what all of them may use, rounded up."""
    return Amount(
        calls=-(-amount.calls * some // of),
        read=-(-amount.read * some // of),
        written=-(-amount.written * some // of),
        cost=-(-amount.cost * some // of),
    )
