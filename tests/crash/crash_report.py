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
    "network": "One fault on one request",
    "noise": "15 % of all requests go wrong",
}
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
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
    """The page with the report's figures between its two marks; what they mean is written around them."""
    return replaced(page, markdown(report), BEGIN, END)


def replaced(page: str, figures: str, begin: str, end: str) -> str:
    """The page with other figures between two marks; where they are missing, at its end."""
    before, found, rest = page.partition(begin)
    return f"{before}{begin}\n{figures}{end}{rest.partition(end)[2] if found else chr(10)}"


def markdown(report: dict[str, Any]) -> str:
    """The figures as Markdown tables."""
    cases = report["cases"]
    bad = [case for case in cases if not case["good"]]
    summary = (
        f"{report['date']}: {len(cases)} cases in {report['seconds']:.0f} s on {report['lanes']} workspaces, "
        f"seed {report['seed']}; {len(cases) - len(bad)} ended as without the fault, {len(bad)} did not."
    )
    lines = [summary]
    for section, heading in HEADINGS.items():
        body = rows(report, section)
        if body:
            lines += ["", f"### {heading}", "", "| request | " + " | ".join(_COLUMNS) + " |"]
            lines += ["|---|" + "---:|" * len(_COLUMNS)]
            lines += [f"| {name} | " + " | ".join(values) + " |" for name, values in body]
    lines += ["", *(f"- Not good: {case['section']}: {case['name']}" for case in bad)] if bad else []
    return "\n".join(lines) + "\n"
