"""The Jobs API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from databricks_rlm_agent.attempts.verdict import JobVerdict
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.errors import NotFound, Rejected, Unreachable
from databricks_rlm_agent.runs.run import DELETED

if TYPE_CHECKING:
    from databricks.sdk.service.jobs import Run


# The Jobs API has no error code of its own for it ("If a run with the provided token already exists but is
# deleted, an error is returned", databricks-sdk 0.156, jobs.submit).
_DELETED = re.compile(r"idempotency.token.*\bdeleted\b|\bdeleted\b.*idempotency.token", re.IGNORECASE)


class WorkspaceJobs:
    """Implements ports.Jobs."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def submit(self, payload: Mapping[str, Any]) -> int:
        """Send ``runs/submit``. The payload is sent as it was frozen in the manifest, not rebuilt.

        Returns DELETED where the token's job run has been deleted.
        """
        path = "/api/2.2/jobs/runs/submit"
        try:
            reply: Any = self._workspace.call(
                f"POST {path}", lambda client: client.api_client.do("POST", path, body=dict(payload))
            )
        except Rejected as error:
            if not _DELETED.search(error.what):
                raise
            return DELETED
        try:
            return int(reply["run_id"])
        except (KeyError, TypeError, ValueError):
            raise Unreachable(
                "The answer names no run.",
                where=f"POST {path} at {self._workspace.host}",
                fix="The outcome is unknown; asking again with the same token is safe.",
            ) from None

    def verdict(self, databricks_run_id: int) -> JobVerdict:
        """How a run stands, by ``status`` (the run-level ``state`` alone misreports failures)."""
        try:
            return _verdict(databricks_run_id, self._get(databricks_run_id))
        except (AttributeError, KeyError, TypeError) as error:  # from the SDK's parser: no fault of the run
            raise Unreachable(
                f"The answer cannot be read: {error!r}.",
                where=f"job run {databricks_run_id} at {self._workspace.host}",
            ) from None

    def url(self, databricks_run_id: int) -> str | None:
        """The run's page."""
        return self.verdict(databricks_run_id).run_page_url

    def cancel(self, databricks_run_id: int) -> None:
        """Ask for a run's cancellation."""
        self._workspace.call(
            f"job run {databricks_run_id}", lambda client: client.jobs.cancel_run(databricks_run_id)
        )

    def output(self, databricks_run_id: int) -> str:
        """The last of what a run's first task wrote (at most 5 MB, and only while the workspace keeps it)."""
        tasks = self._get(databricks_run_id).tasks
        task_run_id = tasks[0].run_id if tasks else None
        if task_run_id is None:
            return ""
        output = self._workspace.call(
            f"job run {task_run_id}", lambda client: client.jobs.get_run_output(task_run_id)
        )
        return output.logs or ""

    def probe(self) -> str:
        """Return a line that says that job runs can be listed; raise RemoteError where they cannot."""
        self._workspace.call("job runs", lambda client: next(iter(client.jobs.list_runs(limit=1)), None))
        return "runs can be listed; whether they may be submitted shows at the first one"

    def _get(self, databricks_run_id: int) -> Run:
        if databricks_run_id == DELETED:
            raise NotFound("The job run was deleted before it was recorded.", where=self._workspace.host)
        return self._workspace.call(
            f"job run {databricks_run_id}", lambda client: client.jobs.get_run(databricks_run_id)
        )


def _verdict(databricks_run_id: int, run: Run) -> JobVerdict:
    status, details = run.status, run.status.termination_details if run.status else None
    return JobVerdict(
        run_id=databricks_run_id,
        state=_value(status.state) if status else None,
        code=_value(details.code) if details else None,
        type=_value(details.type) if details else None,
        message=(details.message if details else None)
        or (run.state.state_message if run.state else None)
        or "",
        run_page_url=run.run_page_url,
    )


def _value(member: Enum | None) -> str | None:
    return None if member is None else str(member.value)
