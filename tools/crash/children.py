"""A run with two child runs, and what must be true of all three when it is over."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from databricks_rlm_agent.runs.actions import child_id
from databricks_rlm_agent.runs.budget import Share
from databricks_rlm_agent.runs.run import Run
from tools.crash.audit import Audit, Expected, audit
from tools.crash.kinds import FILES, INSERT, MANIFEST, PUT_ANSWER, Kind, points
from tools.crash.points import Case, Point, recovery
from tools.crash.programs import ANSWER, MARK, PROMPT, SAYS, finish, program
from tools.crash.rig import GIVE_UP_S, ORCHESTRATE, Rig
from tools.crash.second_kill import EFFECTS

CHILDREN = ("north", "south")
_ASKED = 6  # prompts of each child
_TURNS = {"north": 3, "south": 2}  # planner calls of each child
_OWN_TURNS = 3
_CLOCK_S = 0.05  # the log rounds
_ASKING = f"""{MARK}tag = rlm.inputs["tag"].text()
prompts = [{PROMPT!r}.format(tag, n) for n in range({_ASKED})]
answers = rlm.llm_query_batched(prompts)
assert answers == [{SAYS!r}.format(tag, n) for n in range({_ASKED})], answers
"""
_NORTH_1 = f"""{_ASKING}rlm.vars["answers"] = answers
rlm.vars["part"] = 30
"""
_NORTH_2 = f"""{MARK}assert len(rlm.vars["answers"]) == {_ASKED}
rlm.vars["part"] += 10
rlm.finish({{"part": rlm.vars["part"]}})
"""
_SOUTH = f'{_ASKING}rlm.finish({{"part": 2}})\n'
_COMBINE = f"""{MARK}parts = [rlm.inputs[name].value["part"] for name in ("north", "south")]
rlm.finish({{"total": sum(parts)}})
"""
_ENDS = {
    "north": Expected(
        attempts=((1, 1, "SUCCESS"), (2, 1, "SUCCESS")),
        answer="north has 40.",
        tables=False,
        calls=_TURNS["north"],
    ),
    "south": Expected(
        attempts=((1, 1, "SUCCESS"),), answer="south has 2.", tables=False, calls=_TURNS["south"]
    ),
}
_ROOT = Expected(
    attempts=((2, 1, "SUCCESS"),),
    answer=ANSWER,
    tables=False,
    calls=_OWN_TURNS + sum(_TURNS.values()),
)


def write_tree(rig: Rig, run_id: str) -> Path:
    """The script of a run: it spawns two children, puts their answers together, and finishes."""
    tasks = [
        {
            "name": name,
            "task": f"Count the {name}.",
            "inputs": {"tag": {"kind": "text", "text": f"{run_id}-{name}"}},
        }
        for name in CHILDREN
    ]
    part = "{{value.part}}"
    script = {
        "planner": [
            [{"call": "spawn", "args": {"tasks": tasks}}],
            program(_COMBINE),
            finish("The total is {{value.total}}."),
        ],
        "children": [
            {
                "match": "Count the north",
                "planner": [program(_NORTH_1), program(_NORTH_2), finish(f"north has {part}.")],
            },
            {"match": "Count the south", "planner": [program(_SOUTH), finish(f"south has {part}.")]},
        ],
    }
    path = rig.root.parent / f"tree-{run_id}.json"
    path.write_text(json.dumps(script))
    return path


def audit_tree(rig: Rig, run_id: str, log: Iterable[Mapping[str, Any]]) -> Audit:
    """Compare a run, its children and the request log with what is expected of them."""
    log = list(log)
    ids = {name: child_id(run_id, 1, name) for name in CHILDREN}
    wanted = {run_id: _ROOT} | {ids[name]: _ENDS[name] for name in CHILDREN}
    found = {each: audit(rig, each, expected) for each, expected in wanted.items()}
    problems = [f"{each}: {text}" for each, one in found.items() for text in one.problems]
    orphans = _orphans(rig, run_id, set(wanted))
    more = [*_paid(rig, run_id, list(ids.values()), log), *_planned_late(rig, wanted, log)]
    return Audit(
        duplicates=sum(one.duplicates for one in found.values()) + len(orphans),
        lost=sum(one.lost for one in found.values()) + bool(more),
        problems=(*problems, *orphans, *more),
        unspent=found[run_id].unspent,
    )


def _orphans(rig: Rig, run_id: str, known: set[str]) -> list[str]:
    """Runs of this family that should not be."""
    rows = rig.app.warehouse.fetch(
        "SELECT run_id, parent_run_id, depth FROM main.rlm.run_state WHERE startswith(run_id, :run)",
        {"run": f"{run_id}-"},
    )
    return [
        f"a run too many, or of a wrong parent: {dict(row)}"
        for row in rows
        if row["run_id"] not in known or (row["parent_run_id"], row["depth"]) != (run_id, 1)
    ]


@dataclass(frozen=True, kw_only=True)
class _Own:
    """What a run itself has used, without its children."""

    calls: int
    sub_calls: int
    sub_tokens: tuple[int, int]
    executor_s: float


def _paid(rig: Rig, run_id: str, children: list[str], log: list[Mapping[str, Any]]) -> list[str]:
    """The parent's budget holds its own turns and all that its children have spent, and nothing is lent."""
    root, kids = rig.app.store.get(run_id), [rig.app.store.get(child) for child in children]
    spent = sum((kid.budget.spent() for kid in kids), Share())
    own = _own(root, spent)
    problems = []
    if root.budget.on_loan != Share() or root.budget.children != len(kids):
        problems.append(f"still lent: {root.budget.on_loan} to {root.budget.children}")
    for run, calls, turns in (
        (root, own.calls, _OWN_TURNS),
        *((kid, kid.budget.usage.calls, _TURNS[name]) for kid, name in zip(kids, CHILDREN, strict=True)),
    ):
        # A killed controller, and one that was too slow to keep its lease, has asked in vain; both show.
        events = rig.app.ledger.events(run.run_id)
        vain = sum(row["kind"] in {"passing_error", "lease_lapsed"} for row in events)
        if not turns <= calls <= turns + vain:
            problems.append(f"{run.run_id}: {calls} model calls of {turns}, {vain} in vain")
    asked = sum(entry["prompt_sha256"] is not None for entry in log)
    if (asked, spent.sub_usage.calls, own.sub_calls, own.sub_tokens) != (2 * _ASKED, asked, 0, (0, 0)):
        problems.append(f"programs asked {asked}, children paid {spent.sub_usage}, the parent {own}")
    if own.executor_s <= 0 or spent.executor_s <= 0:
        problems.append(f"seconds of job runs: {own.executor_s} and {spent.executor_s}")
    return problems


