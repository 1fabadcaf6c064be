"""The four measurements. Each runs every contender in turn and gives rows of the one table."""

from __future__ import annotations

import math
import statistics
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rlm.rows import OURS, Row
from benchmarks.rlm.run import Contender, Done
from benchmarks.rlm.stubclient import Log

Take = Callable[[Done], float | None]
CONTEXTS = {"10 KB": 10_000, "1 MB": 1_000_000, "50 MB": 50_000_000}
ROUNDS, GAPS, WARM_UP = 2, 8, 2  # of runs and turns; the first ones import, connect and copy the context
SUB_LATENCY_S = 0.5
SMALL = 10_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured: turns of the long run, sizes of batches; ``at_once`` is how many ours may ask."""

    turns: int = 100
    sub_calls: Sequence[int] = (256, 2_000)
    contexts: Mapping[str, int]
    at_once: int = 64


def gaps(contenders: Sequence[Contender], plan: Plan) -> list[Row]:
    """From a root reply to the next root request, with a program that looks at 100 characters in between.

    Contexts take turns (A B C, C B A, …): a slow moment of the machine hits all alike.
    """
    labels = list(plan.contexts)
    seen: dict[str, dict[str, list[_Gap]]] = {label: {it.name: [] for it in contenders} for label in labels}
    for number in range(ROUNDS):
        for label in labels if number % 2 == 0 else reversed(labels):
            for it in contenders:
                run = it.run([it.dialect.peek()] * (GAPS + WARM_UP), context=plan.contexts[label])
                seen[label][it.name] += _gaps(run)[WARM_UP:]
    own, hops, whole = (
        {label: {name: _median_ms(found, take) for name, found in seen[label].items()} for label in labels}
        for take in (lambda gap: gap.own, lambda gap: gap.hop, lambda gap: gap.own + (gap.hop or 0.0))
    )
    first, last = labels[0], labels[-1]
    parts = (("job hop apart", own), ("the job hop itself", hops), ("all in all", whole))
    rows = [
        Row(bench="gap", what=f"{label} of context, {part}", unit="ms", values=figures[label])
        for part, figures in parts
        for label in labels
    ]
    ratio = _over("gap", f"{last} over {first}, job hop apart", own[last], own[first], target=1.2)
    return [*rows[: len(labels)], ratio, *rows[len(labels) :]]


def sub_calls(contenders: Sequence[Contender], plan: Plan) -> list[Row]:
    """Batches of sub-calls of half a second, timed in the program that asks them.

    The first size is asked in several rounds, contenders in turn, and in the last one twice.
    """
    rows = []
    for count in plan.sub_calls:
        twice = count == plan.sub_calls[0]
        earlier = [
            {it.name: _batch(it, count, times=1) for it in contenders} for _ in range(ROUNDS if twice else 0)
        ]
        done = {it.name: _batch(it, count, times=2 if twice else 1) for it in contenders}
        took = {
            name: statistics.median(batch[name].seconds[0] for batch in [*earlier, done]) for name in done
        }
        most = {name: batch.at_once for name, batch in done.items()}
        limits = {
            name: math.ceil(count / (plan.at_once if name == OURS else most[name])) * SUB_LATENCY_S
            for name in done
        }
        what = f"{count:,} of {SUB_LATENCY_S} s"
        rows += [
            Row(bench="sub-calls", what=f"{what}, wall time", unit="s", values=took),
            Row(bench="sub-calls", what=f"{what}, most at once", unit="", values=most),
            _over("sub-calls", f"{what}, over the limit by calls at once", took, limits, target=1.15),
        ]
        if twice:
            again = {name: batch.seconds[1] for name, batch in done.items()}
            paid = {name: batch.calls - count for name, batch in done.items()}
            rows += [
                Row(bench="sub-calls", what=f"{what}, the same again: wall time", unit="s", values=again),
                Row(bench="sub-calls", what=f"{what}, the same again: calls", unit="calls", values=paid),
            ]
    return rows


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """A batch that was asked once, or again in a next turn: seconds of each time; calls, most at once."""

    seconds: Sequence[float]
    at_once: int
    calls: int


def _batch(it: Contender, count: int, *, times: int) -> _Batch:
    about = uuid.uuid4().hex  # nobody has asked this before
    with tempfile.TemporaryDirectory() as folder:
        notes = [Path(folder) / str(number) for number in range(times)]
        programs = [it.dialect.sub_calls(count, str(note), about) for note in notes]
        log = it.run(programs, context=SMALL, sub_latency_s=SUB_LATENCY_S).log
        seconds = [float(note.read_text()) for note in notes]
    first = Log(calls=[call for call in log.calls if call.started < log.root[1].started])
    return _Batch(seconds=seconds, at_once=first.most_at_once(), calls=len(log.sub))


def prompts(contenders: Sequence[Contender], plan: Plan) -> list[Row]:
    """Characters of the root model's messages, with 30,000 characters printed in each turn."""
    done = {
        it.name: it.run([it.dialect.chatter(turn) for turn in range(1, plan.turns)], context=SMALL)
        for it in contenders
    }
    turns = [turn for turn in (1, 10, 21, 100) if turn <= plan.turns]
    chars = {turn: _each(done, _at(turn, "chars")) for turn in turns}
    tools = {turn: _each(done, _at(turn, "tools")) for turn in turns}
    last = turns[-1]
    rows = [
        Row(
            bench="prompt",
            what=f"turn {turn}",
            unit="chars",
            values=chars[turn],
            target=15_999 if turn == last else None,
        )
        for turn in turns
    ]
    rows.append(Row(bench="prompt", what="declarations of tools, apart", unit="chars", values=tools[last]))
    if last > 10:
        rows.append(_over("prompt", f"turn {last} over turn 10", chars[last], chars[10], target=1.0))
    return rows


