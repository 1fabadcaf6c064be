"""A workspace in memory: durable state, faults before or after any effect, and controllers that share it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from fake_sql import FakeSession
from pools import ManualLeases, SteppedPool

from databricks_rlm_agent.attempts.manifest import Manifest
from databricks_rlm_agent.attempts.records import EventRow, RequestRow, ResultRow, result_row
from databricks_rlm_agent.attempts.result import JobVerdict, Result, Status
from databricks_rlm_agent.controller.children import Children
from databricks_rlm_agent.controller.claims import JobPoller, WorkerPool
from databricks_rlm_agent.controller.evidence import Evidence
from databricks_rlm_agent.controller.ingest import Ingester
from databricks_rlm_agent.controller.input_profile import InputProfiler
from databricks_rlm_agent.controller.publish import Publisher
from databricks_rlm_agent.controller.step import RunAdvancer
from databricks_rlm_agent.controller.tick import Tick, TickReport
from databricks_rlm_agent.errors import AlreadyExists, NotFound
from databricks_rlm_agent.layout import MANIFEST, RESULT, Namespace
from databricks_rlm_agent.ports import FileEntry, ModelCall, PlanningContext, PlanResult, Summary
from databricks_rlm_agent.retry import crash_pause_s
from databricks_rlm_agent.runs.actions import Action, RunPython
from databricks_rlm_agent.runs.budget import Budget, Usage
from databricks_rlm_agent.runs.capsule.capsule import CapsuleDelta
from databricks_rlm_agent.runs.fsm import CLAIMABLE, State
from databricks_rlm_agent.runs.run import DELETED, AttemptKey, Due, Run, new_run
from databricks_rlm_agent.settings import from_environment
from databricks_rlm_agent.storage.stores import due_of, from_row, to_row
from databricks_rlm_agent.values import Row
from executor_harness import protocol
from executor_harness.protocol import ChildTask, ProducedTable, Stream

T = TypeVar("T")
NAMESPACE = Namespace(catalog="main", schema="rlm", volume="artifacts")
START = datetime(2026, 1, 1, tzinfo=UTC)
LEASE_S = 10.0
POLL_EVERY_S = 2.0


class Killed(BaseException):
    """The controller's process is gone: nothing of it runs any more."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a program's job ends: its result's status, who reports it, and the Jobs API's last word."""

    status: Status = Status.SUCCESS
    error_type: str | None = None
    file: bool = True
    row: bool = True
    code: str = "SUCCESS"
    type: str = "SUCCESS"
    stdout_bytes: int = 0
    garbage: bytes | None = None  # what lies in result.json in place of a result
    spawned: tuple[ChildTask, ...] = ()
    spend: bytes | None = None  # spend.json


GOOD = Ending()
RAISED = Ending(status=Status.FAILED, error_type="KeyError", code="RUN_EXECUTION_ERROR", type="CLIENT_ERROR")
LOST = Ending(file=False, row=False, code="DRIVER_ERROR", type="CLIENT_ERROR")
CANCELLED = Ending(status=Status.CANCELLED, file=False, row=False, code="USER_CANCELED", type="CLIENT_ERROR")
NO_ROW = Ending(row=False)
NO_FILE = Ending(file=False)
BAD_FILE = Ending(garbage=b'{"status": "SUCC')
BAD_FILE_NO_ROW = Ending(garbage=b"[]", row=False)


@dataclass(kw_only=True)
class Job:
    """One job run that was really launched."""

    run_id: int
    key: AttemptKey
    manifest_path: str
    verdict: JobVerdict
    cancelled: bool = False
    deleted: bool = False


@dataclass(kw_only=True)
class World:
    """Everything that outlives a controller. ``endings`` are by (iteration, attempt), GOOD by default;
    ``own_endings`` are those of single runs, by their task.

    ``calls`` counts, by run, what models were really asked, whether or not anybody lived to report it.
    ``torn`` are columns of ``run_state`` that somebody has overwritten, by run.
    """

    endings: Mapping[tuple[int, int], Ending] = field(default_factory=dict)
    own_endings: Mapping[str, Mapping[tuple[int, int], Ending]] = field(default_factory=dict)
    now_s: float = 0.0
    runs: dict[str, Run] = field(default_factory=dict)
    rows: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    launches: Counter[AttemptKey] = field(default_factory=Counter)
    plans: list[tuple[str, int]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    cancels: list[AttemptKey] = field(default_factory=list)
    torn: dict[str, dict[str, str | None]] = field(default_factory=dict)
    commits: int = 0
    ids: int = 0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.now_s)

    def new_id(self, prefix: str) -> str:
        self.ids += 1
        return f"{prefix}{self.ids}"

    def add(self, run_id: str = "r1", *, task: str = "count", budget: Budget | None = None) -> Run:
        self.runs[run_id] = new_run(task, run_id=run_id, clock=self.now, budget=budget)
        return self.runs[run_id]

    def insert(self, runs: Iterable[Run]) -> None:
        """MERGE … WHEN NOT MATCHED."""
        self.commits += 1
        for run in runs:
            parent = self.runs.get(run.parent_run_id or "")
            if parent is not None and parent.fsm_state.terminal and run.run_id not in self.runs:
                self.violations.append(f"{run.run_id} was made for {parent.run_id}, which has ended")
            self.runs.setdefault(run.run_id, run)

    def children(self, run_id: str) -> list[Run]:
        return [run for run in self.runs.values() if run.parent_run_id == run_id]

    def change(self, run: Run, **changes: Any) -> None:
        """Write a run's row. What must never happen to a row is noted."""
        before = self.runs[run.run_id]
        after = replace(run, version=before.version + 1, **changes)
        if before.fsm_state.terminal:
            self.violations.append(f"{run.run_id} changed after {before.fsm_state}")
        if (after.iter_n, after.attempt) < (before.iter_n, before.attempt):
            self.violations.append(f"{run.run_id} went back to {after.key}")
        self.runs[run.run_id] = after

    def request_cancel(self, run_id: str, *, reason: str = "enough") -> bool:
        """As the store does it: the version stays."""
        run = self.runs[run_id]
        if not run.fsm_state.terminal:
            self.runs[run_id] = replace(run, cancel_reason=run.cancel_reason or reason)
        return self.runs[run_id].cancel_reason is not None

    def cancel(self, job: Job) -> None:
        """Cancellation is asynchronous: it takes effect when the jobs run on."""
        self.cancels.append(job.key)
        job.cancelled = True

    def on_record(self, run: Run) -> int:
        """The calls that count for a run: those of its budget, and of the claims that have not reported."""
        folder, last = f"{NAMESPACE.run_dir(run.run_id)}/planning", run.budget.recorded
        while f"{folder}/{last + 1}.json" in self.files:
            last += 1
        if last == run.budget.recorded:
            return run.budget.usage.calls
        used = json.loads(self.files[f"{folder}/{last}.json"])["used"]
        return run.budget.usage.calls + sum(each["calls"] for each in used.values())

    def table(self, kind: type[T]) -> list[T]:
        return [row for row in self.rows.values() if isinstance(row, kind)]

    def answer(self, seen: Run, text: str) -> bool:
        """What ``rlm-agent answer`` does with a run as it was read; False if it has changed since."""
        after = seen.answered(text)
        store = FakeStore(world=self, gate=Gate())
        return store.save([after], write_id=self.new_id("w")) == {seen.run_id}

    def run_jobs(self, *, cancels: bool = True) -> None:
        """Let every job run come to its end; ``cancels`` False: completion wins all races."""
        for job in self.jobs.values():
            if job.deleted:
                continue
            if cancels and job.cancelled and not job.verdict.over:
                self._end(job, CANCELLED)
            elif not job.verdict.over:
                endings = self.own_endings.get(self.runs[job.key.run_id].capsule.objective, self.endings)
                self._end(job, endings.get((job.key.iter_n, job.key.attempt), GOOD))

    def _end(self, job: Job, ending: Ending) -> None:
        job.verdict = replace(
            job.verdict, state="TERMINATED", code=ending.code, type=ending.type, message=f"was {ending.code}"
        )
        manifest = Manifest.parse(self.files[job.manifest_path], where=job.manifest_path)
        stream = Stream(bytes=ending.stdout_bytes, head="x" * min(ending.stdout_bytes, 100))
        result = Result(
            **asdict(job.key),
            request_sha256=manifest.request.sha256(),
            status=ending.status,
            error_type=ending.error_type,
            stdout=stream,
            produced_tables=[ProducedTable(name=f"main.rlm.t{job.key.iter_n}", rows=1)],
            spawned=list(ending.spawned),
        )
        if ending.spend is not None:
            self.files[f"{manifest.request.output_dir}/{protocol.SPEND_FILE}"] = ending.spend
        if ending.file:
            content = result.model_dump_json().encode() if ending.garbage is None else ending.garbage
            self.files[f"{manifest.request.output_dir}/{RESULT}"] = content
        if ending.row:
            row = result_row(result, databricks_run_id=job.run_id, run_url=None)
            self.rows.setdefault(_key(row), replace(row, reported_by="executor"))


