"""Take in the result of an attempt: from its file, from the ledger, or from the Jobs API's verdict."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass, replace

from databricks_rlm_agent.attempts.records import result_row
from databricks_rlm_agent.attempts.result import (
    GONE,
    JobVerdict,
    Result,
    Retry,
    Spend,
    Status,
    digest,
    is_long,
    retry,
    status_without_result,
)
from databricks_rlm_agent.controller.children import Children
from databricks_rlm_agent.controller.journal import Journal
from databricks_rlm_agent.errors import InvalidData, NotFound, Rejected
from databricks_rlm_agent.layout import RESULT
from databricks_rlm_agent.ports import Jobs, Ledger, Planner, Volume, planning_context
from databricks_rlm_agent.runs.budget import Usage
from databricks_rlm_agent.runs.capsule.capsule import CapsuleDelta
from databricks_rlm_agent.runs.fsm import Event
from databricks_rlm_agent.runs.parsing import parse
from databricks_rlm_agent.runs.run import LastResult, Run
from databricks_rlm_agent.values import Clock, Row, Sleep
from executor_harness import protocol
from executor_harness.protocol import KeptVariables

log = logging.getLogger(__name__)
GRACE_S = 4.0
GRACE_READS = 4
MAX_RESULT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Ingester:
    """Finds results and folds them into capsules. Reading is pure: to do it twice changes nothing."""

    volume: Volume
    jobs: Jobs
    ledger: Ledger
    planner: Planner
    children: Children
    clock: Clock
    sleep: Sleep

    def ingest(self, run: Run, journal: Journal, *, reported: bool) -> Run:
        """The run after the result of its current attempt: PLANNING the next iteration or attempt."""
        result, verdict = self._found(run, journal, reported=reported)
        if result is None and verdict is None:
            return run  # INGESTING is not recorded: the run goes on waiting as it was
        if result is None:
            assert verdict is not None
            result = _concluded(run, verdict, overrun=run.overrun(self.clock(), started=True))
        budget = run.budget.executed(self._took_s(run, result)).spend_sub(
            self._sub_usage(run, result, journal)
        )
        run = replace(run, budget=budget)
        if not reported:
            journal.results.append(
                result_row(
                    result,
                    databricks_run_id=run.job_run_id,
                    run_url=run.last_request.run_url if run.last_request else None,
                )
            )
        if verdict is not None and _try_again(run, verdict):
            return journal.transition(
                run,
                run.after(Event.RETRY, attempt=run.attempt + 1),
                reason=verdict.message,
                code=verdict.code,
            )
        return self._fold(run, result, journal)

    def _found(
        self, run: Run, journal: Journal, *, reported: bool
    ) -> tuple[Result | None, JobVerdict | None]:
        """The result, or else the verdict of a job run that is over and has left none, or neither."""
        result, rejected = self._result(run, journal)
        if result is None and reported:
            result = self._from_ledger(run, journal)
        # A platform that goes away ends its programs as a person does, with SIGTERM. Its verdict tells them
        # apart.
        unasked = result is not None and result.status is Status.CANCELLED and run.cancel_reason is None
        if result is not None and not unasked:
            return result, None
        verdict = self._verdict(run)
        if not verdict.over:
            return None, None
        if result is not None:
            return (None, verdict) if retry(verdict) is not Retry.NO else (result, None)
        # The harness's watcher writes for a process that was killed: half a second later, or more under load.
        for _ in range(0 if rejected else GRACE_READS):  # a file that is not valid will not get better
            self.sleep(GRACE_S / GRACE_READS)
            result, _rejected = self._result(run, journal)
            if result is not None:
                return result, None
        return None, verdict

    def _fold(self, run: Run, result: Result, journal: Journal) -> Run:
        delta = digest(result, purpose=run.last_request.purpose if run.last_request else "")
        context = planning_context(run, used_calls=journal.usage.calls, record=journal.record)
        if is_long(result) and context.budget.calls_left and run.cancel_reason is None:
            summary = self.planner.summarize(context, result)
            journal.model_calls(summary.calls, iter_n=run.iter_n)
            for call in summary.calls:
                run = run.spent(call.usage)
            if summary.delta is not None:
                delta = _merged(delta, summary.delta)
        last_result = LastResult(
            iter_n=run.iter_n,
            attempt=run.attempt,
            status=str(result.status),
            error_type=result.error_type,
            error_summary=result.error_summary,
            value=result.value,
            seconds=result.seconds,
        )
        capsule = run.capsule.fold(delta)
        good = result.status is Status.SUCCESS
        if good and result.variables is not None and self._ours(run, result.variables):
            capsule = capsule.with_variables(result.variables)
        folded = replace(run, capsule=capsule, last_result=last_result)
        if good and result.spawned:
            try:
                return self.children.spawn(folded, result.spawned, journal)
            except InvalidData as error:
                folded = _refused(folded, str(error), journal)
        after = folded.after(Event.FOLDED, iter_n=run.iter_n + 1, attempt=1)
        return journal.transition(run, after, status=result.status, error_type=result.error_type)

    @staticmethod
    def _ours(run: Run, variables: KeptVariables) -> bool:
        """Return whether the index is where the executor puts it: programs read what it names."""
        # Where nothing was changed, it is still the one that the program was given.
        known = run.capsule.variables and run.capsule.variables.ref.path
        return variables.ref.path in {_output(run, protocol.VARIABLES_FILE), known}

    def _took_s(self, run: Run, result: Result) -> float:
        """Seconds of the job run: as the executor says, else all that it may have taken."""
        known = result.seconds
        if known is not None and 0 <= known < math.inf:  # whatever a file says: a budget only grows fuller
            return known
        # The clock of the controller that submitted may be ahead of ours.
        return min(max(0.0, run.executing_s(self.clock())), run.budget.reserved_s)

    def _sub_usage(self, run: Run, result: Result, journal: Journal) -> Usage:
        """Return the usage of the program's model calls: as reported, or else all that it may have used."""
        if result.usage is not None:
            if result.usage.calls or result.usage.cached:
                journal.event("program_calls", iter_n=run.iter_n, **asdict(result.usage))
            return _counted(result.usage)
        for name in (protocol.SPEND_FILE, protocol.SPEND_TWIN):
            path = _output(run, name)
            try:
                content = self.volume.get(path, length=MAX_RESULT_BYTES)
                spend = parse(Spend, content, what="What was spent", where=path)
                return _counted(spend.usage)
            except NotFound:
                if name == protocol.SPEND_FILE:
                    return Usage()  # nothing is asked before that file is there
            except (InvalidData, Rejected) as error:
                log.warning("%s", error)
        log.warning("All that the program was allowed counts as spent.")
        return _allowed(run)

    def _result(self, run: Run, journal: Journal) -> tuple[Result | None, bool]:
        """The result that the executor has left, and whether it has left one that is not valid."""
        path = _output(run, RESULT)
        try:
            content = self.volume.get(path, length=MAX_RESULT_BYTES + 1)
            if len(content) > MAX_RESULT_BYTES:  # no executor of ours writes such a thing
                raise InvalidData(f"The result has more than {MAX_RESULT_BYTES:,} bytes.", where=path)
            result = Result.parse(content, where=path)
        except NotFound:
            return None, False
        except (InvalidData, Rejected) as error:  # the workspace refuses what is no regular file
            journal.event("rejected_result", path=path, reason=str(error))
            return None, True
        expected = run.last_request.request_sha256 if run.last_request else None
        if result.key != run.key or (result.request_sha256 or expected) != expected:
            journal.event("rejected_result", path=path, reason="It belongs to another attempt or request.")
            return None, True
        return result, False

    def _from_ledger(self, run: Run, journal: Journal) -> Result | None:
        """The executor's row. A controller's is concluded again: a retry hangs on the verdict."""
        for row in self.ledger.results(run.run_id):
            if (row["iter_n"], row["attempt"]) != (run.iter_n, run.attempt):
                continue
            if row["reported_by"] == "controller":
                return None
            try:
                return _from_row(row)
            except (ValueError, TypeError, RecursionError) as error:
                journal.event("rejected_result", path="execution_results", reason=str(error))
        return None

    def _verdict(self, run: Run) -> JobVerdict:
        job_run_id = run.job_run_id
        if job_run_id is None:
            raise InvalidData("The run's row does not name its job run, and there is no manifest of it.")
        try:
            return self.jobs.verdict(job_run_id)
        except NotFound as error:  # deleted, or older than the workspace remembers: over, and never run again
            return JobVerdict(run_id=job_run_id, state="TERMINATED", code=GONE, type=None, message=str(error))


