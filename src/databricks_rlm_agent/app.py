"""The composition root: the only place that knows which implementation is used for which protocol."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from databricks_rlm_agent.controller import bundle
from databricks_rlm_agent.controller.children import Children
from databricks_rlm_agent.controller.claims import JobPoller, Leases, WorkerPool
from databricks_rlm_agent.controller.evidence import Evidence
from databricks_rlm_agent.controller.ingest import Ingester
from databricks_rlm_agent.controller.input_profile import InputProfiler
from databricks_rlm_agent.controller.publish import Publisher
from databricks_rlm_agent.controller.step import RunAdvancer
from databricks_rlm_agent.controller.tick import ControlLoop, Tick
from databricks_rlm_agent.databricks.services import (
    WorkspaceCatalog,
    WorkspaceJobs,
    WorkspaceSecrets,
    WorkspaceVolume,
)
from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.errors import ConfigError, NotFound
from databricks_rlm_agent.intake.poll import Intake
from databricks_rlm_agent.intake.table import DeltaWorkTable
from databricks_rlm_agent.models import parse_models
from databricks_rlm_agent.ports import PlanResult
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.secrets import LoadedSecrets, Secret, find_secrets
from databricks_rlm_agent.settings import Settings, choose_model
from databricks_rlm_agent.storage.schema import Migration, migrate, repair
from databricks_rlm_agent.storage.stores import DeltaLedger, DeltaRunStore

if TYPE_CHECKING:
    from databricks_rlm_agent.attempts.result import Result
    from databricks_rlm_agent.ports import Planner, PlanningContext, Summary

# For a query of an acceptance check, or a count of an input's rows.
QUERY_LIMIT_S = 300.0
# For what a planner reads by its tools, while a model waits.
TOOL_LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class InitReport:
    """What ``init`` has done, and the folder of the harness."""

    created: list[str]
    migrations: list[Migration]
    repaired: list[str]
    harness: str


@dataclass
class App:
    """Everything of one process, built when it is first asked for. ``environ`` holds the model keys."""

    settings: Settings
    environ: Mapping[str, str] = field(repr=False)
    host: str | None = None
    token: str | None = field(default=None, repr=False)
    _writing: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @cached_property
    def workspace(self) -> Workspace:
        """The workspace we talk to."""
        return Workspace(profile=self.settings.profile, host=self.host, token=self.token)

    @cached_property
    def warehouse(self) -> RetryingSession:
        """The session of the SQL warehouse that the stores share, for statements that are safe to repeat."""
        return self._session()

    @cached_property
    def _lease_session(self) -> RetryingSession:
        """A session of its own, opened when first needed: a renewal must not wait for a slow statement."""
        return self._session()

    @cached_property
    def _query_session(self) -> RetryingSession:
        """A session of its own for queries that others wrote, or on tables of any size."""
        return self._session(limit_s=QUERY_LIMIT_S)

    @cached_property
    def _tool_session(self) -> RetryingSession:
        """A session of its own for planners' tools: a slow view must hold up no check, nor the tick."""
        return self._session(limit_s=TOOL_LIMIT_S)

    def _session(self, *, limit_s: float | None = None) -> RetryingSession:
        engine = WarehouseEngine(self.workspace, http_path=self.settings.warehouse_http_path, limit_s=limit_s)
        return RetryingSession(engine.session, time.sleep)

    @cached_property
    def volume(self) -> WorkspaceVolume:
        """The Volume's files."""
        return WorkspaceVolume(self.workspace)

    @cached_property
    def jobs(self) -> WorkspaceJobs:
        """The Jobs API."""
        return WorkspaceJobs(self.workspace)

    @cached_property
    def catalog(self) -> WorkspaceCatalog:
        """Unity Catalog."""
        return WorkspaceCatalog(self.workspace, catalog=self.settings.namespace.catalog)

    @cached_property
    def store(self) -> DeltaRunStore:
        """The runs."""
        return DeltaRunStore(
            self.warehouse,
            self.settings.namespace,
            look_after_s=self.settings.suspect_after_s,
            writing=self._writing,
        )

    @cached_property
    def ledger(self) -> DeltaLedger:
        """The ledgers."""
        return DeltaLedger(self.warehouse, self.settings.namespace)

    @cached_property
    def planner(self) -> Planner:
        """The planners of all models that runs ask for."""
        return _PlannerPool(self)

    @cached_property
    def controller(self) -> str:
        """The name of this process among the controllers."""
        return self.new_id("c")

    @cached_property
    def intake(self) -> Intake | None:
        """The poll of the work table; None where none is configured."""
        settings = self.settings
        if settings.work is None:
            return None
        table = DeltaWorkTable(
            session=self.warehouse,
            namespace=settings.namespace,
            mapping=settings.work,
            monotonic=time.monotonic,
        )
        return Intake(
            table=table,
            runs=self.store,
            ledger=self.ledger,
            clock=self.clock,
            new_id=self.new_id,
            actor=self.controller,
            monotonic=time.monotonic,
        )

    @cached_property
    def tick(self) -> Tick:
        """One pass of the control plane; see ``publish_harness``."""
        settings = self.settings
        leases = DeltaRunStore(self._lease_session, settings.namespace, writing=self._writing)
        return Tick(
            store=self.store,
            ledger=self.ledger,
            advancer=self._advancer,
            job_poller=JobPoller(jobs=self.jobs, clock=self.clock),
            worker_pool=WorkerPool(size=settings.planners),
            leases=Leases(store=leases, owner=self.controller, lease_s=settings.lease_s),
            clock=self.clock,
            new_id=self.new_id,
            batch=settings.batch,
        )

    @cached_property
    def _advancer(self) -> RunAdvancer:
        ingester = Ingester(
            children=self._children,
            volume=self.volume,
            jobs=self.jobs,
            ledger=self.ledger,
            planner=self.planner,
            clock=self.clock,
            sleep=time.sleep,
        )
        return RunAdvancer(
            planner=self.planner,
            publisher=self._publisher,
            ingester=ingester,
            children=self._children,
            profiler=InputProfiler(volume=self.volume, catalog=self.catalog, sql=self._query_session),
            evidence=Evidence(volume=self.volume, catalog=self.catalog, sql=self._query_session),
            namespace=self.settings.namespace,
            clock=self.clock,
        )

    @cached_property
    def _publisher(self) -> Publisher:
        return Publisher(
            volume=self.volume,
            jobs=self.jobs,
            settings=self.settings,
            harness_dir=bundle.folder(self.settings.namespace),
            clock=self.clock,
            worker=self.controller,
        )

    @cached_property
    def _children(self) -> Children:
        return Children(
            store=self.store,
            volume=self.volume,
            namespace=self.settings.namespace,
            clock=self.clock,
            concurrency=self.settings.sub_concurrency,
        )

    def loop(self, *, max_wait_s: float) -> ControlLoop:
        """The loop around the tick; ``replace`` it for intake and for another way to wait and to stop."""
        return ControlLoop(
            tick=self.tick, sleep=time.sleep, abandon=self.tick.leases.release, max_wait_s=max_wait_s
        )

    def init(self) -> InitReport:
        """Create the schema, Volume, tables and harness that are missing, and repair what is damaged."""
        namespace = self.settings.namespace
        return InitReport(
            created=self.catalog.ensure(namespace),
            migrations=migrate(self.warehouse, namespace),
            repaired=repair(self.warehouse, namespace),
            harness=self.publish_harness(),
        )

    def has_tables(self) -> bool:
        """Return whether the table of runs is there."""
        try:
            self.catalog.describe(self.settings.namespace.table("run_state"))
        except NotFound:
            return False
        return True

    def publish_harness(self) -> str:
        """Put the executor harness of this version into the Volume unless it is there; return its folder.

        Every process that is going to submit programs does it once, before its first tick.
        """
        try:
            return bundle.publish(self.volume, self.settings.namespace)
        except NotFound as error:
            raise NotFound(error.what, where=error.where, fix="Run `rlm-agent init` first.") from None

    def planner_for(self, model: str) -> Planner:
        """A planner that asks ``model``; raise ConfigError where its keys or packages are missing."""
        from databricks_rlm_agent.planner.models import Models
        from databricks_rlm_agent.planner.planner import AdkPlanner
        from databricks_rlm_agent.planner.review import run_policy
        from databricks_rlm_agent.planner.tools import Toolbox

        namespace = self.settings.namespace
        return AdkPlanner(
            models=Models(model, secrets=self._model_keys(model), prices=self.settings.prices),
            toolbox=Toolbox(
                volume=self.volume,
                catalog=self.catalog,
                sql=self._tool_session,
                namespace=namespace,
                ledger=self.ledger,
            ),
            policy=run_policy(namespace, self.settings.write_targets),
        )

    def _model_keys(self, model: str) -> Mapping[str, Secret]:
        providers = {spec.provider for spec in parse_models(model)}
        if providers == {"scripted"}:
            return {}
        found = self.secrets(model).check().values
        return _WithWorkspace(found, self.workspace) if "databricks" in providers else found

    def secrets(self, model: str | None) -> LoadedSecrets:
        """The secrets that can be found, for one model or for the default one."""
        return find_secrets(
            environ=self.environ,
            scope=self.settings.secret_scope,
            model=model,
            fetch=WorkspaceSecrets(self.workspace).fetch,
        )

    @cached_property
    def model(self) -> str:
        """The model of runs that name none; raise ConfigError if none is configured."""
        return choose_model(self.settings.model, self.environ)

    @staticmethod
    def clock() -> datetime:
        """The time now."""
        return datetime.now(UTC)

    @staticmethod
    def new_id(prefix: str) -> str:
        """A new id."""
        return f"{prefix}{uuid.uuid4().hex[:16]}"

    def close(self) -> None:
        """End the warehouse sessions."""
        for session in ("warehouse", "_lease_session", "_query_session", "_tool_session"):
            if session in self.__dict__:
                getattr(self, session).close()


