"""Jobs: the saved definitions that run-now starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from local_workspace.errors import ApiError, invalid
from local_workspace.jobs.submission import tasks_of
from local_workspace.state import Database
from local_workspace.web import Call

Json = dict[str, Any]
_LARGEST_PAGE, _PAGE = 100, 20


@dataclass(frozen=True, kw_only=True)
class JobDefinitions:
    """jobs/create, get, list, reset, update, delete."""

    database: Database
    user: str
    now: Callable[[], int]

    def create(self, call: Call) -> Json:
        """`jobs/create`."""
        settings = _checked({"name": "Untitled", "max_concurrent_runs": 1, **call.body})
        job_id = self.database.new_ids(1)[0]
        self.database.run("INSERT INTO jobs VALUES (?, ?, ?)", job_id, self.now(), json.dumps(settings))
        return {"job_id": job_id}

    def settings(self, job_id: int) -> Json:
        """The settings of a job. Raises ApiError (400: "Job N does not exist.")."""
        found = self.database.row("SELECT settings FROM jobs WHERE job_id = ?", job_id)
        if found is None:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Job {job_id} does not exist.")
        settings: Json = json.loads(found[0])
        return settings

    def get(self, call: Call) -> Json:
        """`jobs/get`."""
        job_id = call.number("job_id")
        self.settings(job_id)
        row = self.database.row("SELECT job_id, created_time, settings FROM jobs WHERE job_id = ?", job_id)
        assert row is not None
        return self._document(row, tasks=True)

    def list(self, call: Call) -> Json:
        """`jobs/list`, newest first; `name` filters exactly, whatever the case."""
        limit = call.number("limit", _PAGE) or _PAGE
        if not 1 <= limit <= _LARGEST_PAGE:
            raise invalid(f"limit must be between 1 and {_LARGEST_PAGE}, got {limit}")
        offset = call.number("page_token", 0) if call.query.get("page_token") else call.number("offset", 0)
        name = call.query.get("name", "").lower()
        rows = self.database.rows("SELECT job_id, created_time, settings FROM jobs ORDER BY job_id DESC")
        jobs = [self._document(row, tasks=call.flag("expand_tasks")) for row in rows]
        jobs = [job for job in jobs if not name or job["settings"].get("name", "").lower() == name]
        page, more = jobs[offset : offset + limit], offset + limit < len(jobs)
        reply: Json = {"has_more": more}
        reply |= {"jobs": page} if page else {}
        return reply | ({"next_page_token": str(offset + limit)} if more else {})

    def reset(self, call: Call) -> Json:
        """`jobs/reset`: replace all settings."""
        job_id = call.number("job_id")
        self.settings(job_id)
        new = call.value("new_settings")
        self._save(job_id, {"name": "Untitled", "max_concurrent_runs": 1, **new})
        return {}

    def update(self, call: Call) -> Json:
        """`jobs/update`: replace top-level fields, or remove those of `fields_to_remove`."""
        job_id = call.number("job_id")
        settings = self.settings(job_id) | (call.body.get("new_settings") or {})
        for name in call.body.get("fields_to_remove") or []:
            settings.pop(name, None)
        self._save(job_id, settings)
        return {}

    def delete(self, call: Call) -> Json:
        """`jobs/delete`. Its runs stay readable."""
        job_id = call.number("job_id")
        self.settings(job_id)
        self.database.run("DELETE FROM jobs WHERE job_id = ?", job_id)
        return {}

    def _save(self, job_id: int, settings: Json) -> None:
        text = json.dumps(_checked(settings))
        self.database.run("UPDATE jobs SET settings = ? WHERE job_id = ?", text, job_id)

    def _document(self, row: tuple[Any, ...], *, tasks: bool) -> Json:
        settings: Json = json.loads(row[2])
        if not tasks:
            settings.pop("tasks", None)
        settings.setdefault("format", "MULTI_TASK")
        return {
            "job_id": row[0],
            "created_time": row[1],
            "creator_user_name": self.user,
            "run_as_user_name": self.user,
            "settings": settings,
        }


def _checked(settings: Json) -> Json:
    if not isinstance(settings, dict):
        raise invalid("new_settings must be an object")
    if settings.get("tasks"):
        tasks_of(settings)
    return settings
