"""Where both sides run: one local workspace that can be slow, and a schema for each run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn

from benchmarks.measure import seconds
from benchmarks.places import connect
from benchmarks.requestlog import RequestLog
from benchmarks.sql import flow
from benchmarks.sql.script import run_script
from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.sqlflow.handover import read_directory
from databricks_rlm_agent.sqlflow.model import Plan
from databricks_rlm_agent.sqlflow.plan.plan import plan_of
from databricks_rlm_agent.sqlflow.run.outcome import Report, RunStatus
from databricks_rlm_agent.sqlflow.run.runner import Options
from databricks_rlm_agent.sqlflow.run.workflow import run_workflow


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One run: how long it took, from reading the files on, and its report (None: the bare script's)."""

    seconds: float
    report: Report | None = None


@dataclass(kw_only=True)
class Stage:
    """A workspace, and what runs there."""

    info: WorkspaceInfo
    root: Path
    log: RequestLog
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def tables(self) -> Path:
        """The folder that holds the schemas of the catalog."""
        return self.root / "tables" / "main"

    def schema(self) -> str:
        """Make a schema."""
        name = f"s{next(self._numbers)}"
        self.sql(f"CREATE SCHEMA main.{name}")
        return name

    def sql(self, *texts: str) -> None:
        """Run statements apart from what is measured."""
        with connect(self.info) as connection, connection.cursor() as cursor:
            for text in texts:
                cursor.execute(text)

    def ours(self, folder: Path, schema: str, **options: Any) -> Ran:
        """Run a directory by the library; RuntimeError if it does not end well."""
        ran = self.tried(folder, schema, **options)
        if ran.report is None or ran.report.status is not RunStatus.SUCCEEDED:
            raise RuntimeError(f"The workflow failed: {ran.report}")
        return ran

    def tried(self, folder: Path, schema: str, **options: Any) -> Ran:
        """The same, however it ends."""
        workspace = Workspace(host=self.info.host, token=self.info.token)
        engine = WarehouseEngine(workspace, http_path=self.info.http_path, catalog="main", schema=schema)
        reports: list[Report] = []

        def work() -> None:
            reports.append(
                run_workflow(folder, engine, catalog="main", schema=schema, options=Options(**options))
            )

        return Ran(seconds=seconds(work), report=reports[0])

    def bare(self, folder: Path, schema: str) -> Ran:
        """Run it as a script does."""

        def work() -> None:
            with closing(connect(self.info)) as connection:
                run_script(connection, folder, schema)

        return Ran(seconds=seconds(work))

    @contextmanager
    def slow(self, own_s: float) -> Iterator[None]:
        """Meanwhile statements take the time that they say, and all others ``own_s``."""
        self._faults("POST", {"rules": flow.delays(own_s)})
        try:
            yield
        finally:
            self._faults("DELETE", {})

    def _faults(self, method: str, body: Mapping[str, Sequence[object]]) -> None:
        headers = {"Authorization": f"Bearer {self.info.token}", "Content-Type": "application/json"}
        request = Request(
            f"{self.info.host}/_local/faults", method=method, headers=headers, data=json.dumps(body).encode()
        )
        with urlopen(request) as reply:
            reply.read()


@contextmanager
def staged(root: Path) -> Iterator[Stage]:
    """A workspace in a child process."""
    place = root / "workspace"
    with spawn(WorkspaceOptions(root=place, allow_faults=True)) as workspace:
        yield Stage(info=workspace.info, root=place, log=RequestLog(workspace.info))


def planned(folder: Path) -> Plan:
    """The plan of a directory."""
    return plan_of(read_directory(folder, catalog="main", schema="default"))
