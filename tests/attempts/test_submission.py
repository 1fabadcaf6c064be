from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st
from samples import request

from databricks_rlm_agent.attempts.manifest import (
    PLATFORM_MARGIN_S,
    Compute,
    existing_cluster,
    idempotency_token,
    serverless,
    submit_payload,
)
from databricks_rlm_agent.runs.run import AttemptKey

KEYS = st.builds(
    AttemptKey,
    run_id=st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True),
    iter_n=st.integers(1, 10**9),
    attempt=st.integers(1, 10**9),
)
HARNESS = "/Volumes/a/b/harness/0123456789abcdef"


@given(KEYS, KEYS)
def test_the_token_is_64_hex_and_names_the_attempt(one: AttemptKey, other: AttemptKey) -> None:
    token = idempotency_token(one, catalog="main", schema="rlm")
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert (token == idempotency_token(other, catalog="main", schema="rlm")) == (one == other)
    assert token != idempotency_token(one, catalog="main", schema="prod")


def test_the_token_never_changes_between_versions() -> None:
    # A controller of a new version must get the run that one of an old version submitted.
    key = AttemptKey(run_id="r1", iter_n=2, attempt=1)
    token = idempotency_token(key, catalog="main", schema="rlm")
    assert token == "fa758bfe5ffbe1626ee02b70eaf6e63acd3460d855d155372cee7e2741c7d359"


@given(st.text(max_size=60), st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3))
def test_what_a_task_says_never_reaches_the_payload(purpose: str, texts: dict[str, str]) -> None:
    inputs = {name: {"kind": "text", "text": text} for name, text in texts.items()}
    plain = submit_payload(request(), harness_dir=HARNESS, compute=serverless())
    other = submit_payload(request(purpose=purpose, inputs=inputs), harness_dir=HARNESS, compute=serverless())
    text = json.dumps(other, ensure_ascii=False)
    assert text.isascii()  # the API takes ASCII parameters only
    digest = request(purpose=purpose, inputs=inputs).sha256()
    assert text.replace(digest, request().sha256()) == json.dumps(plain)


def test_the_payload() -> None:
    payload = submit_payload(request(), harness_dir=HARNESS, compute=serverless())
    assert payload == submit_payload(request(), harness_dir=HARNESS, compute=serverless())
    (task,) = payload["tasks"]
    parameters = task["spark_python_task"]["parameters"]
    assert dict(zip(parameters[::2], parameters[1::2], strict=True)) == {
        "--run-id": "r1",
        "--iter": "2",
        "--attempt": "1",
        "--manifest": "/Volumes/a/b/c/manifest.json",
        "--request-sha256": request().sha256(),
        "--databricks-run-id": "{{job.run_id}}",  # the platform puts the run's own id there
    }
    assert all(isinstance(item, str) for item in parameters)
    assert task["max_retries"] == 0
    assert task["timeout_seconds"] == payload["timeout_seconds"] == 60 + PLATFORM_MARGIN_S
    assert task["environment_key"] == payload["environments"][0]["environment_key"]
    # Names that runs/submit refuses or drops in silence (databricks-facts, sections 0 and 1).
    assert not {"tags", "job_clusters", "parameters", "task_environment_vars"} & (
        payload.keys() | task.keys()
    )


def test_compute_is_merged_into_the_task() -> None:
    task = submit_payload(request(), harness_dir=HARNESS, compute=existing_cluster("c-1"))["tasks"][0]
    assert task["existing_cluster_id"] == "c-1"
    assert "environment_key" not in task
    assert "environments" not in submit_payload(request(), harness_dir=HARNESS, compute=Compute())


def test_packages_go_where_the_compute_installs_them() -> None:
    asked = request(packages=["connector==1"], task_type="sql_workflow")
    environments = submit_payload(asked, harness_dir=HARNESS, compute=serverless())["environments"]
    spec = {"environment_version": "5", "dependencies": ["connector==1"]}
    assert environments == [{"environment_key": "executor", "spec": spec}]
    (task,) = submit_payload(asked, harness_dir=HARNESS, compute=existing_cluster("c1"))["tasks"]
    assert task["libraries"] == [{"pypi": {"package": "connector==1"}}]
    assert serverless() == serverless()  # none of it stays in the compute of other tasks
    plain = submit_payload(request(), harness_dir=HARNESS, compute=serverless())
    assert "dependencies" not in plain["environments"][0]["spec"]
    own = Compute(task={"libraries": [{"whl": "/Volumes/a.whl"}], "existing_cluster_id": "c1"})
    (task,) = submit_payload(asked, harness_dir=HARNESS, compute=own)["tasks"]
    assert [*task["libraries"][0]] == ["whl"]
    assert len(task["libraries"]) == 2


def test_a_request_without_packages_has_the_digest_that_it_always_had() -> None:
    assert "packages" not in request().to_dict()
    assert request(packages=["x"]).to_dict()["packages"] == ["x"]
