"""A program for a terminal: ``sql run`` with a scripted engine in place of a warehouse."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from sqlflow_rig import FakeEngine, FakeSession, MemoryRecord

from databricks_rlm_agent.cli.arguments import parser
from databricks_rlm_agent.cli.sql import run as sqlrun
from databricks_rlm_agent.cli.sql.run import selected_plan
from databricks_rlm_agent.errors import Rejected
from databricks_rlm_agent.sqlflow.run import workflow as library

FILES = {
    "01_bad.sql": "CREATE OR REPLACE TABLE bad AS SELECT 1 AS id",
    "01_slow.sql": "CREATE OR REPLACE TABLE slow AS SELECT 1 AS id",
}
_TRIES: list[str] = []
_RELEASE = threading.Event()


def execute(mode: str, sql: str, session: FakeSession) -> int:
    """Fail, wait, or take no notice of being cancelled."""
    if "TABLE bad" in sql and mode == "ask":
        _TRIES.append(sql)
        if len(_TRIES) == 2:
            _RELEASE.set()
        raise Rejected("[DIVIDE_BY_ZERO] no")
    if "TABLE slow" in sql and mode in {"ask", "slow", "stuck"}:
        while not (mode == "ask" and _RELEASE.is_set()):
            if session.cancelled.wait(0.05) and mode != "stuck":
                raise Rejected("[CANCELED] Query was cancelled.")
        time.sleep(0.3)  # so that the display shows it
    return 1


def main(mode: str) -> int:
    """Run the command as a terminal's owner would."""
    if mode.startswith("token"):
        print(f"{len(sqlrun._asked_token())} characters", flush=True)
    engine: Any = FakeEngine(lambda sql, session: execute(mode.split()[-1], sql, session))
    library.DeltaRecord = lambda *_some, **_others: _record()  # type: ignore[misc,assignment]
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            (Path(folder) / name).write_text(text)
        given = ["sql", "run", folder, "--catalog", "main", "--schema", "s"]
        options: Namespace = parser("0").parse_args(given)
        return sqlrun._run(options, selected_plan(options), engine, ("main", "s"))


def _record() -> Any:
    record: Any = MemoryRecord()
    record.create = lambda: None
    return record


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
    sys.exit(main(sys.argv[1]))