def _key(row: RequestRow | ResultRow | EventRow) -> tuple[Any, ...]:
    return (row.TABLE, *(getattr(row, name) for name in row.KEY))


@dataclass(kw_only=True)
class Gate:
    """Every call of a controller passes here, where ``fault`` may do something before or after the effect."""

    fault: Callable[[str, bool], None] = lambda _name, _after: None
    dead: bool = False

    def __call__(self, name: str, act: Callable[[], T]) -> T:
        if self.dead:
            raise Killed
        try:
            self.fault(name, False)
            try:
                value = act()
            finally:
                self.fault(name, True)
        except Killed:
            self.dead = True
            raise
        return value


@dataclass(kw_only=True)
class FakeStore:
    """ports.RunStore: compare-and-set by version and epoch, leases by the world's clock."""

    world: World
    gate: Gate

    def due(
        self, *, limit: int, gap_s: float, asked: Sequence[str] = (), only: Sequence[str] = ()
    ) -> Sequence[Due]:
        return self.gate("due", lambda: self._due(limit, gap_s, asked, only))

    def claim(self, runs: Sequence[Run], *, owner: str, lease_s: float, write_id: str) -> Sequence[Run]:
        return self.gate("claim", lambda: self._claim(runs, owner, lease_s, write_id))

    def renew(self, *, owners: Sequence[str], lease_s: float) -> None:
        now = self.world.now()
        for run in list(self.world.runs.values()):
            if run.lease_owner in owners and run.lease_expiry and run.lease_expiry >= now:
                expiry = now + timedelta(seconds=lease_s)
                self._lease(run, expiry, run.due_at and expiry + (run.due_at - run.lease_expiry))

    def release(self, *, owners: Sequence[str]) -> None:
        for run in list(self.world.runs.values()):
            if run.lease_owner in owners:
                self._lease(run, self.world.now() - timedelta(microseconds=1), None)

    def _lease(self, run: Run, expiry: datetime, due_at: datetime | None) -> None:
        # No change of the run: same version.
        self.world.runs[run.run_id] = replace(run, lease_expiry=expiry, due_at=due_at)

    def request_cancel(self, run_id: str, *, reason: str) -> bool:
        return self.gate("request_cancel", lambda: self.world.request_cancel(run_id, reason=reason))

    def insert(self, runs: Iterable[Run]) -> None:
        self.gate("insert", lambda: self.world.insert(runs))

    def children(self, run_id: str) -> Sequence[Run]:
        def act() -> list[Run]:  # of a damaged row, what can be read
            found = self.world.children(run_id)
            return [
                replace(self._read(run, reported=False).run, cancel_reason=run.cancel_reason) for run in found
            ]

        return self.gate("children", act)

    def family(self, run_id: str) -> Sequence[str]:
        below = [name for child in self.world.children(run_id) for name in self.family(child.run_id)]
        return [run_id, *below]

    def cancel_children(self, run_id: str, *, reason: str) -> None:
        def act() -> None:
            for child in self.world.children(run_id):
                self.world.request_cancel(child.run_id, reason=reason)

        self.gate("cancel_children", act)

    def save(self, runs: Sequence[Run], *, write_id: str) -> set[str]:
        return self.gate("save", lambda: self._save(runs, write_id))

    def _due(self, limit: int, gap_s: float, asked: Sequence[str], only: Sequence[str]) -> list[Due]:
        reported = {(row.run_id, row.iter_n, row.attempt) for row in self.world.table(ResultRow)}
        found = [
            self._read(run, reported=astuple(run.key) in reported)
            for run in self.world.runs.values()
            if self._free(run) and self._is_due(run) and (not only or run.run_id in only)
        ]
        wanted = [due for due in found if self._wanted(due, gap_s, asked)]
        return sorted(wanted, key=lambda due: due.order)[:limit]

    def _read(self, run: Run, *, reported: bool) -> Due:
        if run.run_id not in self.world.torn:
            return Due(run=run, reported=reported)
        torn = self.world.torn[run.run_id]
        return due_of(asdict(to_row(run)) | torn | {"reported_status": "SUCCESS" if reported else None})

    def _wanted(self, due: Due, gap_s: float, asked: Sequence[str]) -> bool:
        run = due.run
        if run.fsm_state is State.WAITING_FOR_CHILDREN:
            alive = [child for child in self.world.children(run.run_id) if not child.fsm_state.terminal]
            unasked = [child for child in alive if child.cancel_reason is None]
            return not alive or (run.cancel_reason is not None and bool(unasked))
        if run.fsm_state is not State.EXECUTING or due.reported or run.cancel_reason is not None:
            return True
        age_s = (self.world.now() - run.updated_at).total_seconds()
        # A denser schedule than the store's, so that more can happen between two polls.
        return run.run_id not in asked and age_s // POLL_EVERY_S > max(0.0, age_s - gap_s) // POLL_EVERY_S

    def _free(self, run: Run) -> bool:
        lapsed = run.lease_expiry is None or run.lease_expiry < self.world.now()
        cancelled = run.cancel_reason is not None and not run.fsm_state.terminal
        return (run.fsm_state in CLAIMABLE or cancelled) and lapsed

    def _is_due(self, run: Run) -> bool:
        return run.due_at is None or run.due_at <= self.world.now() or run.cancel_reason is not None

    def _claim(self, runs: Sequence[Run], owner: str, lease_s: float, write_id: str) -> list[Run]:
        self.world.commits += 1
        expiry = self.world.now() + timedelta(seconds=lease_s)
        won = []
        for seen in runs:
            row = self.world.runs[seen.run_id]
            if row.version == seen.version and self._free(row):
                lease = {"lease_owner": owner, "lease_expiry": expiry, "lease_epoch": row.lease_epoch + 1}
                due_at = expiry + timedelta(seconds=crash_pause_s(seen.lapses))
                self.world.change(row, write_id=write_id, due_at=due_at, **lease)
                claimed = self.world.runs[seen.run_id]
                # As the store does it: the rest is as it was seen, so a later cancellation is not known yet.
                lease = {name: getattr(claimed, name) for name in ("lease_owner", "lease_epoch", "version")}
                won.append(replace(seen, **lease, write_id=write_id, lease_expiry=None))
        return won

    def _save(self, runs: Sequence[Run], write_id: str) -> set[str]:
        self.world.commits += 1
        landed = set()
        for run in runs:
            row = self.world.runs[run.run_id]
            seen = (run.version, run.lease_epoch, run.lease_owner)
            if (row.version, row.lease_epoch, row.lease_owner) == seen:
                pause = None if run.pause_s is None else timedelta(seconds=run.pause_s)
                free: dict[str, Any] = {"lease_owner": None, "lease_expiry": None}
                free["due_at"] = pause and self.world.now() + pause
                kept = {name: getattr(row, name) for name in ("cancel_reason", "item_revision", "created_at")}
                stored = from_row(asdict(to_row(run)))  # what cannot be read again must not be written
                self.world.torn.pop(run.run_id, None)
                self.world.change(stored, write_id=write_id, updated_at=self.world.now(), **free, **kept)
                landed.add(run.run_id)
        return landed


