"""The demo's script: what a model said once, replayed. Programs, errors, tables and figures are real."""

from __future__ import annotations

from importlib import resources
from typing import Any

TASK = (
    "Which airlines suffer most from poor weather when they leave New York? Poor weather is rain, or "
    "visibility under 3 miles. Compare each airline's average departure delay in poor and in fair weather, "
    "keep the comparison as a table, and name the airline that loses most (of those with at least 500 "
    "departures in poor weather), the steadiest one, and the airport that is hit hardest."
)

_ANSWER = (
    "In poor weather, departures from New York left {{value.poor_delay}} minutes late on average, against "
    "{{value.fair_delay}} in fair weather ({{value.departures}} departures compared). {{value.airline}} "
    "loses most: {{value.airline_poor}} minutes against {{value.airline_fair}}. {{value.steadiest}} is the "
    "steadiest, with {{value.steadiest_extra}} extra minutes. {{value.airport}} is hit hardest: "
    "{{value.airport_poor}} minutes in poor weather."
)


def script() -> dict[str, Any]:
    """A script for ``scripted:FILE``. The first program takes a column name for granted, as people do."""
    first = _call(
        "run_python", purpose="Compare departure delays in poor and fair weather", code=_program("first.py")
    )
    second = _call(
        "run_python", purpose="Compare again, with the column's real name", code=_program("second.py")
    )
    finish = _call(
        "finish", answer=_ANSWER, evidence="main.nycflights13.weather_delays, made in the last iteration"
    )
    look = _call("describe_table", table="main.nycflights13.weather")
    return {
        "planner": [
            [_call("search_catalog", text="nycflights13"), first],
            [look, second],
            [finish],
        ],
        "summarizer": [],
        "sub": [],
        "latency_s": 0,
    }


def _program(name: str) -> str:
    return (resources.files(__package__) / "programs" / name).read_text(encoding="utf-8")


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"call": name, "args": arguments}