def usage(contenders: Sequence[Contender], _: Plan) -> list[Row]:
    """What a contender reports at the end, less than what the stub counted: 0 is exact."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        note = str(Path(folder) / "seconds")
        batch = {it.name: it.dialect.sub_calls(10, note, uuid.uuid4().hex) for it in contenders}
        flat = {it.name: it.run([batch[it.name]], context=SMALL) for it in contenders}
        nested = {it.name: it.run([it.dialect.child], context=SMALL, children=1) for it in contenders}
    for what, runs in (("with 10 sub-calls", flat), ("with a child", nested)):
        for key, unit in (("calls", "calls"), ("input_tokens", "tokens"), ("output_tokens", "tokens")):
            missing = _each(runs, _unreported(key))
            name = f"{what}, {key.replace('_', ' ')} not reported"
            rows.append(Row(bench="usage", what=name, unit=unit, values=missing, target=0))
        made = _each(runs, lambda run: run.log.usage()["calls"])
        rows.append(Row(bench="usage", what=f"{what}, calls made", unit="calls", values=made))
    return rows


MEASURES: dict[str, Callable[[Sequence[Contender], Plan], list[Row]]] = {
    "gap": gaps,
    "sub-calls": sub_calls,
    "prompt": prompts,
    "usage": usage,
}


def _each(runs: Mapping[str, Done], take: Take) -> dict[str, float | None]:
    return {name: take(run) for name, run in runs.items()}


@dataclass(frozen=True, kw_only=True)
class _Gap:
    """Seconds between two turns: the contender's own, and those of a job hop if it makes one."""

    own: float
    hop: float | None


def _gaps(run: Done) -> list[_Gap]:
    lengths = [end - begin for begin, end in run.log.gaps()]
    if not run.hops:
        return [_Gap(own=length, hop=None) for length in lengths]
    return [_Gap(own=length - hop, hop=hop) for length, hop in zip(lengths, run.hops, strict=True)]


def _median_ms(gaps: Sequence[_Gap], take: Callable[[_Gap], float | None]) -> float | None:
    values = [value for gap in gaps if (value := take(gap)) is not None]
    return statistics.median(values) * 1000 if values else None


def _at(turn: int, figure: str) -> Take:
    """A figure of the root call of a turn."""
    return lambda run: float(getattr(run.log.root[turn - 1], figure))


def _unreported(key: str) -> Take:
    """What the stub counted less what was told."""

    def take(run: Done) -> float | None:
        told = run.usage[key]
        return None if told is None else run.log.usage()[key] - told

    return take


def _over(
    bench: str,
    what: str,
    above: Mapping[str, float | None],
    below: Mapping[str, float | None],
    *,
    target: float | None,
) -> Row:
    """One figure over another, to three decimals: a counter in a prompt may gain a digit."""
    values = {
        name: round(value / base, 3) if value is not None and (base := below.get(name)) else None
        for name, value in above.items()
    }
    return Row(bench=bench, what=what, unit="x", values=values, target=target)