def _own(root: Run, spent: Share) -> _Own:
    budget = root.budget
    return _Own(
        calls=budget.usage.calls - spent.usage.calls,
        sub_calls=budget.sub_usage.calls - spent.sub_usage.calls,
        sub_tokens=(
            budget.sub_usage.input_tokens - spent.sub_usage.input_tokens,
            budget.sub_usage.output_tokens - spent.sub_usage.output_tokens,
        ),
        executor_s=budget.executor_s - spent.executor_s,
    )


def _planned_late(rig: Rig, runs: Iterable[str], log: list[Mapping[str, Any]]) -> list[str]:
    """Turns of a planner that began when what the attempt was to be had been put on record."""
    records: dict[str, float] = {}
    for entry in log:
        if MANIFEST.matches(entry) and 200 <= entry["status"] < 300:
            records.setdefault(entry["path"].removeprefix(FILES.rstrip("/")), entry["time"] / 1000)
    problems = []
    for run_id in runs:
        events = rig.app.ledger.events(run_id)
        # Who began before the record, and has lost its lease since, may think once more than is needed.
        began = {row["epoch"]: row["at"].timestamp() for row in reversed(events)}
        for row in (row for row in events if row["kind"] == "model_call"):
            iter_n = json.loads(row["payload"])["iter_n"]
            folder = rig.app.settings.namespace.attempt_dir(run_id, iter_n, 1)
            record = records.get(f"{folder}/manifest.json")
            if record is not None and began[row["epoch"]] > record + _CLOCK_S:
                problems.append(f"{run_id}: iteration {iter_n} was planned after its record")
    return problems


# How many controllers are at work.
CONTROLLERS = {1: "alone", 2: "one of two"}


def record_children(rig: Rig, run_id: str) -> list[tuple[Kind, int]]:
    """The effects of a run with children in which nothing goes wrong."""
    rig.submit(run_id, script=write_tree(rig, run_id))
    rig.fault()
    controller = rig.controller(*ORCHESTRATE)
    assert controller.wait(GIVE_UP_S), controller.log.read_text()
    assert controller.exit_code == 0, controller.log.read_text()
    log = rig.log()
    found = audit_tree(rig, run_id, log)
    assert not found.problems, found.problems
    # Programs ask models meanwhile, which is no controller's doing.
    every = points(entry for entry in log if entry["prompt_sha256"] is None)
    return [(kind, n) for kind, n in every if kind in {INSERT, PUT_ANSWER, *EFFECTS}]


def kill_children(rig: Rig, point: Point, run_id: str, *, controllers: int) -> Case:
    """Kill a controller at one point while so many are at work; another one finishes the runs.

    How many statements it takes depends on what falls into one tick: a point that was not met is tried again.
    """
    for letter in "abc":
        case = _kill(rig, point, f"{run_id}{letter}", controllers)
        if case.reached or not case.finished or case.audit.problems:
            break
    return case


def _kill(rig: Rig, point: Point, run_id: str, controllers: int) -> Case:
    rig.submit(run_id, script=write_tree(rig, run_id))
    after = point.mode == "after"
    rig.fault(point.kind.rule(skip=point.n - 1, action="hold", after_effect=after))
    first, *others = [rig.controller(*ORCHESTRATE) for _ in range(controllers)]
    held = rig.held(first)
    killed = first.kill()
    if held is not None:
        # With two it may be the other one's: to that one it is a request that failed, or was answered late.
        rig.release(held, drop=not after)
    heir = others[0] if others else rig.controller(*ORCHESTRATE)
    finished = heir.wait(GIVE_UP_S) and heir.exit_code == 0
    log = rig.log()
    return Case(
        name=f"{point.name}, {CONTROLLERS[controllers]}",
        group=f"{point.kind.name}, {CONTROLLERS[controllers]}",
        reached=held is not None,
        finished=finished,
        recovery_s=recovery(log, killed),
        audit=audit_tree(rig, run_id, log),
    )
