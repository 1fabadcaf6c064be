"""One running workspace: what its services stand on."""

from __future__ import annotations

from local_workspace.engine import Engine
from local_workspace.jobs.launcher import Launcher
from local_workspace.jobs.scheduler import Limits, Scheduler
from local_workspace.jobs.store import RunStore
from local_workspace.layout import Layout
from local_workspace.options import WorkspaceInfo, WorkspaceOptions
from local_workspace.scripted_model import ScriptedModel
from local_workspace.state import Database, now_ms
from local_workspace.tls import Certificate


class Workspace:
    """The parts that the services share; each service takes those that it needs.

    The job scheduler is not started yet.
    """

    def __init__(
        self,
        options: WorkspaceOptions,
        info: WorkspaceInfo,
        layout: Layout,
        database: Database,
        engine: Engine,
        model: ScriptedModel | None,
        trusted: Certificate | None = None,
    ) -> None:
        self.options, self.info, self.layout = options, info, layout
        self.started = now_ms()
        self.database, self.engine, self.model = database, engine, model
        names = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")  # one is requests', the other OpenSSL's
        launcher = Launcher(
            layout=layout,
            secret=database.secret,
            info=info,
            trust=dict.fromkeys(names, str(trusted.bundle)) if trusted else {},
            spark_remote=engine.connect_url_of,
        )
        self.references = launcher.references
        self.runs, limits = RunStore(database), Limits(processes=options.max_processes)
        self.scheduler = Scheduler(self.runs, layout.runs, launcher.prepare, limits, engine.end_job)
        engine.on_job_lost = self.scheduler.lose
