"""The task, and what its models say: planner and children by a script, the sub-model by rules."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Any

from databricks_rlm_agent.app import App
from examples.stage import Document, Example, Options, call, program
from examples.tables import SCHEMA, load, rows

AIRPORTS = ("EWR", "JFK", "LGA")
TABLE = "main.rlm.airport_months"
TASK = (
    "Which airport of New York had the most months that were bad for travellers, by the delay of departures? "
    f"Judge each airport by itself, and keep the comparison in {TABLE}."
)
_ANSWER = (
    "{{value.airport}} had the most bad months: {{value.bad}}, the worst of them month {{value.worst}} with "
    "{{value.delay}} minutes of delay on average ({{value.all}} departures of all three airports)."
)
_BAD_MINUTES = 15  # the rules' own line


def example(options: Options) -> Example:
    """The example over all flights of the package."""
    checks = [f"table: {TABLE} columns=airport,bad_months rows>=3"]
    return Example(
        name="children",
        task=TASK,
        script=_script(options.latency_s),
        arguments=[
            *("--input", f"flights={SCHEMA}.flights"),
            *[part for check in checks for part in ("--check", check)],
        ],
        load=lambda app: load(app, "flights"),
        check=check,
    )


def check(app: App, document: Document) -> list[str]:
    """What is wrong with the table, the answer, the children, or the count of calls."""
    wanted = truth()
    found = app.warehouse.fetch(f"SELECT * FROM {TABLE} ORDER BY airport")
    table = {
        row["airport"]: (row["flights"], row["worst_month"], row["delay"], row["bad_months"]) for row in found
    }
    problems = [] if table == wanted else [f"The table holds {table}, not {wanted}."]
    worst = max(wanted, key=lambda airport: (wanted[airport][3], wanted[airport][2]))
    if not document["answer"].startswith(f"{worst} had the most bad months: {wanted[worst][3]},"):
        problems.append(f"The answer is not {worst} with {wanted[worst][3]}.")
    states = [child["state"] for child in document["children"]]
    if states != ["SUCCEEDED"] * len(AIRPORTS):
        problems.append(f"The children ended {states}.")
    if document["sub_usage"]["calls"] != 12 * len(AIRPORTS):
        problems.append(f"The children paid {document['sub_usage']['calls']} calls for 36 months.")
    return problems


def truth() -> dict[str, tuple[int, int, float, int]]:
    """Of each airport: departures, the worst month, its delay, and how many months were bad."""
    delays: dict[tuple[str, int], list[int]] = defaultdict(list)
    for row in rows("flights"):
        if row["dep_delay"] is not None:
            delays[row["origin"], row["month"]].append(row["dep_delay"])
    return {airport: _of({month: delays[airport, month] for month in range(1, 13)}) for airport in AIRPORTS}


def _of(months: dict[int, list[int]]) -> tuple[int, int, float, int]:
    average = {month: round(fmean(delays), 1) for month, delays in months.items()}
    worst = max(average, key=lambda month: average[month])
    bad = sum(delay >= _BAD_MINUTES for delay in average.values())
    return sum(len(delays) for delays in months.values()), worst, average[worst], bad


def _script(latency_s: float) -> Document:
    flights = {"kind": "table", "name": f"{SCHEMA}.flights"}
    tasks = [
        {
            "name": airport.lower(),
            "task": f"How were departures from {airport}, month by month?",
            "inputs": {"flights": flights, "airport": {"kind": "text", "text": airport}},
        }
        for airport in AIRPORTS
    ]
    return {
        "planner": [
            [call("spawn", tasks=tasks)],
            [_program("combine.py", "Put the children's answers together")],
            [call("finish", answer=_ANSWER, evidence=TABLE)],
        ],
        "children": [{"match": "month by month", "planner": _child()}],
        "sub": {
            "rules": [
                {"match": r"were (1[5-9]|[2-9]\d)\.\d minutes late", "text": "bad"},
                {"match": r"were 1\d\.\d minutes late", "text": "busy"},
            ],
            "otherwise": "calm",
            "latency_s": latency_s,
        },
    }


def _child() -> list[list[dict[str, Any]]]:
    answer = (
        "{{value.airport}}: month {{value.worst}} was the worst, {{value.delay}} minutes late on average."
    )
    return [
        [_program("months.py", "Departures by month")],
        [_program("judge.py", "Judge each month")],
        [call("finish", answer=answer, evidence="the value of the last program")],
    ]


def _program(name: str, purpose: str) -> dict[str, Any]:
    return call("run_python", purpose=purpose, code=program(__file__, name))
