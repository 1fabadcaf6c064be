"""Give work through the command line, in each of the ways there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from acceptance_support import finish, program

TWO_STEPS = [
    [program("total = 1 +\nprint(total)"), program("raise ValueError('no such shop')")],
    [program("print('hello'); rlm.metric('n', 3); rlm.finish({'total': 42})")],
    [finish("The total is {{value.total}}.")],
]


def check(document: dict) -> None:
    assert document["state"] == "SUCCEEDED"
    assert document["answer"] == "The total is 42."
    assert (document["iterations"], document["failed_iterations"]) == (3, 1)
    assert document["usage"]["calls"] == 4


def test_run_on_a_workspace_of_its_own(agent, script, tmp_path: Path) -> None:
    root = ("--root", str(tmp_path / "ws"))
    assert agent("init", *root).code == 0
    done = agent("run", "Count it", "--model", script(*TWO_STEPS), *root, "--json")
    assert done.code == 0, done.err
    check(done.document)


def test_run_on_a_workspace_that_is_running(here, script, serving) -> None:
    done = here("run", "Count it", "--model", script(*TWO_STEPS), "--json", env=serving.environment)
    assert done.code == 0, done.err
    check(done.document)


def test_submit_then_orchestrate(here, script, serving) -> None:
    model = script(*TWO_STEPS)
    submitted = here("submit", "Count it", "--run-id", "later", "--json", env=serving.environment)
    assert submitted.code == 0, submitted.err
    assert submitted.document["state"] == "PENDING"
    done = here("orchestrate", "--until-idle", "--model", model, "--json", env=serving.environment)
    assert done.code == 0, done.err
    check(here("status", "later", "--json", env=serving.environment).document)


def test_a_run_id_is_not_run_twice(here, script, serving) -> None:
    arguments = ("run", "Once", "--run-id", "once", "--json")
    first = here(*arguments, "--model", script([finish("one")]), env=serving.environment)
    second = here(*arguments, "--model", script([finish("two")], name="b.json"), env=serving.environment)
    assert (first.document["answer"], second.document["answer"]) == ("one", "one")


@pytest.mark.fault("A24")
def test_ask_and_answer(here, script, serving) -> None:
    model = script([{"call": "ask", "args": {"question": "Which shop?"}}], [finish("Noted.")])
    asked = here("run", "Ask me", "--run-id", "asks", "--model", model, "--json", env=serving.environment)
    assert (asked.code, asked.document["state"]) == (1, "WAITING_FOR_INPUT")
    assert asked.document["question"] == "Which shop?"
    answered = here("answer", "asks", "The blue one", "--json", env=serving.environment)
    assert answered.document["state"] == "PLANNING"
    assert here("orchestrate", "--until-idle", env=serving.environment).code == 0
    shown = here("show", "asks", "--json", env=serving.environment).document
    assert shown["answer"] == "Noted."
    (event,) = [row for row in shown["events"] if row["kind"] == "answered"]
    assert event["payload"] == {"text": "The blue one"}
    assert "The blue one" in json.dumps(shown["capsule"]["constraints"])


def test_inputs_reach_the_program(here, script, serving) -> None:
    code = "rlm.finish({'word': rlm.inputs['word'].text()})"
    done = here(
        *("run", "Say it", "--model", script([program(code)], [finish("{{value.word}}")])),
        *("--input", "word=hello = world", "--json"),
        env=serving.environment,
    )
    assert done.document["answer"] == "hello = world"


def test_init_twice_changes_nothing(here, serving) -> None:
    environment = serving.environment | {"ADK_DELTA_SCHEMA": "other"}
    first = here("init", "--json", env=environment)
    second = here("init", "--json", env=environment)
    assert first.code == second.code == 0, first.err + second.err
    assert [item["number"] for item in first.document["migrations"]] == [1, 2, 3, 4, 5]
    assert (second.document["created"], second.document["migrations"]) == ([], [])


def test_doctor_and_status_and_logs(here, script, serving) -> None:
    model = script([program("print('grüße')")], [finish()])
    ran = here("run", "Greet", "--model", model, "--json", env=serving.environment).document
    doctor = here("doctor", "--model", model, "--json", env=serving.environment)
    assert (doctor.code, doctor.document["ok"]) == (0, True), doctor.out
    listed = here("status", "--json", env=serving.environment).document["runs"]
    assert ran["run_id"] in [run["run_id"] for run in listed]
    assert here("logs", ran["run_id"], env=serving.environment).out.strip() == "grüße"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "  "), 2, "empty"),
        (("run", "x", "--run-id", "../etc"), 2, "not a valid run id"),
        (("run", "x", "--model", "scripted:/nowhere.json"), 2, "/nowhere.json"),
        (("run", "x", "--model", "llama"), 2, "RLM_MODEL"),
        (("run", "x", "--input", "novalue"), 2, "NAME=VALUE"),
        (("run", "x", "--max-iterations", "0"), 2, "--max-iterations"),
        (("run",), 2, "TASK"),
        (("status", "no-such-run"), 2, "no-such-run"),
        (("show", "no-such-run"), 2, "no-such-run"),
        (("logs", "UPPER"), 2, "not a valid run id"),
        (("answer", "no-such-run", "x"), 2, "no-such-run"),
        (("frobnicate",), 2, "frobnicate"),
    ],
)
def test_wrong_input_gets_one_clear_message(here, serving, script, arguments, code, said) -> None:
    environment = serving.environment | {"RLM_MODEL": script([finish()])}
    here("init", env=environment)
    done = here(*arguments, env=environment)
    assert done.code == code, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"ADK_DELTA_CATALOG": "nowhere"}, 2, "nowhere"),
        ({"ADK_DELTA_CATALOG": "a b"}, 2, "'a b'"),
        ({"DATABRICKS_HOST": "http://127.0.0.1:9"}, 3, "127.0.0.1"),
        ({"DATABRICKS_TOKEN": "dapi-wrong"}, 3, "DATABRICKS_TOKEN"),
        ({"DATABRICKS_TOKEN": ""}, 3, "auth"),
        ({"RLM_WAREHOUSE_HTTP_PATH": ""}, 2, "RLM_WAREHOUSE_HTTP_PATH"),
        ({"RLM_LEASE_S": "soon"}, 2, "RLM_LEASE_S"),
        ({"RLM_COMPUTE": "abacus"}, 2, "RLM_COMPUTE"),
    ],
)
def test_wrong_configuration_gets_one_clear_message(here, serving, script, change, code, said) -> None:
    for command in (("init",), ("run", "x", "--model", script([finish()]))):
        done = here(*command, env=serving.environment | change)
        assert done.code == code, (command, done.err)
        assert said in done.err
        assert "Traceback" not in done.err
        if change.get("DATABRICKS_TOKEN"):
            assert change["DATABRICKS_TOKEN"] not in done.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "script"),
        ("{", "JSON"),
        ('{"planner": []}', "planner"),
        ('{"planner": [[{"call": "fly", "args": {}}]]}', "fly"),
        ('{"planner": [[{"text": "Well."}]]}', ""),
        ('{"planner": [[{"call": "run_python", "args": {"purpose": "no code"}}]]}', ""),
    ],
)
def test_a_bad_script_or_reply_ends_clearly(here, serving, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    done = here("run", "x", "--model", f"scripted:{path}", "--json", env=serving.environment)
    assert done.code in (1, 2), done.err
    assert "Traceback" not in done.err
    document = done.document
    assert said in json.dumps(document) + done.err
    if "state" in document:
        assert document["state"] == "FAILED"
        assert document["reason"]


def test_json_errors_are_one_document(here, serving) -> None:
    done = here("status", "no-such-run", "--json", env=serving.environment)
    assert done.document["error"] == "RunNotFound"
    assert done.document["exit_code"] == done.code == 2


# Cancellation and budgets


def job_runs(serving) -> list:
    from databricks.sdk import WorkspaceClient

    client = WorkspaceClient(host=serving.host, token=serving.token)
    return list(client.jobs.list_runs(active_only=True))


def test_a_run_and_its_job_are_cancelled(here, script, serving) -> None:
    model = script([program("import time; print('began', flush=True); time.sleep(600)")], [finish("no")])
    submit = ("submit", "Sleep", "--run-id", "sleeper", "--model", model)
    assert here(*submit, env=serving.environment).code == 0
    assert here("tick", env=serving.environment).code == 0
    assert here("status", "sleeper", "--json", env=serving.environment).document["state"] == "EXECUTING"
    done = here("cancel", "sleeper", "--reason", "not needed", "--json", env=serving.environment)
    assert (done.code, done.document["state"], done.document["reason"]) == (0, "CANCELLED", "not needed")
    shown = here("show", "sleeper", "--json", env=serving.environment).document
    assert [row["status"] for row in shown["results"]] == ["CANCELLED"]
    assert not [run for run in job_runs(serving) if "sleeper" in (run.run_name or "")]
    again = here("cancel", "sleeper", env=serving.environment)
    assert (again.code, "CANCELLED" in again.out) == (0, True)
    assert here("cancel", "nobody", env=serving.environment).code == 2


def test_a_cancellation_can_be_left_to_the_controllers(here, script, serving) -> None:
    model = script([program("print(1)")], [finish("no")])
    assert here("submit", "x", "--run-id", "left", "--model", model, env=serving.environment).code == 0
    noted = here("cancel", "left", "--no-wait", "--json", env=serving.environment)
    assert (noted.code, noted.document["state"]) == (0, "PENDING")
    assert here("orchestrate", "--until-idle", env=serving.environment).code == 0
    assert here("status", "left", "--json", env=serving.environment).document["state"] == "CANCELLED"


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        (("--max-iterations", "1"), "1 iterations"),
        (("--max-model-calls", "1"), "1 model calls"),
        (("--max-tokens", "10"), "budget"),
        (("--max-executor-s", "0.5"), "0 seconds of job runs"),
    ],
)
def test_a_budget_ends_the_run_and_says_which(here, script, serving, limit, reason) -> None:
    model = script([program("print(1)")], [finish("too late")])
    done = here("run", "x", "--model", model, *limit, "--json", env=serving.environment)
    assert (done.code, done.document["state"]) == (1, "FAILED")
    assert reason in done.document["reason"]


def test_a_budget_must_make_sense(here, script, serving) -> None:
    for limit in ("--max-cost-usd", "--max-iterations", "--max-wall-s"):
        done = here("submit", "x", limit, "0", env=serving.environment)
        assert done.code == 2
        assert limit in done.err


# The work table


def test_an_item_of_the_work_table_becomes_a_run(here, script, serving) -> None:
    environment = serving.environment | {"ADK_DELTA_SCHEMA": "desk"}
    assert here("init", env=environment).code == 0
    with serving.statements() as cursor:
        cursor.execute(
            "INSERT INTO main.desk.work_items VALUES"
            " ('sales-1', 'Weekly sales', 'Sum them.', 1, 'OPEN', NULL, 'DEV', current_timestamp())"
        )
        model = script([program("rlm.finish({'total': 42})")], [finish("{{value.total}}")])
        done = here("orchestrate", "--until-idle", "--model", model, "--json", env=environment)
        assert (done.code, done.document["unfinished"]) == (0, 0), done.err
        cursor.execute("SELECT status FROM main.desk.work_items")
        assert cursor.fetchall()[0][0] == "DONE"
    (run,) = here("status", "--json", env=environment).document["runs"]
    assert (run["state"], run["answer"]) == ("SUCCEEDED", "42")
    assert "Weekly sales" in run["task"]
