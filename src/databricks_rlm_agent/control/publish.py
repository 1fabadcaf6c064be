"""Publish and submit one attempt. Whoever comes second adopts what the first one published."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from databricks_rlm_agent.domain.actions import RunPython
from databricks_rlm_agent.domain.layout import ENTRYPOINT, MANIFEST, Namespace
from databricks_rlm_agent.domain.manifest import Artifact, Manifest, Request
from databricks_rlm_agent.domain.records import RequestRow
from databricks_rlm_agent.domain.run import AttemptKey, Run
from databricks_rlm_agent.domain.submission import Compute, submit_payload
from databricks_rlm_agent.errors import AlreadyExists, NotFound, RemoteError
from databricks_rlm_agent.ports import Clock, Jobs, Volume


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """Writes programs and manifests into the Volume and submits them."""

    volume: Volume
    jobs: Jobs
    namespace: Namespace
    harness_dir: str
    compute: Compute
    default_timeout_s: int
    clock: Clock
    worker: str

    def adopt(self, key: AttemptKey) -> Manifest | None:
        """The manifest that somebody published for this attempt, if any."""
        path = f"{self._dir(key)}/{MANIFEST}"
        try:
            return Manifest.parse(self.volume.get(path), where=path)
        except NotFound:
            return None

    def publish(self, run: Run, action: RunPython) -> Manifest:
        """Freeze an action as the manifest of the run's current attempt; return the one that counts."""
        return self._put(
            run.key,
            action.code.encode(),
            purpose=action.purpose,
            inputs=run.capsule.inputs | action.inputs,
            timeout_s=action.timeout_s or self.default_timeout_s,
        )

    def publish_again(self, key: AttemptKey) -> Manifest:
        """Freeze the program of the attempt before as the manifest of this one; raise NotFound."""
        before = AttemptKey(run_id=key.run_id, iter_n=key.iter_n, attempt=key.attempt - 1)
        found = self.adopt(before)
        if found is None:
            raise NotFound(
                "The manifest of the attempt before is gone.", where=f"{self._dir(before)}/{MANIFEST}"
            )
        request = found.request
        program = self.volume.get(request.artifact.path)
        return self._put(
            key, program, purpose=request.purpose, inputs=request.inputs, timeout_s=request.timeout_s
        )

    def submit(self, manifest: Manifest) -> tuple[RequestRow, dict[str, Any]]:
        """Start the attempt's job run. Sending it again gives the same run, so a lost reply costs nothing."""
        request = manifest.request
        job_run_id = self.jobs.submit(manifest.submit_payload)
        try:
            url = self.jobs.url(job_run_id)
        except RemoteError:
            url = None  # for people only; the run goes on without it
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
            submitted_at=self.clock(),
            submitted_by_worker=self.worker,
        )
        last_request = {
            "databricks_run_id": job_run_id,
            "run_url": url,
            "request_sha256": request.sha256(),
            "output_dir": request.output_dir,
            "purpose": request.purpose,
            "timeout_s": request.timeout_s,
        }
        return row, last_request

    def _put(
        self, key: AttemptKey, program: bytes, *, purpose: str, inputs: dict[str, Any], timeout_s: int
    ) -> Manifest:
        folder = self._dir(key)
        artifact = self._put_program(f"{folder}/{ENTRYPOINT}", program)
        request = Request(
            run_id=key.run_id,
            iter_n=key.iter_n,
            attempt=key.attempt,
            purpose=purpose,
            artifact=artifact,
            output_dir=folder,
            codebase_dir=self.namespace.codebase_dir,
            inputs=inputs,
            timeout_s=timeout_s,
            results_table=self.namespace.table("execution_results"),
            catalog=self.namespace.catalog,
            schema=self.namespace.schema,
        )
        payload = submit_payload(request, harness_dir=self.harness_dir, compute=self.compute)
        manifest = Manifest(request=request, submit_payload=payload)
        try:
            self.volume.put(f"{folder}/{MANIFEST}", manifest.to_bytes(), overwrite=False)
        except AlreadyExists:  # another controller, or our own write whose answer was lost
            path = f"{folder}/{MANIFEST}"
            return Manifest.parse(self.volume.get(path), where=path)
        return manifest

    def _put_program(self, path: str, program: bytes) -> Artifact:
        # The first program published for an attempt stays: to overwrite it could break a manifest that a
        # stale controller is about to write for it.
        try:
            self.volume.put(path, program, overwrite=False)
        except AlreadyExists:
            program = self.volume.get(path)
        return Artifact(path=path, sha256=hashlib.sha256(program).hexdigest(), size=len(program))

    def _dir(self, key: AttemptKey) -> str:
        return self.namespace.attempt_dir(key.run_id, key.iter_n, key.attempt)