@dataclass(kw_only=True)
class FakeLedger:
    """ports.Ledger."""

    world: World
    gate: Gate

    def append(self, rows: Sequence[RequestRow] | Sequence[ResultRow] | Sequence[EventRow]) -> None:
        if rows:
            self.gate(f"append {rows[0].TABLE}", lambda: self._append(rows))

    def results(self, run_id: str) -> Sequence[Row]:
        found = [asdict(row) for row in self.world.table(ResultRow) if row.run_id == run_id]
        return self.gate("results", lambda: found)

    def _append(self, rows: Sequence[Any]) -> None:
        self.world.commits += 1
        for row in rows:
            self.world.rows.setdefault(_key(row), row)


@dataclass(kw_only=True)
class FakeVolume:
    """ports.Volume over a dict."""

    world: World
    gate: Gate

    def put(self, path: str, content: bytes, *, overwrite: bool) -> None:
        def act() -> None:
            if path in self.world.files and not overwrite:
                raise AlreadyExists("There is such a file.", where=path)
            if self.world.files.get(path, content) != content:
                self.world.violations.append(f"{path} was overwritten")
            self.world.files[path] = content

        self.gate(f"put {path.rpartition('/')[2]}", act)

    def get(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        def act() -> bytes:
            if path not in self.world.files:
                raise NotFound("There is no such file.", where=path)
            return self.world.files[path][offset : None if length is None else offset + length]

        return self.gate(f"get {path.rpartition('/')[2]}", act)

    def list(self, path: str) -> Sequence[FileEntry]:
        files = [
            FileEntry(path=name, is_directory=False) for name in self.world.files if name.startswith(path)
        ]
        return self.gate("list", lambda: files)


@dataclass(kw_only=True)
class FakeJobs:
    """ports.Jobs: one job run per idempotency token."""

    world: World
    gate: Gate

    def submit(self, payload: Mapping[str, Any]) -> int:
        return self.gate("submit", lambda: self._submit(payload))

    def verdict(self, databricks_run_id: int) -> JobVerdict:
        return self.gate("verdict", lambda: self._job(databricks_run_id).verdict)

    def url(self, databricks_run_id: int) -> str | None:
        return self.gate("url", lambda: f"https://workspace/jobs/{databricks_run_id}")

    def cancel(self, databricks_run_id: int) -> None:
        self.gate("cancel", lambda: self.world.cancel(self._job(databricks_run_id)))

    def _submit(self, payload: Mapping[str, Any]) -> int:
        payload = json.loads(json.dumps(payload))
        if payload["idempotency_token"] not in self.world.jobs:
            words = payload["tasks"][0]["spark_python_task"]["parameters"]
            given = dict(zip(words[::2], words[1::2], strict=True))
            key = AttemptKey(
                run_id=given["--run-id"], iter_n=int(given["--iter"]), attempt=int(given["--attempt"])
            )
            number = 100 + len(self.world.jobs)
            self.world.launches[key] += 1
            self.world.jobs[payload["idempotency_token"]] = Job(
                run_id=number,
                key=key,
                manifest_path=given["--manifest"],
                verdict=JobVerdict(run_id=number, state="RUNNING", code=None, type=None, message=""),
            )
        if self.world.jobs[payload["idempotency_token"]].deleted:
            return DELETED
        return self.world.jobs[payload["idempotency_token"]].run_id

    def _job(self, number: int) -> Job:
        for job in self.world.jobs.values():
            if job.run_id == number and not job.deleted:
                return job
        raise NotFound(f"Run {number} does not exist.")


class NoTables:
    """ports.Catalog of a workspace without tables."""

    def search(self, text: str, *, limit: int) -> Sequence[str]:
        return []

    def describe(self, table: str) -> Sequence[tuple[str, str]]:
        raise NotFound("There is no such table.", where=table)


class NoSql(FakeSession):
    """A session that nobody should need."""

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        raise AssertionError(sql)

    execute = fetch  # type: ignore[assignment]


@dataclass(kw_only=True)
class ScriptedPlanner:
    """ports.Planner: the action depends on the task and the iteration only, as with a scripted model."""

    world: World
    gate: Gate
    script: Sequence[Action | str | Exception]
    child_script: Sequence[Action | str | Exception] = ()
    scripts: Mapping[str, Sequence[Action | str | Exception]] = field(default_factory=dict)
    park: Callable[[], None] = lambda: None
    model: str = "scripted"

    def plan(self, context: PlanningContext) -> PlanResult:
        context.record.asking(Usage(calls=1))
        return self.gate("plan", lambda: self._plan(context))

    def summarize(self, context: PlanningContext, result: Result) -> Summary:
        def act() -> Summary:
            self._call(context, 1)
            call = ModelCall(model=self.model, purpose="summarizer", usage=Usage(calls=1), seconds=0.0)
            return Summary(delta=CapsuleDelta(digest="short"), calls=(call,))

        context.record.asking(Usage(calls=1))
        return self.gate("summarize", act)

    def _call(self, context: PlanningContext, calls: int) -> None:
        self.world.calls[context.run_id] += calls
        if context.budget.calls_left < calls:
            self.world.violations.append(f"{context.run_id}: {calls} calls, {context.budget.calls_left} left")

    def _plan(self, context: PlanningContext) -> PlanResult:
        self._call(context, 1)
        self.park()
        if self.gate.dead:
            raise Killed  # its process ended while the model was asked
        self.world.plans.append((context.run_id, context.iter_n))
        if f"{NAMESPACE.attempt_dir(context.run_id, context.iter_n, 1)}/{MANIFEST}" in self.world.files:
            self.world.violations.append(f"planned again after a manifest: {context.run_id} {context.iter_n}")
        call = ModelCall(
            model=self.model, purpose="planner", usage=Usage(calls=1, input_tokens=10), seconds=0.0
        )
        script = self.script if self.world.runs[context.run_id].parent_run_id is None else self.child_script
        reply = self.scripts.get(context.capsule.objective, script)[context.iter_n - 1]
        reason = None if isinstance(reply, str | Exception) else context.review(reply)
        if reason is not None:
            return PlanResult(action=None, failure=f"refused: {reason}", calls=(call,))
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, str):
            return PlanResult(action=None, failure=reply, calls=(call,))
        return PlanResult(action=reply, calls=(call,))


