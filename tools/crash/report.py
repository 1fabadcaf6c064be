"""The report of the matrices: a table on the terminal, a page for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEADINGS = {
    "controller killed": "A controller is killed between any two effects",
    "killed again": "The controller that recovers is killed again, at each of its effects",
    "cancel": "A run is cancelled, and a controller or the one who asks is killed, or the program is quicker",
    "init killed": "`rlm-agent init` is killed between any two of its requests",
    "harness killed": "The executor is killed",
    "workspace killed": "The workspace is killed during a program, and the controller in the next attempt",
    "children": "A controller is killed between any two effects of a run with child runs",
    "subcalls": "A batch of 200 model calls is interrupted",
    "network": "One fault on one request",
    "noise": "15 % of all requests go wrong",
}
_COLUMNS = ("cases", "recovered", "duplicates", "lost", "restarts", "worst s")


def rows(report: dict[str, Any], section: str) -> list[tuple[str, list[str]]]:
    """One row of figures per group of a section, and their sum."""
    cases = [case for case in report["cases"] if case["section"] == section]
    groups = dict.fromkeys(case["group"] for case in cases)
    found = [(group, [case for case in cases if case["group"] == group]) for group in groups]
    return [(name, _figures(each)) for name, each in ([*found, ("all", cases)] if cases else [])]


def _figures(cases: Sequence[dict[str, Any]]) -> list[str]:
    return [
        str(len(cases)),
        str(sum(case["good"] for case in cases)),
        str(sum(case["audit"]["duplicates"] for case in cases)),
        str(sum(case["audit"]["lost"] for case in cases)),
        str(sum(case["restarts"] for case in cases)),
        f"{max(case['recovery_s'] for case in cases):.1f}",
    ]


def table(report: dict[str, Any]) -> str:
    """For the terminal."""
    lines = []
    for section, heading in HEADINGS.items():
        body = rows(report, section)
        if body:
            lines += ["", heading, f"{'':24}" + "".join(f"{name:>12}" for name in _COLUMNS)]
            lines += [f"{name:24}" + "".join(f"{value:>12}" for value in values) for name, values in body]
    bad = [case for case in report["cases"] if not case["good"]]
    lines += [
        "",
        f"{len(report['cases'])} cases in {report['seconds']} s, seed {report['seed']}; {len(bad)} not good",
    ]
    lines += [f"- {case['section']}: {case['name']}: {case['audit']['problems']}" for case in bad]
    return "\n".join(lines)


def with_figures(page: str, report: dict[str, Any]) -> str:
    """The page with the report's figures, each section between its own two marks; others stay as they are."""
    for section in HEADINGS:
        if figures := markdown(report, section):
            page = replaced(page, figures, f"<!-- {section} -->", f"<!-- end of {section} -->")
    return page


def replaced(page: str, figures: str, begin: str, end: str) -> str:
    """The page with other figures between two marks; where they are missing, at its end."""
    before, found, rest = page.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    return f"{before}{begin}\n{figures}{end}{after}"


def markdown(report: dict[str, Any], section: str) -> str:
    """The figures of one section as a Markdown table; empty if it was not measured."""
    cases = [case for case in report["cases"] if case["section"] == section]
    if not cases:
        return ""
    bad = [case for case in cases if not case["good"]]
    lines = [f"### {HEADINGS[section]}", "", _summary(report, cases, len(bad)), ""]
    lines += ["| request | " + " | ".join(_COLUMNS) + " |", "|---|" + "---:|" * len(_COLUMNS)]
    lines += [f"| {name} | " + " | ".join(values) + " |" for name, values in rows(report, section)]
    lines += (
        ["", *(f"- Not good: {case['name']}: {case['audit']['problems']}" for case in bad)] if bad else []
    )
    return "\n".join(lines) + "\n"


def _summary(report: dict[str, Any], cases: Sequence[dict[str, Any]], bad: int) -> str:
    before, after = report["load"]
    seconds = sum(case["seconds"] for case in cases) / report["lanes"]
    return (
        f"{report['date']}: {len(cases)} cases in {seconds:.0f} s on {report['lanes']} workspaces, seed "
        f"{report['seed']}, {report['cores']} cores (load {before} before, {after} after); "
        f"{len(cases) - bad} ended as without the fault, {bad} did not."
    )
