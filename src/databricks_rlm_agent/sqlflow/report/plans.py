"""Renders a plan as a table for people, and as a picture for Mermaid and Graphviz. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from databricks_rlm_agent.sqlflow.model import Need, Plan, Step
from databricks_rlm_agent.sqltext.names import shown

_DOT = (
    'fontname="Helvetica"; fontsize=11; fontcolor="#626b76"; labeljust=l; nodesep=0.4; ranksep=0.35;',
    'graph [style="rounded,filled", fillcolor="#f6f7f9", color="#dfe3e8"];',
    'node [fontname="Helvetica", fontsize=11, shape=box, style="rounded,filled", fillcolor="#ffffff"];',
    'edge [fontname="Helvetica", fontsize=9, fontcolor="#626b76", color="#626b76", arrowsize=0.7];',
)


def as_table(plan: Plan) -> str:
    """Return the stages with their steps and what each waits for, the checks, and the notices."""
    lines = []
    for stage, steps in plan.stages:
        count = "1 step" if len(steps) == 1 else f"{len(steps)} steps, {_width(steps)} at once"
        lines.append(f"{stage_name(stage)}: {count}")
        for step in steps:
            lines.append(f"  {step.id:<40} {_size(step)}")
            lines += [f"      after {need.step}: {need.reason}" for need in direct_needs(plan, step)]
    if plan.expectations:
        lines += ["", "Checked in the end, besides that all tables are there:"]
        lines += [f"  {shown(each.table)}: {'; '.join(each.describe())}" for each in plan.expectations]
    if plan.notices:
        lines += ["", *(f"Notice: {notice}" for notice in plan.notices)]
    return "\n".join(lines)


def as_mermaid(plan: Plan) -> str:
    """Return a Mermaid flow chart: stages as boxes below each other, and an arrow for each direct need."""
    number = {step.id: f"s{place}" for place, step in enumerate(plan.steps)}
    lines = ["flowchart TB"]
    for place, (stage, steps) in enumerate(plan.stages):
        lines.append(f'  subgraph g{place}["{stage_name(stage)}"]')
        lines += [f"    {number[step.id]}{_mermaid_box(step)}" for step in steps]
        lines.append("  end")
    lines += [f"  g{place} ~~~ g{place + 1}" for place in range(len(plan.stages) - 1)]
    for need, step in _arrows(plan):
        lines.append(f'  {number[need.step]} -->|"{_mermaid(need.reason)}"| {number[step.id]}')
    return "\n".join(lines)


def as_dot(plan: Plan) -> str:
    """Return the same as a Graphviz graph. An invisible point between two stages keeps them in order."""
    lines = ["digraph plan {", *(f"  {line}" for line in _DOT)]
    stages = plan.stages
    for place, (stage, steps) in enumerate(stages):
        lines.append(f"  subgraph cluster_{place} {{")
        lines.append(f"    label={_dot(stage_name(stage))};")
        for step in steps:
            style = ', peripheries=2, fillcolor="#dce8fc"' if step.loop else ""
            label = _dot(f"{step.id}\n{_size(step)}")
            lines.append(f"    {_dot(step.id)} [label={label}{style}];")
        lines.append("  }")
        if place + 1 < len(stages):
            gap = _dot(f"/{place}")  # no step has such a name
            lines.append(f"  {gap} [style=invis, shape=point];")
            lines += [f"  {_dot(step.id)} -> {gap} [style=invis];" for step in steps]
            lines += [f"  {gap} -> {_dot(step.id)} [style=invis];" for step in stages[place + 1][1]]
    for need, step in _arrows(plan):
        lines.append(f"  {_dot(need.step)} -> {_dot(step.id)} [label={_dot(need.reason)}];")
    return "\n".join([*lines, "}"])


def direct_needs(plan: Plan, step: Step) -> list[Need]:
    """Return the needs of a step that do not follow from its other needs."""
    before: dict[str, set[str]] = {}  # all steps that are done before a step, directly or not
    for each in plan.steps:
        near = {need.step for need in each.needs}
        before[each.id] = near.union(*(before[id_] for id_ in near))
    implied = {far for need in step.needs for far in before[need.step]}
    return [need for need in step.needs if need.step not in implied]


def _arrows(plan: Plan) -> Iterator[tuple[Need, Step]]:
    for step in plan.steps:
        for need in direct_needs(plan, step):
            yield need, step


def _width(steps: tuple[Step, ...]) -> int:
    """Return how many steps of a stage run at once if each starts as soon as it can."""
    own = {step.id for step in steps}
    level: dict[str, int] = {}
    for step in steps:
        level[step.id] = 1 + max((level[need.step] for need in step.needs if need.step in own), default=0)
    return max(Counter(level.values()).values())


def stage_name(stage: int | None) -> str:
    """Return the name of a stage: ``Stage 3``."""
    return "Without a prefix" if stage is None else f"Stage {stage}"


def _size(step: Step) -> str:
    if step.loop:
        alias = f", then {shown(step.loop.alias)}" if step.loop.alias else ""
        count = len(step.loop.files)
        made = f"{count} file{'' if count == 1 else 's'}" if not step.loop.template else "a template"
        return f"loop of {made}{alias}"
    count = len(step.files[0].statements)
    return f"{count} statement{'' if count == 1 else 's'}{', alone' if step.problem else ''}"


def _mermaid_box(step: Step) -> str:
    text = f'"{_mermaid(step.id)}<br/>{_mermaid(_size(step))}"'
    return f"([{text}])" if step.loop else f"[{text}]"


def _mermaid(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def _dot(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