@dataclass(kw_only=True)
class Controller:
    """One control plane process over a world."""

    world: World
    script: Sequence[Action | str | Exception]
    child_script: Sequence[Action | str | Exception] = ()
    scripts: Mapping[str, Sequence[Action | str | Exception]] = field(default_factory=dict)
    name: str = "c1"
    planners: int = 1
    worker_pool: WorkerPool | None = None
    skew_s: float = 0.0
    gate: Gate = field(default_factory=Gate)
    tick: Tick = field(init=False)

    def __post_init__(self) -> None:
        world, gate = self.world, self.gate
        volume, jobs = FakeVolume(world=world, gate=gate), FakeJobs(world=world, gate=gate)
        ledger, catalog = FakeLedger(world=world, gate=gate), NoTables()
        worker_pool = self.worker_pool or WorkerPool(size=self.planners)
        planner = ScriptedPlanner(
            world=world,
            gate=gate,
            script=self.script,
            child_script=self.child_script,
            scripts=self.scripts,
        )
        if isinstance(worker_pool, SteppedPool):
            planner.park = worker_pool.park
        publisher = Publisher(
            volume=volume,
            jobs=jobs,
            settings=from_environment({"RLM_MODEL": "scripted:x", "RLM_TIMEOUT_S": "60"}),
            harness_dir="/Volumes/main/rlm/artifacts/harness/0",
            clock=self.now,
            worker=self.name,
        )
        store = FakeStore(world=world, gate=gate)
        children = Children(store=store, volume=volume, namespace=NAMESPACE, clock=self.now, concurrency=64)
        ingester = Ingester(
            volume=volume,
            jobs=jobs,
            ledger=ledger,
            planner=planner,
            children=children,
            clock=self.now,
            sleep=lambda _: None,
        )
        self.tick = Tick(
            store=store,
            ledger=ledger,
            advancer=RunAdvancer(
                planner=planner,
                publisher=publisher,
                ingester=ingester,
                children=children,
                profiler=InputProfiler(volume=volume, catalog=catalog, sql=NoSql()),
                evidence=Evidence(volume=volume, catalog=catalog, sql=NoSql()),
                namespace=NAMESPACE,
                jitter=lambda: 1.0,
                clock=self.now,
            ),
            job_poller=JobPoller(jobs=jobs, clock=self.now, at_once=1),
            worker_pool=worker_pool,
            leases=ManualLeases(store=store, owner=self.name, lease_s=LEASE_S),
            clock=self.now,
            new_id=world.new_id,
            batch=200,
        )

    def now(self) -> datetime:
        """The time by this controller's own clock."""
        return self.world.now() + timedelta(seconds=self.skew_s)

    def __call__(self, *, wait_s: float | None = None) -> TickReport:
        return self.tick(wait_s=wait_s)


def settle(world: World, *controllers: Callable[[], object], steps: int = 60) -> None:
    """Tick the controllers in turn, a second apart, with all jobs running to their end, until all is done."""
    for step in range(steps):
        if all(run.fsm_state not in CLAIMABLE for run in world.runs.values()):
            return
        controllers[step % len(controllers)]()
        world.run_jobs()
        world.now_s += 1
    raise AssertionError(f"not done after {steps} ticks: {[str(r.fsm_state) for r in world.runs.values()]}")


def program(text: str = "print(1)", **changes: Any) -> RunPython:
    return RunPython(code=text, purpose=changes.pop("purpose", "look"), **changes)


def check_invariants(world: World) -> None:
    """What must hold at every moment (design, section 4)."""
    assert world.violations == []
    assert all(count == 1 for count in world.launches.values()), world.launches
    for job in world.jobs.values():  # what runs is what was frozen
        manifest = Manifest.parse(world.files[job.manifest_path], where=job.manifest_path)
        assert manifest.key == job.key
        assert manifest.request.artifact.path in world.files
    for row in world.table(RequestRow):
        assert world.launches[AttemptKey(run_id=row.run_id, iter_n=row.iter_n, attempt=row.attempt)] == 1
