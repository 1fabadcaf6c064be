"""The recursive language model as a user sees it: child runs, variables, model calls, and their ends."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from acceptance_support import CANARY, Serving, finish, program, workspace

SUB = {
    "rules": [{"match": r"shout (\w+)", "text": "\\1!"}],
    "otherwise": "?",
    "usage": {"input_tokens": 100, "output_tokens": 10},
}
CALLS = "/serving-endpoints/stub/invocations"
NAMES = ("north", "south", "west")
Here = Callable[..., Any]
Play = Callable[..., str]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A workspace whose serving endpoints answer."""
    root = tmp_path_factory.mktemp("workspace")
    script = root.parent / f"{root.name}.json"
    script.write_text(json.dumps({"planner": [[{"text": ""}]], "sub": SUB}))
    with workspace(root, "--model", f"scripted:{script}") as found:
        yield found


@pytest.fixture
def env(here: Here, serving: Serving) -> dict[str, str]:
    environment = serving.environment | {"RLM_SUB_MODEL": "stub"}
    assert here("init", env=environment).code == 0
    return environment


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Write a script with parts for child runs."""

    def write(*planner: list[dict[str, Any]], children: dict[str, Any] | None = None) -> str:
        parts = [{"match": match, "planner": replies} for match, replies in (children or {}).items()]
        path = tmp_path / "script.json"
        path.write_text(json.dumps({"planner": planner, "children": parts}))
        return f"scripted:{path}"

    return write


def spawn(*names: str) -> dict[str, Any]:
    return {"call": "spawn", "args": {"tasks": [{"name": name, "task": f"Find {name}."} for name in names]}}


def events(document: Any, kind: str) -> list[Any]:
    return [row["payload"] for row in document["events"] if row["kind"] == kind]


def show(here: Here, run_id: str, env: dict[str, str]) -> Any:
    return here("show", run_id, "--json", env=env).document


def asked(serving: Serving) -> int:
    """How many model calls the workspace has had."""
    request = urllib.request.Request(
        f"{serving.host}/_local/requests", headers={"Authorization": f"Bearer {serving.token}"}
    )
    with urllib.request.urlopen(request) as answer:
        log = json.load(answer)["requests"]
    return len([entry for entry in log if entry["path"] == CALLS])


COUNT = "rlm.finish({{'n': len(rlm.llm_query('shout {name}'))}})"
CHILDREN = {
    f"Find {name}": [[program(COUNT.format(name=name))], [finish(f"{name} has {{{{value.n}}}}")]]
    for name in NAMES
}
COMBINE = """
answers = {name: rlm.inputs[name] for name in ("north", "south", "west")}
assert {answer.state for answer in answers.values()} == {"SUCCEEDED"}, answers
rlm.finish({"n": sum(answer.value["n"] for answer in answers.values()), "said": answers["north"].text()})
"""


def test_a_planner_hands_parts_to_child_runs(here: Here, env: dict[str, str], play: Play) -> None:
    model = play(
        [spawn(*NAMES)], [program(COMBINE)], [finish("{{value.n}}: {{value.said}}")], children=CHILDREN
    )
    done = here("run", "Combine", "--run-id", "parts", "--model", model, "--json", env=env)
    assert done.code == 0, done.err
    assert done.document["answer"].startswith("17: ")
    assert "north has 6" in done.document["answer"]
    children = done.document["children"]
    assert sorted(child["task"] for child in children) == [f"Find {name}." for name in NAMES]
    assert {(child["state"], child["parent"]) for child in children} == {("SUCCEEDED", "parts")}

    listed = here("status", "--json", env=env).document["runs"]
    assert {child["run_id"] for child in children} <= {run["run_id"] for run in listed}
    assert all(child["run_id"] in here("status", "parts", env=env).out for child in children)

    shown = show(here, "parts", env)
    below = [show(here, child["run_id"], env) for child in children]
    assert shown["children"] == children
    assert [note["state"] for note in shown["capsule"]["answers"]] == ["SUCCEEDED"] * 3
    assert shown["sub_usage"]["calls"] == sum(child["sub_usage"]["calls"] for child in below) == 3
    assert shown["sub_usage"]["input_tokens"] == 300
    own = [call for call in events(shown, "model_call") if call["purpose"] == "planner"]
    assert shown["usage"]["calls"] == len(own) + sum(child["usage"]["calls"] for child in below)
    assert shown["budget"]["on_loan"]["usage"]["calls"] == 0


def test_a_program_hands_parts_to_child_runs(here: Here, env: dict[str, str], play: Play) -> None:
    asks = "rlm.spawn([{'name': n, 'task': f'Find {n}.', 'inputs': {'at': n}} for n in ('north', 'south')])"
    child = [[program("rlm.finish({'n': len(rlm.inputs['at'].text())})")], [finish("{{value.n}}")]]
    combine = "rlm.finish({'n': [rlm.inputs[n].text() for n in ('north', 'south')]})"
    model = play(
        [program(asks)], [program(combine)], [finish("{{value.n}}")], children={"Find (north|south)": child}
    )
    done = here("run", "Combine", "--run-id", "asks", "--model", model, "--json", env=env)
    assert done.code == 0, done.err + done.out
    assert json.loads(done.document["answer"].replace("'", '"')) == ["5", "5"]
    assert len(done.document["children"]) == 2
    moves = [(row["from_state"], row["to_state"]) for row in events(show(here, "asks", env), "transition")]
    assert ("INGESTING", "WAITING_FOR_CHILDREN") in moves


def test_a_child_that_fails_is_an_answer_too(here: Here, env: dict[str, str], play: Play) -> None:
    combine = "a = rlm.inputs['lost']; rlm.finish({'said': f'{a.state}: {a.reason}'})"
    model = play(
        [spawn("lost")],
        [program(combine)],
        [finish("{{value.said}}")],
        children={"Find lost": [[{"call": "fly", "args": {}}]]},
    )
    done = here("run", "Try", "--model", model, "--json", env=env)
    assert done.code == 0, done.err
    assert done.document["answer"].startswith("FAILED: ")


def test_no_child_runs_where_none_are_allowed(here: Here, env: dict[str, str], play: Play) -> None:
    tries = """
