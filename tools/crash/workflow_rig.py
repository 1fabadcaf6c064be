"""The workflow of the workflow matrix: every kind of statement that must not happen twice, and two loops."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn

from databricks_rlm_agent.databricks.sql import WarehouseEngine, WarehouseSession
from databricks_rlm_agent.databricks.workspace import Workspace
from tools.crash.controller import Controller
from tools.crash.rig import eventually

SETUP = (
    "CREATE TABLE ledger AS SELECT id, id * 10 AS v FROM range(4)",
    "CREATE TABLE work AS SELECT id, id AS v FROM range(3)",
    "CREATE TABLE old AS SELECT 1 AS x",
)
FILES = {
    "01_nodes.sql": "CREATE OR REPLACE TABLE nodes AS SELECT id, id AS label FROM range(3);\n"
    "INSERT INTO nodes SELECT 3, 3;\nOPTIMIZE nodes;",
    "02_ledger.sql": "INSERT INTO ledger SELECT id + 100, 7 FROM nodes;\nINSERT INTO ledger VALUES (200, 8);",
    "03_changes.sql": "CREATE TEMPORARY VIEW fresh AS SELECT id, label + 1000 AS v FROM nodes UNION ALL "
    "SELECT 300, 9;\n"
    "MERGE INTO ledger AS t USING fresh AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = t.v + s.v "
    "WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v);\n"
    "UPDATE ledger SET v = v + 1 WHERE id >= 100;\n"
    "MERGE INTO ledger AS t USING (SELECT max(id) AS m FROM ledger) AS s ON t.id = s.m "
    "WHEN MATCHED THEN DELETE;\n"
    "DELETE FROM ledger WHERE id = 200;\nINSERT INTO ledger VALUES (200, 8);\n"
    "INSERT OVERWRITE ledger SELECT id, v * 2 FROM ledger;\n"
    "ALTER TABLE ledger SET TBLPROPERTIES ('purpose' = 'a; b');\n"
    "CREATE OR REPLACE TABLE snap AS SELECT * FROM ledger;",
    "04_label_loop_iteration_01.sql": "CREATE OR REPLACE TABLE label_1 AS SELECT id, "
    "greatest(label - 1, 0) AS label FROM nodes;",
    "04_label_loop_iteration_02.sql": "CREATE OR REPLACE TABLE label_2 AS SELECT id, "
    "greatest(label - 1, 0) AS label FROM label_1;",
    "05_shrink_loop_iteration_01.sql": "UPDATE work SET v = v - 1 WHERE v > 0;",
    "06_names.sql": "CREATE TABLE made AS SELECT * FROM label_loop_final;\n"
    "INSERT INTO made VALUES (77, 77);\nALTER TABLE made RENAME TO kept;\n"
    "INSERT INTO kept VALUES (78, 78);\nDROP TABLE old;",
}
# Tables that are not made anew: not one commit more than in an undisturbed run.
EXACT = ("ledger", "work", "kept")
_LONG = "SELECT count(*) AS n FROM range(30000) a CROSS JOIN range(15000) b WHERE a.id * b.id % 7 = 3"
# Each adds one row to a table, after some seconds.
SLOW = (
    f"INSERT INTO slow {_LONG}",
    f"MERGE INTO slow AS t USING ({_LONG}) AS s ON t.v = s.n WHEN NOT MATCHED THEN INSERT (v) VALUES (s.n)",
)


def write_flow(folder: Path) -> Path:
    """Write the files below ``folder``."""
    flow = folder / "flow"
    flow.mkdir(parents=True)
    for name, text in FILES.items():
        (flow / name).write_text(text, encoding="utf-8")
    return flow


def write_slow(folder: Path, statement: str) -> Path:
    """Write a workflow of one statement below ``folder``."""
    flow = folder / "slow"
    flow.mkdir(parents=True)
    (flow / "01_slow.sql").write_text(statement, encoding="utf-8")
    return flow


GIVE_UP_S = 180.0
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
