"""Draws the charts of a workflow report as SVG: when each step ran, and how loops converged. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from databricks_rlm_agent.sqlflow.report.plans import stage_name

_EMPTY = {"meta", "rect", "line", "path", "circle", "br", "wbr"}


class Markup(str):
    """Text that is markup already. It is only made in this module, and from constants."""

    __slots__ = ()


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element. ``class_`` is ``class``, ``_`` in names of attributes is ``-``; None is left out."""
    attrs = "".join(
        f' {key.strip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY and not children:
        return Markup(f"<{name}{attrs}/>")
    return Markup(f"<{name}{attrs}>{joined(*children)}</{name}>")


def joined(*children: object) -> Markup:
    """Return the children one after another; lists are flattened, None is left out."""
    parts = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(str(child))
        elif isinstance(child, list | tuple):
            parts.append(str(joined(*child)))
        elif child is not None:
            parts.append(escape(_text(child)))
    return Markup("".join(parts))


def _text(value: object) -> str:
    """Return text without characters that XML forbids, and numbers with one digit after the point."""
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(value))


def seconds(number: float) -> str:
    """Return a time for people: ``0.04 s``, ``0.4 s``, ``12.3 s``, ``4 min 05 s``, ``2 h 03 min``."""
    if number < 0.095:
        return f"{number:.2f} s"
    if number < 100:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    hours, some = divmod(minutes, 60)
    return f"{hours} h {some:02d} min" if hours else f"{minutes} min {rest:02d} s"


Document = Mapping[str, Any]

_HEIGHT, _BASE, _TOP, _SIDE = 190.0, 158.0, 26.0, 12.0
_STEP, _MOST = 62.0, 920.0


def loop_chart(step: Document) -> Markup:
    """Draw a bar for each iteration, as high as the logarithm of the rows that it changed."""
    iterations = step["iterations"]
    pitch = min(_STEP, _MOST / max(1, len(iterations)))
    width = 2 * _SIDE + pitch * len(iterations)
    most = max((each["changed"] or 0 for each in iterations), default=0)
    bars = [list(_bar(step, place, pitch, most)) for place in range(len(iterations))]
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


def _bar(step: Document, place: int, pitch: float, most: int) -> Iterator[Markup]:
    each = step["iterations"][place]
    changed = each["changed"]
    share = math.log1p(changed or 0) / math.log1p(most) if most else 0.0
    height = max(1.5, (_BASE - _TOP) * share)
    middle, before = _SIDE + pitch * (place + 0.5), place < step["iterations_before"]
    kind = "rows before" if before else "rows none" if changed == 0 else "rows"
    label = "the first: nothing to compare" if changed is None else f"{changed:,} rows changed"
    title = el("title", f"iteration {each['n']}: {label}{', in an earlier run' if before else ''}")
    size: dict[str, float] = {"width": pitch * 0.7, "height": height}
    yield el("rect", title, x=middle - pitch * 0.35, y=_BASE - height, **size, rx=2, class_=kind)
    if pitch >= 30 or changed == 0:
        value = "-" if changed is None else short(changed)
        yield el("text", value, x=middle, y=_BASE - height - 6, class_="value", text_anchor="middle")
    if pitch >= 18 or place % 5 == 0:
        yield el("text", each["n"], x=middle, y=_BASE + 18, class_="tick", text_anchor="middle")


