"""Runs in the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from local_workspace.errors import ApiError, invalid
from local_workspace.jobs.model import Run
from local_workspace.state import Database

TOKEN_LIMIT = 64


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which runs to list. `before` and `after` are run ids that bound the page, exclusively."""

    active: bool | None = None
    job_id: int | None = None
    run_type: str | None = None
    start_from: int | None = None
    start_to: int | None = None
    before: int | None = None
    after: int | None = None

    def where(self) -> tuple[str, list[object]]:
        """The condition and its values."""
        terms: list[tuple[str, object]] = [
            ("active = ?", None if self.active is None else int(self.active)),
            ("job_id = ?", self.job_id),
            ("run_type = ?", self.run_type),
            ("start_time >= ?", self.start_from),
            ("start_time <= ?", self.start_to),
            ("run_id < ?", self.before),
            ("run_id > ?", self.after),
        ]
        used = [(text, value) for text, value in terms if value is not None]
        return " AND ".join(["1 = 1", *(text for text, _ in used)]), [value for _, value in used]


class RunStore:
    """Every run, as last saved."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, token: str | None, scope: int, make: Callable[[], Run]) -> tuple[Run, bool]:
        """Save the run that `make` builds, unless `token` is known: then that run. True when it is new.

        Raises ApiError: the token is too long, or its run was deleted.
        """
        if token and len(token) > TOKEN_LIMIT:
            raise invalid(f"idempotency_token must have at most {TOKEN_LIMIT} characters, got {len(token)}")
        made = make()
        with self._database.transaction():
            known = token and self._database.row(
                "SELECT run_id FROM tokens WHERE scope = ? AND token = ?", scope, token
            )
            if known:
                return self._of_token(known[0]), False
            self._database.run(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?)",
                *(made.run_id, made.job_id, made.run_type, made.start_time, int(made.active), made.to_json()),
            )
            self._index(made)
            if token:
                self._database.run("INSERT INTO tokens VALUES (?, ?, ?)", scope, token, made.run_id)
        return made, True

    def _of_token(self, run_id: int) -> Run:
        found = self._database.row("SELECT doc FROM runs WHERE run_id = ?", run_id)
        if found is None:
            raise invalid(f"The run {run_id} with this idempotency token was deleted")
        return Run.from_json(found[0])

    def _index(self, run: Run) -> None:
        for task in run.tasks:
            self._database.run("INSERT OR IGNORE INTO task_runs VALUES (?, ?)", task.run_id, run.run_id)

    def new_ids(self, count: int) -> Sequence[int]:
        """Ids that were never given out before."""
        return self._database.new_ids(count)

    def save(self, run: Run) -> None:
        """Replace what is stored of a run."""
        if run.earlier:  # only then may it have got task runs since it was inserted
            self._index(run)
        self._database.run(
            "UPDATE runs SET active = ?, doc = ? WHERE run_id = ?", int(run.active), run.to_json(), run.run_id
        )

    def get(self, run_id: int) -> Run:
        """A run, by its own id or by a task run's. Raises ApiError (400: "Run N does not exist.")."""
        found = self._database.row(
            "SELECT doc FROM runs WHERE run_id = ?1"
            " OR run_id = (SELECT run_id FROM task_runs WHERE task_run_id = ?1)",
            run_id,
        )
        if found is None:
            raise invalid(f"Run {run_id} does not exist.")
        return Run.from_json(found[0])

    def list(self, wanted: Filter, limit: int) -> list[Run]:
        """At most `limit` runs, newest first (those next above `after`, if that bounds the page)."""
        where, values = wanted.where()
        order = "ASC" if wanted.after is not None else "DESC"
        rows = self._database.rows(
            f"SELECT doc FROM runs WHERE {where} ORDER BY run_id {order} LIMIT ?",  # noqa: S608 - own text only
            *values,
            limit,
        )
        runs = [Run.from_json(row[0]) for row in rows]
        return runs[::-1] if wanted.after is not None else runs

    def active(self) -> Iterator[Run]:
        """Runs that have not ended, oldest first."""
        for row in self._database.rows("SELECT doc FROM runs WHERE active = 1 ORDER BY run_id"):
            yield Run.from_json(row[0])

    def count(self, job_id: int) -> int:
        """The number of runs of a job."""
        row = self._database.row("SELECT COUNT(*) FROM runs WHERE job_id = ?", job_id)
        return int(row[0]) if row else 0

    def delete(self, run: Run) -> None:
        """Forget a run. Its idempotency token stays known. Raises ApiError when it is active."""
        if run.active:
            message = f"Run {run.run_id} is active and cannot be deleted; cancel it first"
            raise ApiError(400, "INVALID_STATE", message)
        with self._database.transaction():
            self._database.run("DELETE FROM runs WHERE run_id = ?", run.run_id)
            self._database.run("DELETE FROM task_runs WHERE run_id = ?", run.run_id)