class _WithWorkspace(Mapping[str, Secret]):
    """Model keys, with the workspace's own host and a token that is valid at the time of asking."""

    def __init__(self, found: Mapping[str, Secret], workspace: Workspace) -> None:
        self._found, self._workspace = found, workspace

    def __getitem__(self, key: str) -> Secret:
        if key in self._found:
            return self._found[key]
        value = {"databricks-host": lambda: self._workspace.host, "databricks-token": self._workspace.bearer}[
            key
        ]()
        if value is None:
            raise KeyError(key)
        return Secret(value)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._found, "databricks-host", "databricks-token")))

    def __len__(self) -> int:
        return len(list(iter(self)))


class _PlannerPool:
    """One planner per model, made when a run first asks for it."""

    def __init__(self, app: App) -> None:
        self._app, self._lock = app, threading.Lock()
        self._planners: dict[str, Planner] = {}

    @property
    def model(self) -> str:
        return self._app.model

    def plan(self, context: PlanningContext) -> PlanResult:
        try:
            planner = self._of(context)
        except ConfigError as error:  # this run's model is unusable; other runs' models may be fine
            return PlanResult(action=None, failure=str(error))
        return planner.plan(context)

    def summarize(self, context: PlanningContext, result: Result) -> Summary:
        return self._of(context).summarize(context, result)

    def _of(self, context: PlanningContext) -> Planner:
        """The planner of the context's model; raise ConfigError where the model cannot be used."""
        model = context.model or self._app.model
        with self._lock:
            if model not in self._planners:
                self._planners[model] = self._app.planner_for(model)
            return self._planners[model]
