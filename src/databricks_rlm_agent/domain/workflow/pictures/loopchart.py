"""How many rows the iterations of a loop changed, as an SVG picture, from the JSON of a report. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from databricks_rlm_agent.domain.workflow.pictures.markup import Markup, el

_HEIGHT, _BASE, _TOP, _SIDE = 190.0, 158.0, 26.0, 12.0
_STEP, _MOST = 62.0, 920.0


def loop_chart(step: Mapping[str, Any]) -> Markup:
    """A bar for each iteration, its height by the logarithm of the rows that it changed."""
    iterations = step["iterations"]
    pitch = min(_STEP, _MOST / max(1, len(iterations)))
    width = 2 * _SIDE + pitch * len(iterations)
    most = max((each["changed"] or 0 for each in iterations), default=0)
    bars = [
        list(_bar(each, _SIDE + pitch * place, pitch, most, step, place))
        for place, each in enumerate(iterations)
    ]
    base = el("line", x1=_SIDE, y1=_BASE, x2=width - _SIDE, y2=_BASE, class_="base")
    return el(
        "svg",
        bars,
        base,
        viewBox=f"0 0 {width:.0f} {_HEIGHT:.0f}",
        class_="loop",
        style=f"max-width:{width:.0f}px",
        role="img",
        aria_label=f"Rows changed by the iterations of {step['id']}",
    )


def _bar(
    each: Mapping[str, Any], x: float, pitch: float, most: int, step: Mapping[str, Any], place: int
) -> Iterator[Markup]:
    changed = each["changed"]
    share = math.log1p(changed or 0) / math.log1p(most) if most else 0.0
    height = max(1.5, (_BASE - _TOP) * share)
    middle, before = x + pitch / 2, place < step["iterations_before"]
    kind = "rows before" if before else "rows none" if changed == 0 else "rows"
    told = "the first: nothing to compare" if changed is None else f"{changed:,} rows changed"
    title = el("title", f"iteration {each['n']}: {told}{', in an earlier run' if before else ''}")
    width = pitch * 0.7
    yield el(
        "rect", title, x=middle - width / 2, y=_BASE - height, width=width, height=height, rx=2, class_=kind
    )
    if pitch >= 30 or changed == 0:
        said = "-" if changed is None else short(changed)
        yield el("text", said, x=middle, y=_BASE - height - 6, class_="value", text_anchor="middle")
    if pitch >= 18 or place % 5 == 0:
        yield el("text", each["n"], x=middle, y=_BASE + 18, class_="tick", text_anchor="middle")


def short(number: int) -> str:
    """A number in at most five characters: ``812``, ``12.3k``, ``4M``."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= unit:
            scaled = number / (1000 if name == "k" else unit)
            return (f"{scaled:.1f}" if scaled < 100 else f"{scaled:.0f}").removesuffix(".0") + name
    return f"{number:,}"