def short(number: int) -> str:
    """Return a number in at most five characters: ``812``, ``12.3k``, ``4M``."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= unit:
            scaled = number / (1000 if name == "k" else unit)
            return (f"{scaled:.1f}" if scaled < 100 else f"{scaled:.0f}").removesuffix(".0") + name
    return f"{number:,}"


_WIDTH, _LEFT, _RIGHT = 1000.0, 250.0, 70.0
_ROW, _HEAD = 24.0, 22.0
_NAME = 34  # characters of a name that fit
_LEAST = 2.0  # of a bar, so that it is seen


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Converts seconds after the start to x coordinates."""

    total: float

    def x(self, at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(1.0, max(0.0, at / self.total))


@dataclass(frozen=True, kw_only=True)
class _Bar:
    """A step that ran, and where it is drawn."""

    step: Document
    start: float
    end: float
    y: float


def timeline(report: Document) -> Markup:
    """Draw stages as bands, steps as bars with the iterations of loops in them, and the critical path."""
    scale = _Scale(total=max(float(report["seconds"]), 0.001))
    began = datetime.fromisoformat(report["started_at"])
    bands, rows, bars, y = [], [], [], _TOP
    for place, (stage, steps) in enumerate(_stages(report["steps"])):
        height = _HEAD + _ROW * len(steps)
        bands.append(_band(stage_name(stage), y, height, shaded=place % 2 == 0))
        for n, step in enumerate(steps):
            middle = y + _HEAD + _ROW * (n + 0.5)
            rows.append(_label(step, middle))
            if step["started_at"] is not None:
                start = (datetime.fromisoformat(step["started_at"]) - began).total_seconds()
                bars.append(_Bar(step=step, start=start, end=start + float(step["seconds"]), y=middle))
        y += height
    after = list(_checks(report, bars, scale, y))
    y += _ROW if after else 0.0
    drawn = [_drawn(bar, scale, path=bar.step["id"] in report["path"]) for bar in bars]
    parts = [bands, list(_axis(scale, y)), _links(report["path"], bars, scale), drawn, rows, after]
    size = f"0 0 {_WIDTH:.0f} {y + 4:.0f}"
    return el("svg", *parts, viewBox=size, class_="timeline", role="img", aria_label="When each step ran")


def _stages(steps: Sequence[Document]) -> list[tuple[int | None, list[Document]]]:
    order = list(dict.fromkeys(step["stage"] for step in steps))
    return [(stage, [step for step in steps if step["stage"] == stage]) for stage in order]


def _band(name: str, y: float, height: float, *, shaded: bool) -> Markup:
    back = el("rect", x=0, y=y, width=_WIDTH, height=height, class_="band" if shaded else "band light")
    return el("g", back, el("text", name, x=8, y=y + 15, class_="stage"))


def _axis(scale: _Scale, bottom: float) -> Iterator[Markup]:
    for tick in _ticks(scale.total):
        x = scale.x(tick)
        yield el("line", x1=x, y1=_TOP, x2=x, y2=bottom, class_="grid")
        yield el("text", _tick(tick), x=x, y=_TOP - 9, class_="tick", text_anchor="middle")


def _ticks(total: float) -> list[float]:
    """Return five to ten round times."""
    raw = total / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= raw)
    return [step * n for n in range(int(total / step) + 1)]


def _tick(tick: float) -> str:
    return f"{tick:g} s" if tick < 100 else seconds(tick)


def _label(step: Document, y: float) -> Markup:
    name, ran = str(step["id"]), step["started_at"] is not None
    cut = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
    text = el("text", el("title", name), cut, x=22, y=y + 4, class_="name" if ran else "name off")
    status = {"kept": "done before"}.get(step["status"], step["status"])
    return text if ran else el("g", text, el("text", status, x=_LEFT + 6, y=y + 4, class_="off"))


def _drawn(bar: _Bar, scale: _Scale, *, path: bool) -> Markup:
    left, right = scale.x(bar.start), scale.x(bar.end)
    width = max(_LEAST, right - left)
    kind = f"bar {str(bar.step['status']).replace(' ', '-')}{' path' if path else ''}"
    top, height, took = bar.y - 8, 16.0, seconds(float(bar.step["seconds"]))
    label = f"{bar.step['id']}: {bar.step['status']}, {took}"
    shape = el("rect", el("title", label), x=left, y=top, width=width, height=height, rx=3, class_=kind)
    inside = list(_iterations(bar, scale, top, height))
    time = el("text", took, x=left + width + 5, y=bar.y + 4, class_="time")
    return el("g", shape, *inside, time)


def _iterations(bar: _Bar, scale: _Scale, top: float, height: float) -> Iterator[Markup]:
    """Draw this run's iterations, every other one shaded, with the rows that each changed."""
    at = bar.start
    for place, each in enumerate(bar.step["iterations"][bar.step["iterations_before"] :]):
        left, at = scale.x(at), at + float(each["seconds"])
        changed = "the first" if each["changed"] is None else f"{each['changed']:,} rows changed"
        title = el("title", f"iteration {each['n']}: {changed}, {seconds(float(each['seconds']))}")
        kind = "iteration" if place % 2 else "iteration odd"
        right = min(scale.x(at), scale.x(bar.end))
        yield el("rect", title, x=left, y=top, width=max(0.0, right - left), height=height, class_=kind)


def _links(path: Sequence[str], bars: Sequence[_Bar], scale: _Scale) -> list[Markup]:
    """Draw lines from the end of each step of the critical path to the start of the next."""
    by_id = {bar.step["id"]: bar for bar in bars}
    on_path = [by_id[step] for step in path if step in by_id]
    lines = []
    for one, two in itertools.pairwise(on_path):
        x1, x2 = scale.x(one.end), scale.x(two.start)
        d = f"M{x1:.1f} {one.y:.1f} C{x1 + 14:.1f} {one.y:.1f} {x2 - 14:.1f} {two.y:.1f} {x2:.1f} {two.y:.1f}"
        lines.append(el("path", d=d, class_="link"))
    return lines


def _checks(report: Document, bars: Sequence[_Bar], scale: _Scale, y: float) -> Iterator[Markup]:
    if not report["tables"]:
        return
    last = max((bar.end for bar in bars), default=0.0)
    left = scale.x(last)
    width = max(_LEAST, scale.x(scale.total) - left)
    yield el("text", "tables are checked", x=22, y=y + 16, class_="name")
    yield el("rect", x=left, y=y + 4, width=width, height=16, rx=3, class_="bar checks")