try:
    rlm.spawn([{"name": "north", "task": "Find north."}])
except ValueError as error:
    rlm.finish({"said": str(error)})
"""
    model = play([spawn("north"), program(tries)], [finish("{{value.said}}")])
    done = here("run", "x", "--run-id", "flat", "--max-depth", "0", "--model", model, "--json", env=env)
    assert done.code == 0, done.err
    assert "this run may have 0" in done.document["answer"]
    assert done.document["children"] == []
    said = json.dumps([row["payload"] for row in show(here, "flat", env)["events"]])
    assert "spawn" in said


# Variables


def test_variables_survive_and_a_failed_program_changes_none(
    here: Here, env: dict[str, str], play: Play
) -> None:
    model = play(
        [program("rlm.vars['total'] = 1; rlm.vars['words'] = ['a', 'b']")],
        [program("rlm.vars['total'] = 99; del rlm.vars['words']; raise ValueError('too early')")],
        [program("rlm.vars['total'] += 1; rlm.finish({'t': rlm.vars['total'], 'w': rlm.vars['words']})")],
        [finish("{{value.t}} {{value.w}}")],
    )
    assert here("submit", "Count", "--run-id", "keeps", "--model", model, env=env).code == 0
    deadline = time.monotonic() + 300
    while (shown := show(here, "keeps", env))["iteration"] < 3:
        assert time.monotonic() < deadline, shown
        assert here("tick", env=env).code == 0
    told = shown["capsule"]["last_result"]  # what the planner was told before it wrote the third program
    assert "too early" in told
    assert "the variables are still those of iteration 1; changes to total, words were not kept" in told
    kept = shown["capsule"]["variables"]
    assert (kept["count"], kept["ref"]["iter_n"]) == (2, 1)
    assert sorted(note["name"] for note in kept["shown"]) == ["total", "words"]

    done = here("orchestrate", "--until-idle", env=env)
    assert done.code == 0, done.err
    shown = show(here, "keeps", env)
    assert shown["answer"].replace("'", '"') == '2 ["a", "b"]'
    assert shown["capsule"]["variables"]["ref"]["iter_n"] == 3


# Model calls

BATCH = """
answers = rlm.llm_query_batched([f"{word} shout w{n}" for n in range(%d)])
rlm.finish({"answers": [str(answer) for answer in answers], "failed": sum(not answer for answer in answers)})
"""


def batch(word: str, prompts: int) -> dict[str, Any]:
    return program(f"word = {word!r}" + BATCH % prompts)


def test_answers_come_in_order_and_are_paid_for_once(
    here: Here, serving: Serving, env: dict[str, str], play: Play
) -> None:
    before = asked(serving)
    for run_id, calls in (("pays", 30), ("free", 0)):
        model = play([batch("order", 30)], [finish("{{value.answers}}")])
        done = here("run", "Ask", "--run-id", run_id, "--model", model, "--json", env=env)
        assert done.code == 0, done.err
        assert json.loads(done.document["answer"].replace("'", '"')) == [f"w{n}!" for n in range(30)]
        assert done.document["sub_usage"]["calls"] == calls
    assert asked(serving) - before == 30
    with serving.statements() as cursor:
        cursor.execute(
            "SELECT count(*), count(DISTINCT call_key), sum(input_tokens) FROM main.rlm.model_calls "
            "WHERE run_id = 'pays'"
        )
        assert tuple(cursor.fetchall()[0]) == (30, 30, 3_000)
        cursor.execute("SELECT count(*) FROM main.rlm.model_calls WHERE run_id = 'free'")
        assert cursor.fetchall()[0][0] == 0


def test_a_run_that_has_used_its_calls_goes_on_without(
    here: Here, serving: Serving, env: dict[str, str], play: Play
) -> None:
    before = asked(serving)
    tries = """
