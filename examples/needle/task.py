"""The task, and what its models say: the planner by a script, the sub-model by rules on what it is asked."""

from __future__ import annotations

from databricks_rlm_agent.app import App
from examples.needle.text import Truth, write
from examples.stage import Document, Example, Options, call, program

TABLE = "main.rlm.press_stops"
TASK = (
    "Read the chronicle of the works. What opens the safe? For how many hours did the press stand still in "
    f"all, and what cost most? Keep the hours of each cause in the table {TABLE}."
)
_ANSWER = (
    "The safe opens with {{value.safe}}. The press stood still {{value.stops}} times, {{value.hours}} hours "
    "in all; {{value.cause}} cost most: {{value.most}} hours."
)


def example(options: Options) -> Example:
    """The example with a chronicle of the wanted size."""
    path = options.folder / "chronicle.txt"
    truth = write(path, options.megabytes)
    checks = [f"table: {TABLE} columns=cause,hours rows>={len(truth.hours)}"]
    checks += [f"sql: SELECT sum(hours) FROM {TABLE} => {sum(truth.hours.values())}"]
    return Example(
        name="needle",
        task=TASK,
        script=_script(options.latency_s),
        arguments=[
            "--input",
            f"chronicle=@{path}",
            *[part for check in checks for part in ("--check", check)],
        ],
        load=lambda _: None,
        check=lambda app, document: check(app, document, truth),
    )


def check(app: App, document: Document, truth: Truth) -> list[str]:
    """What is wrong with the answer, the table, or the count of calls."""
    cause, most = max(truth.hours.items(), key=lambda item: item[1])
    figures = (
        truth.safe,
        f"{truth.stops} times",
        f"{sum(truth.hours.values())} hours",
        cause,
        f"{most} hours",
    )
    problems = [
        f"The answer does not say {figure!r}." for figure in figures if figure not in document["answer"]
    ]
    found = {row["cause"]: row["hours"] for row in app.warehouse.fetch(f"SELECT * FROM {TABLE}")}
    if found != truth.hours:
        problems.append(f"The table holds {found}, not {truth.hours}.")
    return problems


def _script(latency_s: float) -> Document:
    survey = call("run_python", purpose="Find what is worth reading", code=program(__file__, "survey.py"))
    ask = call("run_python", purpose="Have it read and add up", code=program(__file__, "ask.py"))
    finish = call("finish", answer=_ANSWER, evidence=f"{TABLE} and the value of the last program")

    def stop(pattern: str, hours: str, cause: str) -> Document:
        return {"match": f"How long did the press .*{pattern}", "json": {"hours": hours, "cause": cause}}

    return {
        "planner": [[survey], [ask], [finish]],
        "sub": {
            "rules": [
                stop(r"stood still for (\d+) hours because of ([\w ]+)\.", r"\1", r"\2"),
                stop(r": ([\w ]+) kept the press idle for (\d+) hours", r"\2", r"\1"),
                stop(r"(\d+) hours lost; the reason was ([\w ]+)\.", r"\1", r"\2"),
                stop("", "0", "none"),
                {"match": r"What opens the safe\?.*opens with ([\d-]+)", "text": r"\1"},
                {"match": r"What opens the safe\?", "text": "unknown"},
            ],
            "latency_s": latency_s,
        },
    }
