"""Ask the Jobs API about silent job runs, to find out which of the due runs are worth a claim.

Nothing here changes a run, so it needs no lease: any controller may ask about a job run, or ask for its
cancellation, any number of times.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from databricks_rlm_agent.attempts.result import JobVerdict
from databricks_rlm_agent.errors import NotFound, RemoteError
from databricks_rlm_agent.ports import Clock, Jobs
from databricks_rlm_agent.runs.run import Due, Run

log = logging.getLogger(__name__)
# Before the platform has begun with it, a job run uses up none of its time.
_NOT_STARTED = frozenset({"BLOCKED", "PENDING", "QUEUED", "WAITING"})
# Two polls may overlap by this much: to ask twice is cheap, to miss a poll costs minutes.
OVERLAP_S = 0.05


@dataclass(kw_only=True)
class JobPoller:
    """Asks about job runs, ``at_once`` of them at the same time, and ends those that should not go on."""

    jobs: Jobs
    clock: Clock
    at_once: int = 8
    asked: set[str] = field(default_factory=set)
    _since: datetime | None = None
    _now: datetime | None = None

    def gap_s(self) -> float:
        """Seconds since the last complete poll; call it right before asking the store what is due."""
        self._now = self.clock()
        gap = 1e12 if self._since is None else (self._now - self._since).total_seconds() + OVERLAP_S
        return gap if gap >= OVERLAP_S else 1e12  # the clock was set back: nobody knows how long it was

    def ready(self, due: Sequence[Due], *, complete: bool) -> list[Due]:
        """Return the runs that have something to do. One that could not be asked about is asked about again.

        ``complete`` says that ``due`` is all that the store has. Until then the poll goes on, and runs that
        were ``asked`` about do not come up again.
        """
        silent = [candidate for candidate in due if candidate.silent]
        over: dict[str, bool | None] = {}
        if silent:
            with ThreadPoolExecutor(max_workers=min(self.at_once, len(silent))) as pool:
                answers = pool.map(lambda candidate: self._over(candidate.run), silent)
                over = {candidate.run.run_id: ended for candidate, ended in zip(silent, answers, strict=True)}
        self.asked |= {run_id for run_id, ended in over.items() if ended is not None}
        if complete and None not in over.values():
            self._since = self._now
            self.asked.clear()
        return [candidate for candidate in due if over.get(candidate.run.run_id, True)]

    def _over(self, run: Run) -> bool | None:
        """Return whether the job run has ended; None if that could not be learned."""
        job_run_id = run.job_run_id
        if job_run_id is None:
            return True  # a damaged row: the manifest tells whoever claims it
        try:
            verdict = self.jobs.verdict(job_run_id)
            if not verdict.over and (reason := self._unwanted(run, verdict)):
                log.info("job run %s is cancelled: %s", job_run_id, reason)
                self.jobs.cancel(job_run_id)
        except NotFound:
            return True  # nothing will ever come of it: ingesting says so
        except RemoteError as error:
            log.warning("run %s: job run %s could not be asked: %s", run.run_id, job_run_id, error)
            return None
        if not verdict.understood:
            log.warning("run %s: job run %s is in an unknown state; waiting", run.run_id, job_run_id)
        return verdict.over

    def _unwanted(self, run: Run, verdict: JobVerdict) -> str | None:
        """Return why the job run should not go on, or None."""
        if run.cancel_reason is not None:
            return run.cancel_reason
        if run.overrun(self.clock(), started=verdict.understood and verdict.state not in _NOT_STARTED):
            return "it has had all of its time"
        return None
