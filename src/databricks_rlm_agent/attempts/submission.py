"""The Jobs API request of an attempt: deterministic, so that any controller sends the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from databricks_rlm_agent.attempts.manifest import Request
from databricks_rlm_agent.layout import MANIFEST
from databricks_rlm_agent.runs.run import AttemptKey

TASK_KEY = "execute"
# The harness ends a program at its own time-out; the platform's is the net below it.
PLATFORM_MARGIN_S = 600


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where Job B runs: fields merged into the task and into the run of ``runs/submit``."""

    task: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)


def serverless(environment_version: str = "5") -> Compute:
    """Serverless compute. ``environment_key`` is required for script tasks there."""
    return Compute(
        task={"environment_key": "executor"},
        run={
            "environments": [
                {"environment_key": "executor", "spec": {"environment_version": environment_version}}
            ]
        },
    )


def existing_cluster(cluster_id: str) -> Compute:
    """An all-purpose cluster that exists."""
    return Compute(task={"existing_cluster_id": cluster_id})


def idempotency_token(key: AttemptKey, *, catalog: str, schema: str) -> str:
    """The token of an attempt: 64 hex characters, the most that the Jobs API takes.

    The attempt belongs in it: with a static token a retry would return the old run's outcome. So does the
    schema: two of them in one workspace may have runs of the same id, made from the same work item.
    """
    identity = f"databricks_rlm_agent/{catalog}.{schema}/{key.run_id}/{key.iter_n}/{key.attempt}"
    return hashlib.sha256(identity.encode("ascii")).hexdigest()


def submit_payload(request: Request, *, harness_dir: str, compute: Compute) -> dict[str, Any]:
    """Body of ``POST /api/2.2/jobs/runs/submit`` for a request. Parameters are ids, paths and hashes only."""
    key = AttemptKey(run_id=request.run_id, iter_n=request.iter_n, attempt=request.attempt)
    parameters = [
        *("--run-id", request.run_id, "--iter", str(request.iter_n), "--attempt", str(request.attempt)),
        *("--manifest", f"{request.output_dir}/{MANIFEST}", "--request-sha256", request.sha256()),
        # The platform fills it in; the harness takes anything else than a number for "not told".
        *("--databricks-run-id", "{{job.run_id}}"),
    ]
    task = {
        "task_key": TASK_KEY,
        "spark_python_task": {"python_file": f"{harness_dir}/main.py", "parameters": parameters},
        # A retry is a new attempt, with a manifest and a token of its own: the platform must not make one,
        # which serverless compute does on its own unless told not to.
        "max_retries": 0,
        "disable_auto_optimization": True,
        "timeout_seconds": request.timeout_s + PLATFORM_MARGIN_S,
        **compute.task,
    }
    payload = {
        "run_name": f"rlm {request.run_id} iteration {request.iter_n} attempt {request.attempt}",
        "idempotency_token": idempotency_token(key, catalog=request.catalog, schema=request.schema),
        "timeout_seconds": request.timeout_s + PLATFORM_MARGIN_S,
        "queue": {"enabled": True},
        "tasks": [task],
        **compute.run,
    }
    return _with_packages(payload, request.packages) if request.packages else payload


def _with_packages(payload: dict[str, Any], packages: Sequence[str]) -> dict[str, Any]:
    """The same with packages from the workspace's index: in the task's environment where it has one (it runs
    serverless then), else as its libraries.
    """
    (task,) = payload["tasks"]
    key = task.get("environment_key")
    if key is None:
        libraries = [*task.get("libraries", []), *({"pypi": {"package": package}} for package in packages)]
        return payload | {"tasks": [task | {"libraries": libraries}]}
    environments = [
        each | {"spec": spec | {"dependencies": [*spec.get("dependencies", []), *packages]}}
        if each["environment_key"] == key
        else each
        for each in payload["environments"]
        for spec in [each["spec"]]
    ]
    return payload | {"environments": environments}


def submits(payload: dict[str, Any], request: Request) -> bool:
    """Return whether a stored payload is the one of this request: its token, and the digest that the job
    checks.
    """
    key = AttemptKey(run_id=request.run_id, iter_n=request.iter_n, attempt=request.attempt)
    try:
        (task,) = payload["tasks"]
        words = task["spark_python_task"]["parameters"]
        digest = words[words.index("--request-sha256") + 1]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return False
    token = idempotency_token(key, catalog=request.catalog, schema=request.schema)
    return bool(payload.get("idempotency_token") == token and digest == request.sha256())
