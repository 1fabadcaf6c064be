"""The task, and what its models say: the planner by a script, the sub-model by rules on what it is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from databricks_rlm_agent.app import App
from examples.stage import Document, Example, Options, call, program
from examples.tables import SCHEMA, load, rows

TABLE = "main.rlm.planes_classified"
TASK = (
    "Give each of the planes a class: helicopter, propeller, regional jet, narrow-body jet or wide-body jet. "
    f"Keep all planes with their class in {TABLE}, and say how many wide-body jets there are."
)
_ANSWER = "{{value.planes}} planes have a class; {{value.wide}} of them are wide-body jets."
_ASKED = ("manufacturer", "model", "type", "seats", "engines", "engine")


def example(options: Options) -> Example:
    """The example over all planes of the package."""
    planes = rows("planes")
    checks = [
        f"table: {TABLE} columns=tailnum,class rows>={len(planes)}",
        f"sql: SELECT count(*) FROM {TABLE} WHERE class IS NULL => 0",
    ]
    return Example(
        name="classify",
        task=TASK,
        script=_script(options.latency_s),
        arguments=[
            *("--input", f"planes={SCHEMA}.planes"),
            *[part for check in checks for part in ("--check", check)],
        ],
        load=lambda app: load(app, "planes"),
        check=lambda app, document: check(app, document, planes),
    )


def check(app: App, document: Document, planes: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the table, the answer, or the count of calls."""
    wanted = Counter(class_of(plane) for plane in planes)
    found = app.warehouse.fetch(f"SELECT class, count(*) AS planes FROM {TABLE} GROUP BY class")
    counts = {row["class"]: row["planes"] for row in found}
    problems = [] if counts == wanted else [f"The table has {counts}, not {dict(wanted)}."]
    if f"{wanted['wide-body jet']} of them" not in document["answer"]:
        problems.append(f"The answer does not say {wanted['wide-body jet']}.")
    questions = len({tuple(plane[name] for name in _ASKED) for plane in planes})
    if document["sub_usage"]["calls"] != questions:
        problems.append(f"{document['sub_usage']['calls']} calls were paid for {questions} questions.")
    return problems


def class_of(plane: Mapping[str, Any]) -> str:
    """The class that a plane belongs to."""
    if plane["type"] == "Rotorcraft":
        return "helicopter"
    if plane["engine"] not in {"Turbo-fan", "Turbo-jet"}:
        return "propeller"
    seats = plane["seats"]
    return "regional jet" if seats < 100 else "narrow-body jet" if seats < 260 else "wide-body jet"


def _script(latency_s: float) -> Document:
    look = call("describe_table", table=f"{SCHEMA}.planes")
    early = call("finish", answer="The planes have classes.", evidence="their names")
    classify = call(
        "run_python", purpose="Ask for the class of each plane", code=program(__file__, "classify.py")
    )
    finish = call("finish", answer=_ANSWER, evidence=TABLE)
    return {
        # The first answer comes too early: the checks refuse it, and the planner goes to work.
        "planner": [[look, early, classify], [finish]],
        "sub": {
            "rules": [
                {"match": r"this\? .*, Rotorcraft,", "text": "helicopter"},
                {"match": r"\((Reciprocating|4 Cycle|Turbo-prop|Turbo-shaft)\)", "text": "propeller"},
                {"match": r", (2[6-9]\d|[3-9]\d\d) seats", "text": "wide-body jet"},
                {"match": r", \d{1,2} seats", "text": "regional jet"},
            ],
            "otherwise": "narrow-body jet",
            "failures": [{"match": "MD-88", "status": 429, "retry_after": 0, "times": 1}],
            "latency_s": latency_s,
        },
    }
