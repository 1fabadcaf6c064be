"""The scheduler of job runs: it starts the tasks that may start, stops runs, and settles those that ended."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from local_workspace import threads
from local_workspace.jobs import model
from local_workspace.jobs.libraries import failure
from local_workspace.jobs.model import FINAL, WAITING, Ending, Run, TaskRun
from local_workspace.jobs.process import (
    Finished,
    Launch,
    LogWriter,
    Reason,
    StopSwitch,
    Supervisor,
    end_stragglers,
    explain,
    read_log,
    signal_group,
    start,
    started_at,
)
from local_workspace.jobs.store import RunStore
from local_workspace.state import now_ms

_TICK_S = 0.5  # the longest delay in noticing a whole run's time limit, or that a retry is due
_STOPPED: Mapping[Reason, Ending] = {
    "cancel": model.CANCELED,
    "timeout": model.TIMED_OUT,
    "shutdown": model.LOST,
    "lost": model.ENGINE_LOST,
}


class TaskRefusedError(Exception):
    """A task that cannot be started; `ending` is what the Jobs API reports for it."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.message)
        self.ending = ending


Prepare = Callable[[Run, TaskRun, Path], Launch]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The number of processes at once, and the seconds that a process has to obey SIGTERM."""

    processes: int
    grace_s: float = 5.0


class Scheduler:
    """Owns all active runs. A decision is saved before it is carried out or shown.

    Where the disk does not take it, the decision waits in memory and is saved again and again, and nothing
    new is begun for that run meanwhile; no thread ends by it.
    """

    def __init__(
        self,
        store: RunStore,
        folder: Path,
        prepare: Prepare,
        limits: Limits,
        end_sessions: Callable[[str], None],
    ) -> None:
        self._store, self._folder, self._prepare, self._limits = store, folder, prepare, limits
        self._end_sessions = end_sessions
        self._changed = threading.Condition()
        self._runs: dict[int, Run] = {}
        self._switches: dict[int, StopSwitch] = {}
        self._workers: set[threading.Thread] = set()
        self._unsaved: dict[int, Run] = {}
        self._closing = False

    def start(self) -> None:
        """Settle the runs that a stopped server left active, then begin."""
        for run in self._store.active():
            for task in run.tasks:
                self._end_leftover(task)
            self._store.save(_lost(run))
        threads.begin("job-scheduler", self._loop, essential=True)

    def _end_leftover(self, task: TaskRun) -> None:
        """Kill what outlived its server of a task: the group only if its leader is still that process."""
        if task.pid is None or task.pid_started is None or task.life in FINAL:
            return
        if started_at(task.pid) == task.pid_started:
            signal_group(task.pid, signal.SIGKILL)
        end_stragglers(str(self._folder / str(task.run_id)), self._limits.grace_s)

    def add(self, run: Run) -> None:
        """Take charge of a saved run."""
        with self._changed:
            self._runs[run.run_id] = run
            self._changed.notify()

    def cancel(self, run_id: int) -> None:
        """Request the end of a run; return at once. A run that is over stays as it is."""
        with self._changed:
            run = self._runs.get(run_id)
            if run is not None and run.stop is None:
                self._put(replace(run, stop="cancel"))
                self._changed.notify()

    def lose(self, task_run_id: str) -> None:
        """End a task run whose engine has gone, as lost. Harmless when it is over."""
        with self._changed:
            switch = self._switches.get(int(task_run_id)) if task_run_id.isdigit() else None
            if switch is not None:
                switch.throw("lost")

    def active_runs(self, job_id: int) -> int:
        """The number of runs of a job that have not ended."""
        with self._changed:
            return sum(run.job_id == job_id for run in self._runs.values())

    def close(self) -> None:
        """End all processes and settle their runs. The platform goes away: there is no grace."""
        with self._changed:
            self._closing = True
            for switch in self._switches.values():
                switch.throw("shutdown")
            self._changed.notify()
            workers = list(self._workers)
        deadline = time.monotonic() + self._limits.grace_s + 1  # keepers end what is left when we are gone
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            for run in [*self._unsaved.values(), *map(_lost, self._runs.values())]:
                with _said(f"The end of run {run.run_id}"):
                    self._store.save(run)
            self._runs.clear()

    def _loop(self) -> None:
        with self._changed:
            while not self._closing:
                for run in list(self._unsaved.values()):
                    self._put(run)
                for run in list(self._runs.values()):
                    self._advance_safely(run)
                self._changed.wait(_TICK_S if self._timed() or self._unsaved else None)

    def _advance_safely(self, run: Run) -> None:
        """One run's defect must not stop all others."""
        try:
            self._advance(run)
        except Exception as error:  # noqa: BLE001 - the reason becomes the run's
            self._put(replace(self._runs[run.run_id], ending=_defect(error), end_time=now_ms()))

    def _timed(self) -> bool:
        return any(
            run.timeout_seconds or any(task.life == "WAITING_FOR_RETRY" for task in run.tasks)
            for run in self._runs.values()
        )

    def _put(self, run: Run) -> None:
        """Keep and save a new version of a run; what cannot be saved now is saved later."""
        again = run.run_id in self._unsaved
        self._unsaved[run.run_id] = run
        with _said(
            "" if again else f"The state of run {run.run_id}, kept in memory until the disk takes it,"
        ):
            self._store.save(run)
            del self._unsaved[run.run_id]
        if run.active:
            self._runs[run.run_id] = run
        else:
            self._runs.pop(run.run_id, None)

    def _advance(self, run: Run) -> None:
        """Make every decision about one run that is due. Called with the lock held."""
        self._release(run)
        run = self._runs[run.run_id]
        expired = (
            run.timeout_seconds and now_ms() - (run.began or run.start_time) >= run.timeout_seconds * 1000
        )
        if expired and run.stop is None:
            self._put(replace(run, stop="timeout"))
            run = self._runs[run.run_id]
        for task in run.tasks:
            if run.stop is not None:
                self._stop(run.run_id, task, run.stop)
            elif not run.held:
                self._start_if_ready(run.run_id, task)
        run = self._runs[run.run_id]
        if all(task.life in FINAL for task in run.tasks):
            self._put(replace(run, ending=model.run_ending(run), end_time=now_ms()))
            self._changed.notify()

    def _release(self, run: Run) -> None:
        """Release a queued run when its job has room."""
        if not run.held:
            return
        most = int(run.settings.get("max_concurrent_runs") or 1)
        running = sum(r.job_id == run.job_id and not r.held for r in self._runs.values())
        if running < most:
            self._put(replace(run, held=False))

    def _stop(self, run_id: int, task: TaskRun, reason: model.Stop) -> None:
        if task.run_id in self._switches:  # its process runs, or is about to: the worker reports its end
            if task.life != "TERMINATING":
                self._set(run_id, replace(task, life="TERMINATING"))
            self._switches[task.run_id].throw(reason)
        elif task.life in WAITING:
            self._set(run_id, task.ended(_STOPPED[reason], now_ms()))

    def _start_if_ready(self, run_id: int, task: TaskRun) -> None:
        if task.life == "BLOCKED":
            keys = {item.task_key: item for item in self._runs[run_id].tasks}
            next_state = model.unblocked(task, keys)
            if isinstance(next_state, Ending):
                self._set(run_id, task.ended(next_state, now_ms()))
                self._changed.notify()  # tasks further down may depend on this one
            if next_state != "PENDING":
                return
            task = replace(task, life="PENDING")
            self._set(run_id, task)
        waits = task.life == "WAITING_FOR_RETRY" and now_ms() < task.not_before
        if task.life in WAITING and not waits and task.run_id not in self._switches:
            self._begin(run_id, task)

    def _begin(self, run_id: int, task: TaskRun) -> None:
        if len(self._switches) >= self._limits.processes:
            if task.life != "QUEUED":
                self._set(run_id, replace(task, life="QUEUED"))
            return
        self._set(run_id, replace(task, life="PENDING", start_time=now_ms()))
        if run_id in self._unsaved:  # a server that dies now must know of the process
            return
        switch = self._switches[task.run_id] = StopSwitch()
        worker = threads.begin(f"run-{task.run_id}", self._work, run_id, task.run_id, switch, essential=True)
        self._workers.add(worker)

    def _set(self, run_id: int, task: TaskRun) -> None:
        self._put(self._runs[run_id].with_task(task))

    def _update(self, run_id: int, task_run_id: int, **changes: Any) -> TaskRun | None:
        """Change one task of a run, from a worker; None when the run is no longer ours."""
        with self._changed:
            run = self._runs.get(run_id)
            if run is None:
                return None
            task = next(item for item in run.tasks if item.run_id == task_run_id)
            changed = replace(task, **changes)
            self._set(run_id, changed)
            return changed

    def _work(self, run_id: int, task_run_id: int, switch: StopSwitch) -> None:
        """One task run, from the start of its process to its end."""
        try:
            try:
                ending = self._execute(run_id, task_run_id, switch)
            finally:
                # Before the run is seen to be over: nothing of it shall change a table after that.
                self._end_sessions(str(task_run_id))
        except TaskRefusedError as refused:
            ending = refused.ending
        except Exception as error:  # noqa: BLE001 - a defect of ours must end the run, with its reason
            ending = _defect(error)
        shutil.rmtree(self._folder / str(task_run_id) / "work", ignore_errors=True)
        with self._changed:
            task = self._update(run_id, task_run_id, life=ending.life, ending=ending, end_time=now_ms())
            if task is not None and self._runs[run_id].stop is None and model.wants_retry(task, ending):
                (new_id,) = self._store.new_ids(1)
                self._put(model.retried(self._runs[run_id], task, new_id, now_ms()))
            del self._switches[task_run_id]
            self._workers.discard(threading.current_thread())
            switch.close()
            self._changed.notify()

    def _execute(self, run_id: int, task_run_id: int, switch: StopSwitch) -> Ending:
        folder = self._folder / str(task_run_id)
        (folder / "work").mkdir(parents=True, exist_ok=True)
        with self._changed:
            run = self._runs[run_id]
        task = next(item for item in run.tasks if item.run_id == task_run_id)
        launch = self._prepare(run, task, folder / "work")
        with contextlib.closing(LogWriter(folder)) as log:
            if launch.before is not None:
                installed = self._supervised(run_id, task, launch.before, switch, log)
                if installed.stopped is None and installed.exit_code:
                    reason = failure(read_log(folder)[0], launch.before.libraries)
                    return model.failed("LIBRARY_INSTALLATION_ERROR", reason)
                if installed.stopped is not None:
                    return _ending_of(installed, folder)
            return _ending_of(self._supervised(run_id, task, launch, switch, log), folder)

    def _supervised(
        self, run_id: int, task: TaskRun, launch: Launch, switch: StopSwitch, log: LogWriter
    ) -> Finished:
        """One process of a task run, from its start to its end."""
        if switch.reason is not None:
            return Finished(exit_code=-signal.SIGTERM, stopped=switch.reason)
        process = start(launch, self._limits.grace_s)
        self._update(
            run_id,
            task.run_id,
            life="RUNNING" if switch.reason is None else "TERMINATING",
            running_time=now_ms(),
            pid=process.pid,
            pid_started=started_at(process.pid),
        )
        limit_s = float(task.spec.get("timeout_seconds") or 0)
        grace_s = self._limits.grace_s
        finished = Supervisor(process, log, switch, timeout_s=limit_s, grace_s=grace_s).run()
        end_stragglers(launch.mark, grace_s)
        return finished


def _ending_of(finished: Finished, folder: Path) -> Ending:
    if finished.stopped is not None:
        return _STOPPED[finished.stopped]
    if finished.exit_code == 0:
        return model.SUCCESS
    error, trace = explain(finished.exit_code, read_log(folder)[0])
    return model.failed("RUN_EXECUTION_ERROR", model.WORKLOAD_FAILED, error=error, trace=trace)


def _lost(run: Run) -> Run:
    """The run after its server has stopped. One that was being cancelled or timed out has ended that way."""
    return run.ended(_STOPPED[run.stop or "shutdown"], now_ms())


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    """Pass over that something cannot be written, and say so; an empty `what` has been said already."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if what:
            threads.say(f"{what} could not be written: {type(error).__name__}: {error}")


def _defect(error: Exception) -> Ending:
    return model.failed("INTERNAL_ERROR", f"{type(error).__name__}: {error}", kind="INTERNAL_ERROR")
