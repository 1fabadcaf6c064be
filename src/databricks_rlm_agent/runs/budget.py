"""The limits of a run and what it has spent. Pure: stored as JSON in ``run_state.budget``.

A claim may make ``PLAN_CALLS`` model calls at most. What a controller asked that died before it could report
is known by the record that it leaves before every call (``controller.journal``), or by its plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field

from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.runs.parsing import Document
from executor_harness import protocol

# Enough for one claim: a summary read in parts, the planner's tool calls, refusals and its decision.
PLAN_CALLS = 24
# Tokens that a program's model calls must leave to the planner, which has to make something of them.
_KEPT_TOKENS = 50_000


# JSON knows no infinity: what is stored must be readable again.
class Usage(Document, allow_inf_nan=False):
    """Model usage: calls, tokens, cost in US dollars.

    Tokens are as the models report them, estimated upward where they do not; the cost is 0 where no price is
    known.
    """

    calls: int = Field(default=0, ge=0)
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    cost_usd: float = Field(default=0.0, ge=0)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost_usd=self.cost_usd + other.cost_usd,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            calls=max(0, self.calls - other.calls),
            input_tokens=max(0, self.input_tokens - other.input_tokens),
            output_tokens=max(0, self.output_tokens - other.output_tokens),
            cost_usd=max(0.0, self.cost_usd - other.cost_usd),
        )


class Share(Document, allow_inf_nan=False):
    """An amount of everything that a budget counts: what is lent to child runs, or what one has spent."""

    usage: Usage = Usage()
    sub_usage: Usage = Usage()
    executor_s: float = Field(default=0.0, ge=0)
    children: int = Field(default=0, ge=0)

    def __add__(self, other: Share) -> Share:
        return Share(
            usage=self.usage + other.usage,
            sub_usage=self.sub_usage + other.sub_usage,
            executor_s=self.executor_s + other.executor_s,
            children=self.children + other.children,
        )


class Budget(Document, allow_inf_nan=False):
    """Limits of a run with all its child runs, and what of them is used up. Times are in seconds;
    ``max_cost_usd`` None is no limit.

    ``usage`` is the planners', ``sub_usage`` that of the programs' own model calls; tokens and cost of both
    count together. ``reported_epoch`` is the lease epoch that was saved last: the claims since then have not
    reported; None where an earlier version wrote the row. The record of model calls is accounted for up to
    its entry ``recorded``. ``reserved_s`` is the time-out of the job run that is on its way, ``on_loan`` what
    child runs at work may spend. ``children`` counts the child runs that were made, and those below them once
    these have ended. ``sub_concurrency`` is a child's part of the calls that a whole run may make at once.
    """

    max_iterations: int = Field(default=30, ge=1)
    max_attempts: int = Field(default=3, ge=1)
    max_model_calls: int = Field(default=300, ge=1)
    max_sub_calls: int = Field(default=10_000, ge=0)
    max_tokens: int = Field(default=5_000_000, ge=1)
    max_cost_usd: float | None = Field(default=None, gt=0)
    max_executor_s: float = Field(default=86_400.0, gt=0)
    max_wall_s: float = Field(default=7 * 86_400.0, gt=0)
    max_depth: int = Field(default=2, ge=0, le=8)
    max_children: int = Field(default=32, ge=0)
    usage: Usage = Usage()
    sub_usage: Usage = Usage()
    children: int = Field(default=0, ge=0)
    on_loan: Share = Share()
    sub_concurrency: int | None = Field(default=None, ge=1)
    executor_s: float = Field(default=0.0, ge=0)
    reported_epoch: int | None = Field(default=None, ge=0)
    recorded: int = Field(default=0, ge=0)
    reserved_s: float = Field(default=0.0, ge=0)

    @property
    def calls_left(self) -> int:
        """The planners' model calls that are neither used nor on loan."""
        return max(0, self.max_model_calls - self.usage.calls - self.on_loan.usage.calls)

    @property
    def sub_calls_left(self) -> int:
        """Model calls that programs may make."""
        return max(0, self.max_sub_calls - self.sub_usage.calls - self.on_loan.sub_usage.calls)

    @property
    def tokens_left(self) -> int:
        """Tokens, of the question and the answer together."""
        used = self._all_usage()
        return max(0, self.max_tokens - used.input_tokens - used.output_tokens)

    @property
    def cost_left_usd(self) -> float | None:
        """US dollars; None where the cost has no limit."""
        if self.max_cost_usd is None:
            return None
        return max(0.0, self.max_cost_usd - self._all_usage().cost_usd)

    @property
    def executor_left_s(self) -> float:
        """Seconds of job runs."""
        return max(0.0, self.max_executor_s - self.executor_s - self.reserved_s - self.on_loan.executor_s)

    def children_left(self, depth: int) -> int:
        """How many child runs a run of that depth may spawn at once; 0 where it is as deep as it may be."""
        if depth >= self.max_depth:
            return 0
        return min(protocol.CHILDREN, max(0, self.max_children - self.children), max(0, self.calls_left - 1))

    def allowance(self) -> protocol.Allowance:
        """Return the share of the next program for model calls; some tokens are kept for the planner."""
        tokens = self.tokens_left
        return protocol.Allowance(
            calls=self.sub_calls_left,
            tokens=max(0, tokens - min(_KEPT_TOKENS, tokens // 10)),
            cost_usd=self.cost_left_usd,
        )

    def spent(self) -> Share:
        """All that is gone, or may be."""
        own = Share(
            usage=self.usage,
            sub_usage=self.sub_usage,
            executor_s=self.executor_s + self.reserved_s,
            children=self.children,
        )
        return own + self.on_loan

    def spend(self, usage: Usage) -> Self:
        """This budget after ``usage``."""
        return self.model_copy(update={"usage": self.usage + usage})

    def spend_sub(self, usage: Usage) -> Self:
        """This budget after a program's model calls."""
        return self.model_copy(update={"sub_usage": self.sub_usage + usage})

    def lend(self, count: int, *, wall_s: float) -> Self:
        """This budget with ``count`` child runs at work; ``part`` is the budget of each of them.

        Everybody gets the same part of what is left, the parent too: it has to make something of the
        answers. Raises InvalidData where a part is too small to do anything with.
        """
        parts = count + 1
        cost = self.cost_left_usd
        part = Share(
            usage=Usage(
                calls=self.calls_left // parts,
                input_tokens=self.tokens_left // parts,
                cost_usd=0.0 if cost is None else cost / parts,
            ),
            sub_usage=Usage(calls=self.sub_calls_left // parts),
            executor_s=self.executor_left_s / parts,
            children=max(0, self.max_children - self.children - count) // count,
        )
        enough = part.usage.calls and part.usage.input_tokens and part.executor_s >= 1 and wall_s >= 1
        if not enough or (part.usage.cost_usd == 0 and cost is not None):
            raise InvalidData(
                f"What is left of the budget is too little for {count} child runs.",
                fix="Ask for fewer, or do the work in this run.",
            )
        on_loan = sum((part for _ in range(count)), Share())
        return self.model_copy(update={"on_loan": on_loan, "children": self.children + count})

    def part(self, count: int, *, wall_s: float) -> Self:
        """The budget of each of ``count`` child runs at work: the same whenever it is asked for."""
        part = _part(self.on_loan, count)
        return type(self)(
            max_iterations=self.max_iterations,
            max_attempts=self.max_attempts,
            max_model_calls=part.usage.calls,
            max_sub_calls=part.sub_usage.calls,
            max_tokens=part.usage.input_tokens,
            max_cost_usd=None if self.max_cost_usd is None else part.usage.cost_usd,
            max_executor_s=part.executor_s,
            max_wall_s=wall_s,
            max_depth=self.max_depth,
            max_children=part.children,
        )

    def repaid(self, spent: Sequence[Share | None]) -> Self:
        """This budget when no child run is at work any more, and what each has spent: all of its part where
        nobody knows. Without any child known, all that is on loan stays so.
        """
        if not spent:
            return self
        part = _part(self.on_loan, len(spent))
        total = sum((part if known is None else known for known in spent), Share())
        return self.model_copy(
            update={
                "usage": self.usage + total.usage,
                "sub_usage": self.sub_usage + total.sub_usage,
                "executor_s": self.executor_s + total.executor_s,
                "children": self.children + total.children,
                "on_loan": Share(),
            }
        )

    def lent_to(self, child: Budget, count: int) -> bool:
        """Return whether ``child`` is what one of ``count`` was lent, not a damaged row's substitute."""
        part = _part(self.on_loan, count)
        lent = (part.usage.calls, part.sub_usage.calls, part.usage.input_tokens)
        return (child.max_model_calls, child.max_sub_calls, child.max_tokens) == lent

    def reported(self, epoch: int, *, recorded: int = 0) -> Self:
        """This budget when the claim of that epoch, and all before it, are accounted for."""
        return self.model_copy(update={"reported_epoch": epoch, "recorded": recorded})

    def unreported(self, epoch: int) -> range:
        """The epochs before ``epoch`` whose claims have not reported."""
        return range(epoch if self.reported_epoch is None else self.reported_epoch + 1, epoch)

    def adopt(self, usage: Usage, *, known: Usage) -> Self:
        """This budget when the plan of a claim that never reported is found: what the plan says that it used
        replaces what was ``known`` of it by its record.
        """
        return self.model_copy(update={"usage": self.usage - known + usage})

    def for_plan(self, *, used: int) -> Self:
        """Return what a claim may still spend that has made ``used`` model calls, which are counted."""
        left = max(0, min(PLAN_CALLS - used, self.calls_left))
        calls = self.usage.calls + self.on_loan.usage.calls + left
        return self.model_copy(update={"max_model_calls": calls})

    def starting(self, timeout_s: float) -> Self:
        """This budget when a job run has been submitted that may take so many seconds."""
        return self.model_copy(update={"reserved_s": timeout_s})

    def executed(self, seconds: float) -> Self:
        """This budget when the job run is over."""
        return self.model_copy(update={"reserved_s": 0.0, "executor_s": self.executor_s + seconds})

    def granted_s(self, wanted_s: float, *, age_s: float) -> int:
        """The time-out that a program gets: never more than what is left of the run's own time."""
        return int(min(wanted_s, self.executor_left_s, self.max_wall_s - age_s))

    def exhausted(self, iter_n: int, *, age_s: float) -> str | None:
        """Why a run of that age may not go on with iteration ``iter_n``, or None."""
        checks = (
            (iter_n > self.max_iterations, f"{self.max_iterations} iterations"),
            (self.calls_left <= 0, f"{self.max_model_calls} model calls"),
            (self.tokens_left <= 0, f"{self.max_tokens:,} tokens"),
            (self.cost_left_usd == 0, f"{self.max_cost_usd} US dollars"),
            (self.executor_left_s < 1, f"{self.max_executor_s:,.0f} seconds of job runs"),
            (age_s > self.max_wall_s - 1, f"{self.max_wall_s:,.0f} seconds"),
        )
        used = [what for spent, what in checks if spent]
        return f"The run has used its {used[0]}." if used else None

    def _all_usage(self) -> Usage:
        return self.usage + self.sub_usage + self.on_loan.usage + self.on_loan.sub_usage


def _part(loan: Share, count: int) -> Share:
    """Return the part that one of ``count`` has of a loan; see ``Budget.lend``."""
    return Share(
        usage=Usage(
            calls=loan.usage.calls // count,
            input_tokens=loan.usage.input_tokens // count,
            cost_usd=loan.usage.cost_usd / count,
        ),
        sub_usage=Usage(calls=loan.sub_usage.calls // count),
        executor_s=loan.executor_s / count,
        children=loan.children // count,
    )
