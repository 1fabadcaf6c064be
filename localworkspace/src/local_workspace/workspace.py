"""One running workspace: what its services stand on."""

from __future__ import annotations

from dataclasses import dataclass, field

from local_workspace.engine import Engine
from local_workspace.jobs.launcher import Launcher
from local_workspace.jobs.references import References
from local_workspace.jobs.scheduler import Limits, Scheduler
from local_workspace.jobs.store import RunStore
from local_workspace.layout import Layout
from local_workspace.options import WorkspaceInfo, WorkspaceOptions
from local_workspace.scripted_model import ScriptedModel
from local_workspace.state import Database, now_ms
from local_workspace.tls import Certificate


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The parts that the services share; each service takes those that it needs."""

    options: WorkspaceOptions
    info: WorkspaceInfo
    layout: Layout
    database: Database
    engine: Engine
    model: ScriptedModel | None
    runs: RunStore
    scheduler: Scheduler
    references: References
    started: int = field(default_factory=now_ms)

    @staticmethod
    def assemble(
        options: WorkspaceOptions,
        info: WorkspaceInfo,
        layout: Layout,
        database: Database,
        engine: Engine,
        model: ScriptedModel | None,
        trusted: Certificate | None = None,
    ) -> Workspace:
        """A workspace with its job scheduler, which is not started yet."""
        launcher = Launcher(
            layout=layout,
            secret=database.secret,
            host=info.host,
            token=info.token,
            # Both names: one is requests', the other OpenSSL's.
            trust=dict.fromkeys(("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), str(trusted.bundle))
            if trusted
            else {},
            spark_remote=engine.connect_url_of,
        )
        runs, limits = RunStore(database), Limits(processes=options.max_processes)
        scheduler = Scheduler(runs, layout.runs, launcher.prepare, limits, engine.end_job)
        engine.on_job_lost = scheduler.lose
        return Workspace(
            options=options,
            info=info,
            layout=layout,
            database=database,
            engine=engine,
            model=model,
            runs=runs,
            scheduler=scheduler,
            references=launcher.references,
        )