try:
    rlm.llm_query("shout nothing")
except rlm.BudgetExhausted as error:
    rlm.finish({"said": str(error)})
"""
    model = play([batch("few", 20)], [program(tries)], [finish("{{value.said}}")])
    done = here("run", "Ask", "--run-id", "few", "--max-sub-calls", "5", "--model", model, "--json", env=env)
    assert done.code == 0, done.err
    assert "the budget for model calls is used up" in done.document["answer"]
    assert done.document["sub_usage"]["calls"] == asked(serving) - before == 5
    (first, *_) = show(here, "few", env)["results"]
    assert first["status"] == "SUCCESS"


# Cancellation

SLOW = [[program("import time; time.sleep(600)")], [finish("no")]]


@pytest.mark.parametrize("ticks", [1, 3])
def test_a_cancelled_parent_takes_its_children_with_it(
    here: Here, env: dict[str, str], play: Play, ticks: int
) -> None:
    """No controller runs: the command does their part."""
    run_id = f"family{ticks}"
    model = play([spawn("north", "south")], [finish("no")], children={"Find": SLOW})
    assert here("submit", "Wait", "--run-id", run_id, "--model", model, env=env).code == 0
    for _ in range(ticks):
        assert here("tick", env=env).code == 0
    waiting = here("status", run_id, "--json", env=env).document
    assert waiting["state"] == "WAITING_FOR_CHILDREN"
    at_work = {child["state"] for child in waiting["children"]}
    assert at_work == ({"PENDING"} if ticks == 1 else {"EXECUTING"})
    done = here("cancel", run_id, "--reason", "not needed", "--json", env=env)
    assert (done.code, done.document["state"]) == (0, "CANCELLED"), done.err
    assert {child["state"] for child in done.document["children"]} == {"CANCELLED"}
    assert {child["reason"] for child in done.document["children"]} == {
        "Its parent was cancelled: not needed"
    }


# Secrets

NOSY = """
seen = vars(__import__("os"))["environ"]
secret = seen["DATABRICKS_TOKEN"]
rlm.vars["answers"] = rlm.llm_query_batched([f"shout it {secret}", f"repeat shout {secret}"])
rlm.log(f"{rlm.vars['answers']} {secret}")
rlm.finish({"all": dict(seen), "answers": rlm.vars["answers"]})
"""
ASKS = (
    NOSY
    + """
rlm.spawn([{"name": "south", "task": f"Find south by {secret}.", "inputs": {"key": secret}}])
"""
)
OWN = (".workspace/token", ".workspace/server.json")


def test_a_secret_is_in_no_byte_that_is_left(
    here: Here, serving: Serving, env: dict[str, str], play: Play
) -> None:
    keys = {name: f"{CANARY}-{name}" for name in ("GOOGLE_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY")}
    child = [[program(NOSY)], [finish("{{value.all}} {{value.answers}}")]]
    tells = "rlm.finish({name: rlm.inputs[name].text() for name in ('north', 'south')})"
    model = play(
        [spawn("north")],
        [program(ASKS)],
        [program(tells)],
        [finish("{{value.north}} {{value.south}}")],
        children={"Find": child},
    )
    done = here("run", "Tell", "--run-id", "nosy", "--model", model, "--json", "--verbose", env=env | keys)
    assert done.code == 0, done.err
    assert [child["state"] for child in done.document["children"]] == ["SUCCEEDED"] * 2
    assert "***" in done.document["answer"]
    shown = here("show", "nosy", "--json", env=env)
    said = done.out + done.err + shown.out
    for secret in (CANARY, serving.token):
        assert secret not in said
        for path in serving.root.rglob("*"):
            name = str(path.relative_to(serving.root))
            if path.is_file() and name not in OWN:
                assert secret.encode() not in path.read_bytes(), name
    tables_hold_no(serving, (CANARY, serving.token))


def tables_hold_no(serving: Serving, secrets: tuple[str, ...]) -> None:
    """Data files are compressed: the rows are read."""
    from deltalake import DeltaTable

    for log in (serving.root / "tables").rglob("_delta_log"):
        text = str(DeltaTable(str(log.parent)).to_pyarrow_table().to_pylist())
        assert not [secret for secret in secrets if secret in text], log.parent.name
