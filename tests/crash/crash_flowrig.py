"""One local workspace with fault control, and processes of ``rlm-agent sql run`` that are killed on it."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from crash_controller import Controller
from crash_flow import EXACT, SETUP
from crash_rig import eventually
from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn

from databricks_rlm_agent.databricks.sql import WarehouseEngine, WarehouseSession
from databricks_rlm_agent.databricks.workspace import Workspace

GIVE_UP_S = 60.0
# Commits that change no row, and may be more than in an undisturbed run.
_NO_ROWS = {"SET TBLPROPERTIES", "OPTIMIZE"}


@dataclass(kw_only=True)
class FlowRig:
    """A workspace, the workflow's directory, and a schema of its own for each case."""

    info: WorkspaceInfo
    folder: Path
    flow: Path
    session: WarehouseSession
    http: requests.Session = field(default_factory=requests.Session)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    schema: str = ""

    def prepare(self) -> None:
        """A schema with what the workflow finds."""
        self.schema = f"s{next(self.numbers)}"
        self.session.execute(f"CREATE SCHEMA main.{self.schema}")
        self.session.execute(f"USE SCHEMA {self.schema}")
        for statement in SETUP:
            self.session.execute(statement)

    def control(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.http.request(method, f"{self.info.host}/_local/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def fault(self, **rule: Any) -> None:
        """One rule, for statements of the schema's processes only; none without arguments."""
        self.control("DELETE", "faults")
        self.control("DELETE", "requests")
        if rule:
            self.control("POST", "faults", {"sql": ".", **rule})

    def statements(self) -> list[str]:
        """What was sent since the last ``fault``."""
        log = self.control("GET", "requests")["requests"]
        return [entry["sql"] for entry in log if entry["sql"]]

    def start(self, *more: str) -> Controller:
        """``rlm-agent sql run --resume`` in a process of its own."""
        place = {"--server-hostname": self.info.host, "--http-path": self.info.http_path}
        place |= {"--access-token": self.info.token, "--catalog": "main", "--schema": self.schema}
        given = [part for pair in place.items() for part in pair]
        fixed = ("--on-error", "stop", "--max-parallel", "1", "--resume")
        environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        log = self.folder / f"{self.schema}-{next(self.numbers)}.log"
        return Controller(("sql", "run", str(self.flow), *given, *fixed, *more), environ, log)

    def held(self, process: Controller) -> int | None:
        """The id of the statement that is held; None if the process ended before there was one."""

        def look() -> tuple[int | None] | None:
            ended = not process.alive
            held = self.control("GET", "held")["held"]
            return (int(held[0]["id"]),) if held else (None,) if ended else None

        return eventually(look, GIVE_UP_S)[0]

    def release(self, held: int, *, drop: bool) -> None:
        self.control("POST", f"held/{held}/release", {"drop": drop})
        eventually(lambda: all(item["id"] != held for item in self.control("GET", "held")["held"]) or None)

    def found(self) -> dict[str, Any]:
        """All rows of all tables, and the commits of those that are not made anew."""
        tables = [row["tableName"] for row in self.session.fetch("SHOW TABLES")]
        # A killed process leaves the table behind that it tried whether it may make tables with.
        mine = sorted(name for name in tables if not name.startswith(("sql_workflow_", "_rlm_probe_")))
        rows = {name: sorted(map(repr, self.session.fetch(f"SELECT * FROM {name}"))) for name in mine}
        return {"rows": rows, "commits": {name: self._commits(name) for name in EXACT if name in mine}}

    def _commits(self, table: str) -> list[str]:
        history = self.session.fetch(f"DESCRIBE HISTORY {table}")
        return [row["operation"] for row in history if row["operation"] not in _NO_ROWS]

    def noted(self) -> bool:
        """Whether a statement is about to be sent that must not happen twice."""
        if "sql_workflow_steps" not in [row["tableName"] for row in self.session.fetch("SHOW TABLES")]:
            return False
        return bool(self.session.fetch("SELECT 1 AS x FROM sql_workflow_steps WHERE status = 'begun'"))

    def recorded(self) -> tuple[int, int]:
        """How many rows are on record, and how many statements were sent by now."""
        rows = self.session.fetch("SELECT count(*) AS n FROM sql_workflow_steps")[0]["n"]
        return rows, len(self.statements())

    def twice(self) -> Mapping[str, int]:
        """Steps and iterations that are on record as done more than once."""
        rows = self.session.fetch(
            "SELECT step, iteration, count(DISTINCT seq) AS n FROM sql_workflow_steps WHERE status = 'done' "
            "GROUP BY step, iteration HAVING count(DISTINCT seq) > 1"
        )
        return {f"{row['step']}#{row['iteration']}": row["n"] for row in rows}


@contextlib.contextmanager
def flow_rig(folder: Path, flow: Path) -> Iterator[FlowRig]:
    """Start a workspace below ``folder``, and stop it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        spawned = spawn(WorkspaceOptions(root=folder / "workspace", allow_faults=True))
        stack.callback(spawned.stop)
        info = spawned.info
        engine = WarehouseEngine(
            Workspace(host=info.host, token=info.token), http_path=info.http_path, catalog="main"
        )
        session = engine.session()
        stack.callback(session.close)
        made = FlowRig(info=info, folder=folder, flow=flow, session=session)
        stack.callback(made.http.close)
        made.http.trust_env = False
        made.http.headers["Authorization"] = f"Bearer {info.token}"
        yield made