def _output(run: Run, name: str) -> str:
    """Where the program of the current attempt leaves a file; nowhere if its row was damaged."""
    return f"{run.last_request.output_dir if run.last_request else ''}/{name}"


def _concluded(run: Run, verdict: JobVerdict, *, overrun: bool) -> Result:
    status = status_without_result(verdict)
    if status is Status.CANCELLED and overrun and run.cancel_reason is None:
        status = Status.TIMEOUT  # it was ended by us, for having had all of its time
    return Result.without_report(
        run.key,
        status=status,
        error_type=verdict.code or "UNKNOWN",
        error_summary=f"The job run ended without a result: {verdict.message or 'no message'}",
    )


def _try_again(run: Run, verdict: JobVerdict) -> bool:
    allowed = {Retry.YES: run.budget.max_attempts, Retry.ONCE: 2, Retry.NO: 1}[retry(verdict)]
    return run.attempt < min(allowed, run.budget.max_attempts)


def _merged(facts: CapsuleDelta, summary: CapsuleDelta) -> CapsuleDelta:
    """The summarizer's words with the deterministic facts: it may add to them, never replace them."""
    headline = facts.digest.splitlines()[0]
    return facts.model_copy(
        update={
            "digest": f"{headline}\n{summary.digest}" if summary.digest else facts.digest,
            "decisions": facts.decisions + summary.decisions,
            "failed_approaches": facts.failed_approaches + summary.failed_approaches,
        }
    )


def _from_row(row: Row) -> Result:
    empty = {"metrics": "{}", "produced_artifacts": "[]", "produced_tables": "[]"}
    documents = {name: json.loads(row[name] or nothing) for name, nothing in empty.items()}
    return Result.model_validate({**row, **documents})


def _counted(usage: protocol.Usage) -> Usage:
    """The part of a program's usage that a budget counts."""
    return Usage.model_validate(asdict(usage))


def _allowed(run: Run) -> Usage:
    """All that the program of a run might have spent on model calls."""
    allowance = run.budget.allowance()
    return Usage(calls=allowance.calls, input_tokens=allowance.tokens, cost_usd=allowance.cost_usd or 0.0)


def _refused(run: Run, reason: str, journal: Journal) -> Run:
    """The run whose program asked for child runs that it may not have: the planner hears why."""
    journal.event("refusal", tool="rlm.spawn", reason=reason)
    refusal = f"rlm.spawn was refused: {reason}"
    delta = CapsuleDelta(
        digest=f"{refusal}\n{run.capsule.last_result}",
        failed_approaches=[f"Iteration {run.iter_n}: {refusal}"],
    )
    return replace(run, capsule=run.capsule.fold(delta))
