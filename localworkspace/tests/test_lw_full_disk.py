"""A disk that is full for a while: runs end, nothing begins unrecorded, requests are told to come again."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from local_workspace.jobs.model import Run, TaskRun
from local_workspace.jobs.process import Launch, LogWriter
from local_workspace.jobs.scheduler import Limits, Scheduler
from local_workspace.jobs.store import RunStore
from local_workspace.state import Database
from lw_support import eventually


class FullDisk(Database):
    """Records on a disk that takes nothing while `full` is set."""

    full = False

    def run(self, sql: str, *values: object) -> int:
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")
        return super().run(sql, *values)


class Rig:
    """A scheduler of one slot, whose jobs end when a file appears."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = FullDisk(root / "state.db")
        self.store = RunStore(self.database)
        limits = Limits(processes=1, grace_s=0.2)
        self.scheduler = Scheduler(self.store, root, self.prepare, limits, lambda _job: None)
        self.scheduler.start()

    def prepare(self, run: Run, _task: TaskRun, cwd: Path) -> Launch:
        wait = f"import os, time\nwhile not os.path.exists({self.go(run.run_id)!r}): time.sleep(0.01)"
        return Launch(argv=[sys.executable, "-c", wait], env={}, cwd=cwd, mark=str(cwd.parent))

    def go(self, run_id: int) -> str:
        return str(self.root / f"go-{run_id}")

    def submit(self) -> int:
        run_id, task_id = self.database.new_ids(2)
        task = TaskRun(run_id=task_id, task_key="t", spec={})
        run = Run(
            run_id=run_id,
            job_id=run_id,
            name="r",
            run_type="SUBMIT_RUN",
            settings={},
            tasks=(task,),
            start_time=1,
        )
        self.scheduler.add(self.store.insert(None, 0, lambda: run)[0])
        return run_id

    def slots_taken(self) -> int:
        return len(self.scheduler._switches)

    def until(self, run_id: int, life: str) -> Run:
        return eventually(lambda: self.store.get(run_id), lambda run: run.tasks[0].life == life)


@pytest.fixture
def rig(tmp_path: Path) -> Any:
    made = Rig(tmp_path)
    yield made
    made.database.full = False
    made.scheduler.close()
    made.database.close()


@pytest.mark.fault("A2")
def test_a_run_that_ends_while_the_disk_is_full_ends(rig: Rig) -> None:
    first, second = rig.submit(), rig.submit()
    rig.until(first, "RUNNING")
    rig.database.full = True
    Path(rig.go(first)).touch()
    eventually(rig.slots_taken, lambda count: count == 0)
    assert rig.store.get(first).tasks[0].life == "RUNNING"  # what is shown is what is on record
    rig.database.full = False
    assert (rig.until(first, "TERMINATED").ending or pytest.fail("no ending")).result == "SUCCESS"
    rig.until(second, "RUNNING")
    Path(rig.go(second)).touch()
    rig.until(second, "TERMINATED")


@pytest.mark.fault("A2")
def test_a_cancel_while_the_disk_is_full_ends_the_run(rig: Rig) -> None:
    run_id = rig.submit()
    rig.until(run_id, "RUNNING")
    rig.database.full = True
    rig.scheduler.cancel(run_id)
    eventually(rig.slots_taken, lambda count: count == 0)
    rig.database.full = False
    eventually(lambda: rig.store.get(run_id).ending, lambda end: end is not None and end.result == "CANCELED")


@pytest.mark.fault("A2")
def test_nothing_begins_that_is_not_on_record(rig: Rig) -> None:
    run_id = rig.submit()
    rig.until(run_id, "RUNNING")
    waiting = rig.submit()
    rig.database.full = True
    Path(rig.go(run_id)).touch()
    eventually(rig.slots_taken, lambda count: count == 0)
    assert not (rig.root / str(rig.store.get(waiting).tasks[0].run_id)).exists()
    rig.database.full = False
    rig.until(waiting, "RUNNING")
    Path(rig.go(waiting)).touch()
    rig.until(waiting, "TERMINATED")


@pytest.mark.fault("A2")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_the_disk_does_not_take_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LogWriter(tmp_path)
    real = log._file
    with Path("/dev/full").open("wb", buffering=0) as log._file:
        log.write(b"lost")
    assert "No space left" in capsys.readouterr().err
    log._file = real
    log.write(b"kept")
    log.close()
    assert (tmp_path / "log.1").read_bytes() == b"kept"


@pytest.mark.fault("A2")
def test_a_request_while_the_disk_is_full_is_told_to_come_again() -> None:
    from local_workspace.http import api_error, error_reply

    reply = error_reply(api_error(sqlite3.OperationalError("database or disk is full")))
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
