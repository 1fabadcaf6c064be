"""One execution from arguments to exit code: verify, run, report."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from executor_harness import protocol, redaction
from executor_harness.capture import Recorder
from executor_harness.guard import Guard
from executor_harness.handed_out import HandedOut
from executor_harness.leftovers import Leftovers, StandardCode, failure_within, within
from executor_harness.protocol import Request, Status, Stream
from executor_harness.report import Report, Ticket, append, belongs, encode, is_final, read_result
from executor_harness.rlm.api import Rlm, close, reported
from executor_harness.run import ProcessExit, Program, current, of_end, of_exception, of_interruption, run
from executor_harness.spark import Session
from executor_harness.verify import USAGE, Arguments, Refused, UsageError, parse, read_program, read_request
from executor_harness.volumes import Volumes

_EXIT = os._exit  # the real one: while a program runs there is a softer one in its place
_APPEND_S = 120.0
_APPEND_STOPPED_S = (
    20.0  # after a time-out or cancel: the platform does not wait long, the engine may be busy
)
_WATCHER_S = 5.0  # how much later than the guard the watcher acts


def main(argv: Sequence[str], *, root: Path, kernel: bool) -> int:
    """Run one execution and return its exit code; may end the process instead.

    `root` is the folder or zip that holds this package; `kernel`: the process is a notebook's and lives on.
    """
    try:
        arguments = parse(argv)
    except UsageError as error:
        sys.stderr.write(f"rlm: {error}; {USAGE}\n")
        return protocol.EXIT_USAGE
    return Job(arguments, root=root, kernel=kernel).execute()


class Job:
    """The state of one execution."""

    def __init__(self, arguments: Arguments, *, root: Path, kernel: bool) -> None:
        self._arguments = arguments
        self._kernel = kernel
        self._volumes = Volumes.from_environment()
        self._redactor = redaction.Redactor(redaction.secrets_of(os.environ))
        self._handed_out = HandedOut(self._redactor.add)
        self._session = Session(f"rlm {arguments.run_id}/{arguments.iter_n}/{arguments.attempt}")
        self._recorder = Recorder(root=root, volumes_root=self._volumes.root, redactor=self._redactor)
        self._leftovers = Leftovers()
        self._guard: Guard | None = None
        self._request: Request | None = None  # once its hash is proven
        self._ticket = Ticket(**vars(arguments), started=time.time())

    def execute(self) -> int:
        """Verify, run and report. Returns the exit code."""
        earlier = read_result(self._volumes, self._ticket.result_path)
        if earlier is not None:
            return self._repeat(earlier)
        try:
            self._request = request = read_request(self._arguments, self._volumes)
            source = read_program(request, self._volumes)
        except Refused as refused:
            return self._refuse(refused.error_type, str(refused))
        try:
            grace = float(request.limits.get("grace_s", protocol.DEFAULT_GRACE_S))
            timeout = float(request.timeout_s)
            cap = int(request.limits.get("stdout_bytes", protocol.DEFAULT_STDOUT_BYTES))
            rlm = Rlm(request, self._volumes, self._session.get, self._redactor)
            program = Program(
                source=source,
                name=request.artifact.path,
                file=self._volumes.local(request.artifact.path),
                codebase=self._volumes.local(request.codebase_dir) if request.codebase_dir else None,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # the publisher's mistake
            message = f"{self._arguments.manifest}: the request cannot be used: {error!r}"
            return self._refuse(protocol.MANIFEST_MISMATCH, message)
        self._ticket = replace(self._ticket, artifact_sha256=request.artifact.sha256, timeout_s=timeout)
        self._recorder.start(self._ticket, cap=cap, deadline=timeout + 2 * grace + _WATCHER_S)
        return self._leave(self._run(program, rlm, grace))

    # -- without a run -----------------------------------------------------------------------------

    def _repeat(self, earlier: dict[str, Any]) -> int:
        """Report an attempt that was started before, with its row and exit code: no program runs twice."""
        path = self._ticket.result_path
        if earlier and not belongs(earlier, self._ticket):
            self._log(f"{protocol.RESULT_CONFLICT}: {path} is the result of another request; nothing was run")
            return protocol.EXIT_FAILED
        try:
            self._request = read_request(self._arguments, self._volumes)
        except Refused as refused:
            self._log(str(refused))
        if not is_final(earlier, self._ticket):
            message = f"an earlier start of this attempt left an unreadable {path}; nothing was run again"
            return self._refuse(protocol.PROCESS_DIED, message)
        self._log(f"{path} is there already: the program is not run again")
        self._append(earlier)
        return self._leave(int(earlier["exit_code"]))

    def _refuse(self, error_type: str, message: str) -> int:
        self._log(f"{error_type}: {message}")
        folder = self._arguments.output_dir
        if not self._volumes.local(folder).is_dir():
            self._log(f"{folder} does not exist, so no result is written")
            return self._leave(protocol.EXIT_FAILED)
        streams = {"stdout": Stream(), "stderr": Stream()}
        return self._leave(self._conclude(Report.failed(error_type, message), streams))

    # -- the run -----------------------------------------------------------------------------------

    def _run(self, program: Program, rlm: Rlm, grace: float) -> int:
        self._leftovers.remember(self._recorder.pid)
        self._handed_out.install()
        try:
            report = self._guarded(program, rlm, grace)
        except Exception as error:  # noqa: BLE001 -- the result says so: an exception may be of any class
            return self._fail(f"how the program ended cannot be said: {type(error).__name__}: {error}")
        return self._report(report, rlm)

    def _guarded(self, program: Program, rlm: Rlm, grace: float) -> Report:
        """Run the program under its guard, which reports and ends the process where the program does not."""
        thread, timeout, standard = threading.get_ident(), self._ticket.timeout_s, StandardCode()
        leaving: list[ProcessExit] = []

        def overrun(reason: Status) -> None:
            standard.restore()
            where, trace = current(thread, program.name)
            report = of_interruption(reason, timeout, where, trace)
            if leaving:
                report = of_exception(leaving[0], program.name)
            _hard_exit(self._report(report, rlm, stuck=True))

        def ending(reason: Status) -> None:
            if reason == protocol.CANCELLED and not leaving:
                self._recorder.cancelled()

        self._guard = guard = Guard(
            timeout_s=timeout,
            grace_s=grace,
            ending=ending,
            interrupt=self._session.interrupt,
            overrun=overrun,
        )

        def leave(exit_: ProcessExit) -> None:
            leaving.append(exit_)
            guard.cancel()

        error: BaseException | None = None
        variables: protocol.KeptVariables | None = None
        try:
            guard.arm()
            run(program, rlm, self._session, standard, leave)
            variables = rlm.vars.commit()  # under the guard: large values count against the program's time
        except BaseException as raised:  # noqa: BLE001 -- whatever a program raises becomes its result
            error = raised
        reason = guard.disarm()
        standard.restore()  # once more: it may have been interrupted
        if leaving:
            report = of_exception(leaving[0], program.name)
        else:
            report = of_end(error, reason, program.name, timeout)
        return replace(report, variables=variables) if report.status == protocol.SUCCESS else report

    def _report(self, report: Report, rlm: Rlm, *, stuck: bool = False) -> int:
        """Write the result. Returns the exit code."""
        try:
            return self._write_report(report, rlm, stuck=stuck)
        except Exception as error:  # noqa: BLE001 -- the result says so: the program has damaged its process
            ended = f"{report.status}{': ' + report.error_summary if report.error_summary else ''}"
            what = f"the program ended ({ended}), but its result could not be made"
            return self._fail(f"{what}: {type(error).__name__}: {error}")

    def _fail(self, reason: str) -> int:
        """Have the watcher write a result with this reason: here none can be made."""
        self._log(reason)
        self._recorder.failed(reason)
        return protocol.EXIT_FAILED

    def _write_report(self, report: Report, rlm: Rlm, *, stuck: bool) -> int:
        """Close the streams, look at what the program left, and write the result. Returns the exit code."""
        streams = self._recorder.stop()
        seconds = _append_s(report.status)
        closed = within(seconds, lambda: close(rlm))
        fields = reported(rlm)
        log: list[str] = fields["log"]
        if not closed:
            log.append(f"the answers of models could not be kept in their table within {seconds:g} s")
        if report.variables is None:
            log += rlm.vars.lost()
        if report.status != protocol.SUCCESS:
            fields["spawned"] = []
            if self._session.used and not stuck:
                within(_APPEND_STOPPED_S, rlm.vars.discard)
        if self._session.used and not stuck:
            log += self._leftovers.measure_tables(fields["produced_tables"], self._session)
        log += self._leftovers.lines()
        return self._conclude(replace(report, **fields), streams)

    def _conclude(self, report: Report, streams: dict[str, Stream]) -> int:
        result = report.result(self._ticket, streams=streams, finished=time.time(), redactor=self._redactor)
        code = report.exit_code
        try:
            self._volumes.put(self._ticket.result_path, encode(result))
        except OSError as error:
            self._log(f"{self._ticket.result_path} could not be written: {error}")
            code = code or protocol.EXIT_FAILED
            why = f"the program ended ({report.status}), but result.json could not be written: {error}"
            self._recorder.failed(why)
        if result["error_summary"]:
            self._log(f"{report.status}: {result['error_summary']}")
        self._recorder.done()
        self._append(result)
        return code

    def _append(self, result: dict[str, Any]) -> None:
        """Add the row. A failure is logged and no more: the controller adds it from result.json."""
        note = "the row was not added ({}); the controller adds it from result.json"
        if self._request is None:
            self._log(note.format("the manifest cannot be trusted to name the table"))
            return
        table = self._request.results_table

        def work() -> None:
            append(lambda text: self._session.fresh().sql(text).collect(), table, result)

        if failure := failure_within(_append_s(result["status"]), work):
            self._log(note.format(f"{table}: {self._redactor.text(failure)[:500]}"))

    def _log(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the program closed it
            sys.stderr.write(f"rlm: {self._redactor.text(message)}\n")

    def _leave(self, code: int) -> int:
        """End what the program left running. Returns only where a plain return really ends the job."""
        self._session.unguard()
        self._handed_out.remove()
        if not self._kernel:
            self._session.release()
        elif self._guard is not None:
            self._guard.restore()
        self._leftovers.kill_children()
        if not self._kernel and (self._leftovers.keeps_alive() or not _flushed()):
            _hard_exit(code)
        return code


def _append_s(status: str) -> float:
    return _APPEND_S if status in (protocol.SUCCESS, protocol.FAILED) else _APPEND_STOPPED_S


def _flushed() -> bool:
    """Flush the job's own streams; False where one cannot be, which would change the exit code."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return False
    return True


def _hard_exit(code: int) -> None:
    _flushed()
    _EXIT(code)
