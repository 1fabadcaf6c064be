"""The report of one round of chaos, for the terminal and for the documentation."""

from __future__ import annotations

from typing import Any

from tools.crash.report import replaced


def rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and figures."""
    return [
        ("runs, programs, job runs", f"{report['runs']}, {report['iterations']}, {report['job_runs']}"),
        ("SIGKILL", str(report["kills"])),
        ("SIGSTOP past the lease, then SIGCONT", str(report["stops"])),
        ("SIGTERM", str(report["asked"])),
        ("requests that went wrong", str(report["faults"])),
        ("controllers that ended by themselves", str(len(report["ended_by_itself"]))),
        ("controllers that hung after SIGTERM", str(report["hung"])),
        ("claims; commits of run_state", f"{report['claims']}; {report['commits']}"),
        (
            "events; of epochs that came to nothing; of these after a later claim",
            f"{report['events']}; {report['fenced_events']}; {report['late_events']}",
        ),
        ("model calls that no budget shows", str(report["unspent"])),
        ("lost", str(report["lost"])),
        ("doubled", str(report["doubled"])),
        ("job runs left active", str(len(report["active_job_runs"]))),
        ("runs with a problem of any kind", str(len(report["problems"]))),
        *(
            (f"leases lost, holder {cause}: number, median and worst s to the run's next event", _lost(each))
            for cause, each in report["lost_leases"].items()
        ),
    ]


def summary(report: dict[str, Any]) -> str:
    """One sentence."""
    noise = ", one request in ten going wrong" if report["noise"] else ""
    before, after = report["load"]
    return (
        f"{report['date']}: seed {report['seed']}, {report['controllers']} controllers, "
        f"{report['minutes']:g} minutes of faults{noise}, {report['seconds']:.0f} s in all, on "
        f"{report['cores']} cores (load {before} before, {after} after)."
    )


def text(report: dict[str, Any]) -> str:
    """For the terminal."""
    lines = [summary(report), *(f"{name:80} {value:>16}" for name, value in rows(report))]
    lines += [f"- {run_id}: {problem}" for run_id, each in report["problems"].items() for problem in each]
    lines += [f"- {ending}" for ending in report["ended_by_itself"]]
    return "\n".join([*lines, "good" if report["good"] else "NOT GOOD"])


def with_figures(page: str, report: dict[str, Any]) -> str:
    """The page with the report's figures between their two marks: a round with noise has its own."""
    name = "chaos with noise" if report["noise"] else "chaos"
    return replaced(page, markdown(report), f"<!-- {name} -->", f"<!-- end of {name} -->")


def markdown(report: dict[str, Any]) -> str:
    """For the page."""
    table = [f"| {name} | {value} |" for name, value in rows(report)]
    bad = [f"- {run_id}: {problem}" for run_id, each in report["problems"].items() for problem in each]
    return (
        "\n".join([summary(report), "", "| | |", "|---|---:|", *table, *([""] if bad else []), *bad]) + "\n"
    )


def _lost(each: dict[str, Any]) -> str:
    return f"{each['number']}, {each['median_s']}, {each['worst_s']}"
