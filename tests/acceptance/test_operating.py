"""What an operator meets: damaged tables, mistyped names, other people's runs, an interruption."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from acceptance_support import environment, finish

ALL_CHECKS = {
    *("workspace", "warehouse", "clock", "tables", "volume", "harness", "work table", "secrets"),
    *("model", "sub-model", "jobs"),
}


def checks(done) -> dict[str, dict]:
    return {check["check"]: check for check in done.document["checks"]}


def test_doctor_looks_at_everything(here, script, serving) -> None:
    done = here("doctor", "--model", script([finish()]), "--json", env=serving.environment)
    assert {name for name, check in checks(done).items() if check["ok"]} == ALL_CHECKS, done.out
    volume = serving.root / serving.volume.lstrip("/")
    assert volume.is_dir()
    assert not [*volume.glob("doctor*")]  # the file is gone again


@pytest.mark.fault("A15")
@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("DROP TABLE {}.run_events", "there is no table {}.run_events"),
        ("DROP TABLE {}.execution_requests", "there is no table {}.execution_requests"),
        ("CREATE OR REPLACE TABLE {}.model_calls (run_id STRING)", "{}.model_calls has no column "),
    ],
)
def test_a_damaged_ledger_is_seen_and_repaired(here, script, serving, damage: str, fault: str) -> None:
    env, model = serving.environment | {"ADK_DELTA_SCHEMA": "damaged"}, script([finish("Whole again.")])
    assert here("init", env=env).code == 0
    with serving.statements() as cursor:
        cursor.execute(damage.format("main.damaged"))
    seen = here("doctor", "--model", model, "--json", env=env)
    assert seen.code == 1
    assert fault.format("main.damaged") in checks(seen)["tables"]["detail"]
    assert "rlm-agent init" in checks(seen)["tables"]["detail"]
    repaired = here("init", "--json", env=env).document["repaired"]
    assert any(fault.format("main.damaged") in line for line in repaired), repaired
    assert here("doctor", "--model", model, env=env).code == 0
    assert here("run", "Do it", "--model", model, "--json", env=env).document["answer"] == "Whole again."


@pytest.mark.fault("A15")
def test_a_harness_file_cut_short_is_seen_and_repaired(here, script, serving) -> None:
    env, model = serving.environment, script([finish()])
    folder = here("init", "--json", env=env).document["harness"]
    file = serving.root / folder.lstrip("/") / "main.py"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    seen = here("doctor", "--model", model, "--json", env=env)
    assert "damaged" in checks(seen)["harness"]["detail"]
    assert here("init", env=env).code == 0
    assert file.read_bytes() == whole


@pytest.mark.fault("A16")
def test_status_shows_a_damaged_row_beside_the_others(here, serving) -> None:
    env = serving.environment | {"ADK_DELTA_SCHEMA": "torn"}
    assert here("init", env=env).code == 0
    for name in ("whole", "torn"):
        assert here("submit", "Count it", "--run-id", name, env=env).code == 0
    with serving.statements() as cursor:
        cursor.execute(
            "UPDATE main.torn.run_state SET created_at = NULL, updated_at = NULL WHERE run_id = 'torn'"
        )
    listed = {run["run_id"]: run for run in here("status", "--json", env=env).document["runs"]}
    assert (listed["whole"]["state"], listed["torn"]["state"]) == ("PENDING", "DAMAGED")
    assert "created_at" in listed["torn"]["reason"]
    assert "DAMAGED" in here("status", env=env).out


@pytest.mark.fault("A26")
@pytest.mark.parametrize("words", [("submit", "x"), ("run", "x"), ("status",), ("orchestrate", "--once")])
def test_a_mistyped_schema_makes_nothing(here, script, serving, words: tuple[str, ...]) -> None:
    model = script([finish()])
    env = serving.environment | {"ADK_DELTA_SCHEMA": "mistyped", "RLM_MODEL": model}
    done = here(*words, env=env)
    assert done.code == 2
    assert "rlm-agent init" in done.err
    with serving.statements() as cursor:
        cursor.execute("SHOW SCHEMAS IN main")
        assert not [row for row in cursor.fetchall() if "mistyped" in row[0]]


def test_init_says_which_catalog_is_missing(here, serving) -> None:
    done = here("init", env=serving.environment | {"ADK_DELTA_CATALOG": "nowhere"})
    assert done.code == 2
    assert "There is no catalog 'nowhere'" in done.err
    assert "rlm-agent init" not in done.err  # it is what was just tried


@pytest.mark.fault("A15")
def test_a_table_that_was_dropped_holds_no_migration_up(here, serving) -> None:
    env = serving.environment | {"ADK_DELTA_SCHEMA": "older"}
    assert here("init", env=env).code == 0
    with serving.statements() as cursor:
        cursor.execute("DELETE FROM main.older.schema_migrations WHERE number IN (2, 3, 5)")
        cursor.execute("DROP TABLE main.older.run_state")
    done = here("init", "--json", env=env)
    assert done.code == 0, done.err
    assert [item["number"] for item in done.document["migrations"]] == [2, 3, 5]
    assert here("status", env=env).code == 0


@pytest.mark.fault("A26")
@pytest.mark.parametrize("words", [("status",), ("run", "x"), ("doctor",), ("sql", "run", ".")])
def test_a_mistyped_root_makes_nothing(here, tmp_path: Path, words: tuple[str, ...]) -> None:
    root = tmp_path / "my typo"
    (tmp_path / "one.sql").write_text("SELECT 1")
    words = tuple(str(tmp_path) if word == "." else word for word in words)
    done = here(*words, "--root", str(root))
    assert done.code == 2
    assert f"rlm-agent init --root {shlex.quote(str(root))}" in done.err
    assert not root.exists()


@pytest.mark.fault("A21")
def test_run_carries_out_its_own_run_only(here, script, serving) -> None:
    env = serving.environment
    theirs = script([finish("Not yours to pay.")], name="theirs.json")
    submitted = here("submit", "A colleague's", "--run-id", "theirs", "--model", theirs, "--json", env=env)
    assert submitted.code == 0
    mine = here("run", "Mine", "--model", script([finish("Mine.")]), "--json", env=env)
    assert mine.document["answer"] == "Mine."
    assert here("status", "theirs", "--json", env=env).document["state"] == "PENDING"
    followed = here("follow", "theirs", "--json", env=env)  # on purpose
    assert followed.document["answer"] == "Not yours to pay."


@pytest.mark.fault("A25")
def test_an_interrupted_run_names_the_command_that_goes_on(here, serving, tmp_path: Path) -> None:
    slow = tmp_path / "slow.json"
    slow.write_text(json.dumps({"planner": [[finish("Done.")]], "latency_s": 20}))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "databricks_rlm_agent.cli.main", "run", "Slowly"),
            *("--model", f"scripted:{slow}"),
        ],
        env=environment(serving.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what is in its background with this signal ignored, and children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("Run r"), first  # said at once
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130
    hint = err.strip().splitlines()[-1].rpartition(": ")[2]
    assert hint in first
    slow.write_text(json.dumps({"planner": [[finish("Done.")]], "latency_s": 0}))
    followed = here(*shlex.split(hint)[1:], "--json", env=serving.environment)
    assert followed.document["answer"] == "Done."
    listed = here("status", "--json", env=serving.environment).document["runs"]
    assert len([run for run in listed if run["task"] == "Slowly"]) == 1
