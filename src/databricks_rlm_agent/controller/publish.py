"""Publish and submit one attempt. Whoever comes second adopts what the first one published.

The manifest's place is the fence of an attempt: it is put without overwriting, so of all controllers that
ever believed to hold the run, one decides what becomes of the attempt.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

from databricks_rlm_agent.attempts.manifest import (
    Closing,
    Manifest,
    PlanRecord,
    Request,
    parse_intent,
    submit_payload,
    submits,
)
from databricks_rlm_agent.attempts.records import ModelCallRow, RequestRow
from databricks_rlm_agent.controller.bundle import WORKFLOW_ENTRY
from databricks_rlm_agent.errors import AlreadyExists, InvalidData, NotFound, RemoteError
from databricks_rlm_agent.layout import ENTRYPOINT, MANIFEST, Namespace
from databricks_rlm_agent.models import sub_endpoint
from databricks_rlm_agent.ports import Jobs, Volume
from databricks_rlm_agent.runs.actions import RunPython, RunSqlWorkflow
from databricks_rlm_agent.runs.run import AttemptKey, LastRequest, Run
from databricks_rlm_agent.settings import Settings
from databricks_rlm_agent.sqlflow.handover import content_hash
from databricks_rlm_agent.values import Clock
from executor_harness import protocol
from executor_harness.protocol import Artifact


def sub_model(settings: Settings, run: Run) -> str | None:
    """The serving endpoint that the programs of a run may ask: the configured one, else the planner's."""
    return settings.sub_model or sub_endpoint(run.model or settings.model)


