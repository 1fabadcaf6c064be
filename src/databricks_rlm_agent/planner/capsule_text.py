"""The capsule as text for a prompt: each part within its room, and all of them within the whole. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from databricks_rlm_agent.runs.capsule.capsule import Capsule, TableNote
from databricks_rlm_agent.runs.capsule.packing import CapsuleItem, Gist
from databricks_rlm_agent.values import clip

_SCALES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_SHOWN = (
    8  # items of a list; fewer than a capsule holds, so that a long run's list is no longer than a short's
)
_ITEM_CHARS = 300
_LEAST = 120


def capsule_text(capsule: Capsule, *, room: int, searchable: bool) -> list[str]:
    """What the capsule holds, in at most ``room`` characters with the blank lines between.

    ``searchable`` says that there is a tool to find what is not shown.
    """
    parts: list[str] = []
    for scale in _SCALES:
        parts = _parts(capsule, scale, searchable)
        if sum(len(part) + 2 for part in parts) <= room:
            break
    return parts


def data(source: str, text: Any, limit: int) -> str:
    """A text that is not to be obeyed, marked as such; nothing for an empty one."""
    if not text:
        return ""
    # A closing mark inside would let the data speak as us.
    safe = clip(str(text).replace("</data", "<_data"), limit)
    return f'<data source="{source}">\n{safe}\n</data>'


def _parts(capsule: Capsule, scale: float, searchable: bool) -> list[str]:
    def part(source: str, text: Callable[[int], str], limit: int) -> str:
        size = max(_LEAST, int(limit * scale))
        return data(source, text(size), size)

    def items(name: str) -> Callable[[int], str]:
        return lambda size: _items(getattr(capsule, name), capsule.earlier.get(name), size, searchable)

    checks = "\n".join(f"- {' '.join(str(check).split())}" for check in capsule.checks)
    parts = [
        # What people said gives way last.
        data("constraints, said by people", _constraints(capsule, int(2_800 * max(scale, 0.5))), 2_900),
        part("inputs", lambda size: _inputs(capsule, size), 1_700),
        checks and "finish is accepted only if each of these checks holds:",
        part("acceptance checks", lambda _size: checks, 1_400),
        part("variables", lambda size: _variables(capsule, size), 800),
        part("answers of child runs, inputs of these names", lambda size: _answers(capsule, size), 1_200),
        part("done so far", items("decisions"), 1_000),
        part("failed approaches", items("failed_approaches"), 1_300),
        part("known tables", lambda size: _tables(capsule.tables, size), 1_100),
        part("files", items("artifacts"), 500),
        part("last result", lambda _size: capsule.last_result, 3_000) or "No program has run yet.",
    ]
    return [text for text in parts if text]


def _constraints(capsule: Capsule, room: int) -> str:
    """The newest and the first, as much of each as there is room for."""
    said = [" ".join(text.split()) for text in capsule.constraints]
    if not said:
        return ""
    gist = capsule.earlier.get("constraints", Gist())
    middle = f"({gist.count} more, in short: {' | '.join(gist.heads)})" if gist.count else ""
    each = max(60, (room - min(len(middle), room // 4)) // len(said) - 3)
    spare = sum(max(0, each - len(text)) for text in said)
    lines = [f"- {clip(text, each + spare // len(said))}" for text in said]
    if middle:
        lines.insert(min(4, len(lines)), f"- {clip(middle, max(60, room // 4))}")
    return clip("\n".join(lines), max(60, room))


def _items(items: Sequence[CapsuleItem], gist: Gist | None, room: int, searchable: bool) -> str:
    """The newest items that there is room for, in order; the others as one line."""
    kept: list[str] = []
    left = room - _LEAST * 2 // 3  # for the line about those that are not shown
    rest = gist or Gist()
    for item in reversed(items[-_shown(len(items) + rest.count) :]):
        line = f"- {_source(item)} {clip(item.text, min(_ITEM_CHARS, max(60, room // 3)))}"
        left -= len(line) + 1
        if left < 0:
            break
        kept.insert(0, line)
    for item in items[: len(items) - len(kept)]:
        rest = rest.absorb(item)
    return "\n".join([_rest(rest, searchable), *kept] if rest.count else kept)


def _shown(number: int) -> int:
    """How many items of so many are shown. In a long run their own numbers have a digit more (part 9, part
    99): a line less makes up for it, and the prompt at iteration 100 is no larger than that at 10.
    """
    return max(4, _SHOWN - len(str(number)))


def _rest(gist: Gist, searchable: bool) -> str:
    where = f"{_span(gist.since, gist.until)} " if gist.until is not None else ""
    return f"- {where}{gist.count:03d} earlier ones" + (
        ", to be found by search_results" if searchable else ""
    )


def _source(item: CapsuleItem) -> str:
    marks = [_span(item.since, item.iter_n)] if item.iter_n is not None else []
    marks += ["summary"] if item.by == "summarizer" else []
    marks += [f"{item.count:03d} times"] if item.count > 1 else []
    return f"[{', '.join(marks).replace('[', '').replace(']', '')}]" if marks else "[?]"


def _span(since: int | None, until: int | None) -> str:
    # Three digits always: a prompt does not grow because a run has come to iteration 10 or 100.
    last = f"{until or 0:03d}"
    return f"[{last}]" if since in {None, until} else f"[{since:03d}-{last}]"


def _inputs(capsule: Capsule, room: int) -> str:
    each = max(60, room // max(1, len(capsule.inputs)) - 40)
    lines: list[str] = []
    left = room - 60
    for name, handle in capsule.inputs.items():
        said = capsule.input_notes.get(name) or json.dumps(handle, ensure_ascii=False, default=str)
        line = f"- {clip(name, 60)}: {clip(said, each)}"
        left -= len(line) + 1
        if left < 0:
            lines.append(f"- and {len(capsule.inputs) - len(lines)} more, see list(rlm.inputs)")
            break
        lines.append(line)
    return "\n".join(lines)


def _variables(capsule: Capsule, room: int) -> str:
    if capsule.variables is None or not capsule.variables.count:
        return ""
    lines = [f"Kept by iteration {capsule.variables.ref.iter_n:03d}, in rlm.vars:"]
    left = room - len(lines[0]) - 60
    for note in capsule.variables.shown:
        line = f"- {note.name}: {note.type}{', ' if note.size else ''}{note.size}"
        left -= len(line) + 1
        if left < 0:
            break
        lines.append(line)
    more = capsule.variables.count - len(lines) + 1
    return "\n".join([*lines, f"- and {more} more, see list(rlm.vars)"] if more > 0 else lines)


def _answers(capsule: Capsule, room: int) -> str:
    each = max(60, room // max(1, len(capsule.answers)) - 60)
    return "\n".join(
        f"- {note.name}: {note.state}{': ' if note.says else ''}{clip(note.says, each)}"
        for note in capsule.answers
    )


def _tables(tables: Sequence[TableNote], room: int) -> str:
    lines: list[str] = []
    for table in reversed(tables[-_shown(len(tables)) :]):
        line = f"- {clip(_table(table), max(60, min(_ITEM_CHARS, room // 2)))}"
        room -= len(line) + 1
        if room < 0:
            break
        lines.insert(0, line)
    return "\n".join(lines)


def _table(table: TableNote) -> str:
    rows = f", {table.rows:,} rows" if table.rows is not None else ""
    made = f"made by {_span(None, table.iter_n)}: " if table.made and table.iter_n is not None else ""
    note = f" - {table.note}" if table.note else ""
    return f"{made}{table.name} ({table.columns}{rows}){note}"
