"""The manifest: the intent record of one attempt, and the submit that follows from it.

Who finds a manifest adopts it and never plans again. It is put without overwriting, so the first decision
about an attempt is the only one: a program to run (``Manifest``) or, where another controller might be about
to publish one, the end of it (``Closing``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, RootModel, Tag, field_validator
from pydantic.dataclasses import dataclass as parsed_dataclass

from databricks_rlm_agent.layout import MANIFEST
from databricks_rlm_agent.runs.budget import Usage
from databricks_rlm_agent.runs.fsm import Event
from databricks_rlm_agent.runs.parsing import Document, parse
from databricks_rlm_agent.runs.run import AttemptKey, RunOutcome
from databricks_rlm_agent.values import ID_PATTERN
from executor_harness import protocol
from executor_harness.protocol import ChildTask


@parsed_dataclass(frozen=True, kw_only=True)
class Request(protocol.Request):
    """The request of the wire, with its fields validated."""

    @property
    def key(self) -> AttemptKey:
        """The attempt that this is the request of."""
        return AttemptKey(run_id=self.run_id, iter_n=self.iter_n, attempt=self.attempt)

    def to_dict(self) -> dict[str, Any]:
        """The request as it is hashed and stored."""
        document = asdict(self)
        if not self.packages:
            del document["packages"]  # so that requests without any keep the digests that they always had
        return document

    def sha256(self) -> str:
        """SHA-256 (hex) of the request's canonical JSON."""
        return protocol.digest(self.to_dict())


ClosingEvent = Literal[Event.FINISH, Event.ASK, Event.GIVE_UP, Event.CANCEL, Event.SPAWN]


class PlanRecord(Document):
    """The epoch of the lease under which a decision was made, and the models' usage for it."""

    epoch: int = Field(ge=0)
    usage: Usage = Usage()


class Manifest(Document):
    """``manifest.json``: the frozen request and the exact payload of its submit."""

    kind: Literal["program"] = "program"
    schema_version: Literal[1] = 1  # protocol.SCHEMA_VERSION; a test holds them in step
    request: Request
    submit_payload: dict[str, Any]
    plan: PlanRecord | None = None

    @property
    def key(self) -> AttemptKey:
        """The attempt that this is the manifest of."""
        return self.request.key

    def to_bytes(self) -> bytes:
        """The file's content."""
        document = {
            "kind": self.kind,
            "schema_version": self.schema_version,
            "request": self.request.to_dict(),
            "submit_payload": self.submit_payload,
            "plan": self.plan.model_dump(mode="json") if self.plan else None,
        }
        return _dump(document)


class Closing(Document):
    """``manifest.json`` of an attempt that runs no program: the decision that was taken in its place, and the
    ``tasks`` of the child runs if it was to spawn some.

    With it, a controller that was held up for longer than its lease can no longer publish a program for a
    run that has ended or asks its person.
    """

    kind: Literal["closing"] = "closing"
    schema_version: Literal[1] = 1
    closing: ClosingEvent
    run_id: str = Field(pattern=f"^{ID_PATTERN.pattern}$")
    iter_n: int = Field(ge=1)
    attempt: int = Field(ge=1)
    outcome: dict[str, str]
    tasks: list[ChildTask] = Field(default_factory=list, max_length=protocol.CHILDREN)
    plan: PlanRecord

    @field_validator("outcome")
    @classmethod
    def _of_an_outcome(cls, outcome: dict[str, str]) -> dict[str, str]:
        if unknown := outcome.keys() - {field.name for field in fields(RunOutcome)}:
            raise ValueError(f"an outcome has no {sorted(unknown)[0]!r}")
        return outcome

    @property
    def key(self) -> AttemptKey:
        """The attempt that this closes."""
        return AttemptKey(run_id=self.run_id, iter_n=self.iter_n, attempt=self.attempt)

    def to_bytes(self) -> bytes:
        """The file's content."""
        return _dump(self.model_dump(mode="json"))


def _kind(document: Any) -> str:
    """The kind of an intent. Older versions wrote no ``kind``: only a program has a payload to submit."""
    if not isinstance(document, dict):
        return "program"
    return str(document.get("kind", "program" if "submit_payload" in document else "closing"))


class _Intent(
    RootModel[
        Annotated[
            Annotated[Manifest, Tag("program")] | Annotated[Closing, Tag("closing")], Discriminator(_kind)
        ]
    ]
):
    pass


def parse_intent(content: bytes, *, where: str) -> Manifest | Closing:
    """Read a stored intent record; raise InvalidData if it is not one."""
    return parse(_Intent, content, what="The manifest", where=where).root


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False).encode()


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
        "idempotency_token": idempotency_token(request.key, catalog=request.catalog, schema=request.schema),
        "timeout_seconds": request.timeout_s + PLATFORM_MARGIN_S,
        "queue": {"enabled": True},
        "tasks": [task],
        **compute.run,
    }
    return _with_packages(payload, request.packages) if request.packages else payload


def _with_packages(payload: dict[str, Any], packages: Sequence[str]) -> dict[str, Any]:
    """The same with packages: in the task's environment where it has one (serverless), else as libraries."""
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
    """Return whether a stored payload is this request's: its token, and the digest that the job checks."""
    try:
        (task,) = payload["tasks"]
        words = task["spark_python_task"]["parameters"]
        digest = words[words.index("--request-sha256") + 1]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return False
    token = idempotency_token(request.key, catalog=request.catalog, schema=request.schema)
    return bool(payload.get("idempotency_token") == token and digest == request.sha256())