def model_access(settings: Settings, run: Run) -> protocol.ModelAccess | None:
    """The models that the program of a run may ask; None if there are none."""
    endpoint = sub_model(settings, run)
    if endpoint is None:
        return None
    at_once, whole = run.budget.sub_concurrency or settings.sub_concurrency, settings.sub_per_minute
    return protocol.ModelAccess(
        endpoint=endpoint,
        concurrency=min(at_once, settings.sub_concurrency),
        # A child's part of the rate is that of the calls at once.
        per_minute=None if whole is None else max(1, whole * at_once // settings.sub_concurrency),
        timeout_s=settings.sub_timeout_s,
        max_reply_tokens=settings.sub_reply_tokens,
        prices=dict(settings.prices),
        allowance=run.budget.allowance(),
        calls_table=settings.namespace.table(ModelCallRow.TABLE),
    )


_CONNECTOR = "databricks-sql-connector"
_PROGRAM = '''\
"""The SQL workflow {name}, in the folder that the order names. Written by the control plane."""
import json

from executor_harness.workflow import run

run(rlm, {entry!r}, json.loads({document!r}))
'''


@dataclass(frozen=True, kw_only=True)
class Job:
    """The program of an attempt as it is to be published, and the packages that its job needs."""

    program: bytes
    packages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Workflows:
    """Writes SQL workflows into the Volume. ``http_path`` is the warehouse of those that run on one."""

    volume: Volume
    namespace: Namespace
    http_path: str | None

    def refusal(self, action: RunSqlWorkflow) -> str | None:
        """Why it cannot be run here; None if it can."""
        if action.engine == "warehouse" and not self.http_path:
            return 'No SQL warehouse is configured for workflows: use engine "spark".'
        return None

    def publish(self, key: AttemptKey, action: RunSqlWorkflow) -> Job:
        """Put the files and return the job's program. Harmless when repeated."""
        sha256 = content_hash(action.files)
        folder = self.namespace.workflow_dir(key.run_id, action.name, sha256)
        for name, text in sorted(action.files.items()):
            with contextlib.suppress(AlreadyExists):  # of an attempt that died: the folder has the hash
                self.volume.put(f"{folder}/{name}", text.encode(), overwrite=False)
        # ``handover.Order`` as JSON; the id of its run is the same for all iterations of a run.
        order = {
            "name": action.name,
            "variables": action.variables,
            "max_iterations": action.max_iterations,
            "on_error": action.on_error,
            "folder": folder,
            "files": sorted(action.files),
            "sha256": sha256,
            "run_id": f"rlm-{key.run_id}-{action.name}",
            "catalog": action.catalog or self.namespace.catalog,
            "schema": action.schema or self.namespace.schema,
            "restart": key.iter_n if action.restart else None,
        }
        engine: dict[str, Any] = {"kind": action.engine}
        packages: tuple[str, ...] = ()
        if action.engine == "warehouse":
            engine["http_path"] = self.http_path
            packages = (f"{_CONNECTOR}=={metadata.version(_CONNECTOR)}",)
        document = json.dumps({"order": order, "engine": engine})
        program = _PROGRAM.format(name=action.name, entry=WORKFLOW_ENTRY, document=document)
        return Job(program=program.encode(), packages=packages)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """The parts of a job's request beside its program."""

    type: Literal["python", "sql_workflow"]
    purpose: str
    timeout_s: int
    inputs: dict[str, Any] = field(default_factory=dict)
    packages: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """Writes programs and manifests into the Volume and submits them."""

    volume: Volume
    jobs: Jobs
    settings: Settings
    harness_dir: str
    clock: Clock
    worker: str

    @property
    def workflows(self) -> Workflows:
        """The writer of SQL workflows' files."""
        settings = self.settings
        return Workflows(
            volume=self.volume, namespace=settings.namespace, http_path=settings.warehouse_http_path
        )

    def intent(self, key: AttemptKey) -> Manifest | Closing | None:
        """The decision on record about this attempt, if there is one."""
        try:
            return self._read(key)
        except NotFound:
            return None

    def publish(self, run: Run, action: RunPython | RunSqlWorkflow, plan: PlanRecord) -> Manifest | Closing:
        """Freeze an action as the manifest of the run's current attempt; return the decision that counts."""
        timeout_s = action.timeout_s or self.settings.program_timeout_s
        if isinstance(action, RunSqlWorkflow):
            job = self.workflows.publish(run.key, action)
            task = _Task(
                type="sql_workflow", purpose=action.purpose, timeout_s=timeout_s, packages=[*job.packages]
            )
            return self._put(run, job.program, task, plan=plan)
        inputs = run.capsule.inputs | _answers(run) | action.inputs
        task = _Task(type="python", purpose=action.purpose, timeout_s=timeout_s, inputs=inputs)
        return self._put(run, action.code.encode(), task, plan=plan)

    def publish_again(self, run: Run) -> Manifest | Closing:
        """Freeze the program of the attempt before as the manifest of this one; raise NotFound."""
        key = run.key
        before = AttemptKey(run_id=key.run_id, iter_n=key.iter_n, attempt=key.attempt - 1)
        found = self.intent(before)
        if not isinstance(found, Manifest):
            raise NotFound(
                "The manifest of the attempt before is gone.", where=f"{self._dir(before)}/{MANIFEST}"
            )
        request = found.request
        task = _Task(
            type=request.task_type,
            purpose=request.purpose,
            timeout_s=request.timeout_s,
            inputs=request.inputs,
            packages=request.packages,
        )
        return self._put(run, self.volume.get(request.artifact.path), task, plan=None)

    def close(self, closing: Closing) -> Manifest | Closing:
        """Decide that the attempt runs no program; return the decision that counts."""
        return self._decide(closing.key, closing)

    def submit(self, manifest: Manifest) -> tuple[RequestRow, LastRequest]:
        """Start the attempt's job run. Sending it again gives the same run, so a lost reply costs nothing."""
        request = manifest.request
        job_run_id = self.jobs.submit(manifest.submit_payload)
        try:
            url = self.jobs.url(job_run_id)
        except RemoteError:
            url = None  # for people only; the run goes on without it
        now = self.clock()
        row = RequestRow(
            run_id=request.run_id,
            iter_n=request.iter_n,
            attempt=request.attempt,
            task_type=request.task_type,
            artifact_path=request.artifact.path,
            artifact_hash=request.artifact.sha256,
            job_submit_payload=json.dumps(manifest.submit_payload, ensure_ascii=False),
            databricks_run_id=job_run_id,
            run_url=url,
            submitted_at=now,
            submitted_by_worker=self.worker,
        )
        last_request = LastRequest(
            databricks_run_id=job_run_id,
            run_url=url,
            request_sha256=request.sha256(),
            output_dir=request.output_dir,
            purpose=request.purpose,
            timeout_s=request.timeout_s,
            submitted_at=now,
        )
        return row, last_request

    def _put(self, run: Run, program: bytes, task: _Task, *, plan: PlanRecord | None) -> Manifest | Closing:
        key, folder, namespace = run.key, self._dir(run.key), self.settings.namespace
        request = Request(
            run_id=key.run_id,
            iter_n=key.iter_n,
            attempt=key.attempt,
            task_type=task.type,
            purpose=task.purpose,
            artifact=self._put_program(folder, program),
            output_dir=folder,
            codebase_dir=namespace.codebase_dir,
            inputs=task.inputs,
            packages=task.packages,
            timeout_s=max(1, run.budget.granted_s(task.timeout_s, age_s=run.age_s(self.clock()))),
            results_table=namespace.table("execution_results"),
            catalog=namespace.catalog,
            schema=namespace.schema,
            models=model_access(self.settings, run),
            variables=run.capsule.variables.ref if run.capsule.variables else None,
            scratch_schema=namespace.scratch_schema,
            spawn={"max_children": run.children_left},
        )
        payload = submit_payload(request, harness_dir=self.harness_dir, compute=self.settings.compute)
        return self._decide(key, Manifest(request=request, submit_payload=payload, plan=plan))

    def _decide(self, key: AttemptKey, intent: Manifest | Closing) -> Manifest | Closing:
        path = f"{self._dir(key)}/{MANIFEST}"
        try:
            self.volume.put(path, intent.to_bytes(), overwrite=False)
        except AlreadyExists:  # another controller, or our own write whose answer was lost
            return self._read(key)
        return intent

    def _read(self, key: AttemptKey) -> Manifest | Closing:
        """Return the intent on record of an attempt; raise NotFound, or InvalidData if it is another's."""
        path = f"{self._dir(key)}/{MANIFEST}"
        found = parse_intent(self.volume.get(path), where=path)
        if found.key != key:
            raise InvalidData(f"The manifest is that of {found.key}.", where=path)
        if isinstance(found, Manifest) and not submits(found.submit_payload, found.request):
            raise InvalidData("The manifest would submit something else than its request.", where=path)
        return found

    def _put_program(self, folder: str, program: bytes) -> Artifact:
        """Programs are never overwritten: a manifest that a stale controller is about to put may name one."""
        digest = hashlib.sha256(program).hexdigest()
        path = f"{folder}/{ENTRYPOINT}"
        try:
            self.volume.put(path, program, overwrite=False)
        except AlreadyExists:
            if self.volume.get(path) != program:  # of a controller that died before its manifest
                stem, dot, suffix = ENTRYPOINT.rpartition(".")
                path = f"{folder}/{stem}_{digest[:16]}{dot}{suffix}"
                with contextlib.suppress(AlreadyExists):
                    self.volume.put(path, program, overwrite=False)
        return Artifact(path=path, sha256=digest, size=len(program))

    def _dir(self, key: AttemptKey) -> str:
        return self.settings.namespace.attempt_dir(key.run_id, key.iter_n, key.attempt)


def _answers(run: Run) -> dict[str, Any]:
    return {note.name: {"kind": "answer", "path": note.path} for note in run.capsule.answers if note.path}
