"""One execution from arguments to exit code: verify, run, report."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from executor_harness import protocol, redaction
from executor_harness.aftermath import Aftermath
from executor_harness.api import Rlm, close, reported
from executor_harness.arguments import USAGE, Arguments, UsageError, parse
from executor_harness.guard import Guard
from executor_harness.manifest import Refused, Verified, load, read_request
from executor_harness.outcome import ProcessExit, current, of_exception, of_interruption, place, success
from executor_harness.program import Program, run
from executor_harness.protocol import Request, Status, Stream
from executor_harness.recorder import Recorder
from executor_harness.report import Report, Ticket, belongs, encode, is_final, read_result
from executor_harness.results_table import append, row_of
from executor_harness.session import Session
from executor_harness.volumes import Volumes

_EXIT = os._exit  # the real one: while a program runs there is a softer one in its place
_APPEND_S = 120.0
_APPEND_STOPPED_S = (
    20.0  # after a time-out or cancel: the platform will not wait long, and the engine may be busy
)
_BACKSTOP_S = 5.0  # how much later than the guard the watcher acts


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
        secrets = redaction.secrets_of(os.environ)
        self._redactor = redaction.Redactor(secrets)
        self._session = Session(f"rlm {arguments.run_id}/{arguments.iter_n}/{arguments.attempt}")
        self._recorder = Recorder(root=root, volumes_root=self._volumes.root, secrets=secrets)
        self._aftermath = Aftermath()
        self._guard: Guard | None = None
        self._ticket: Ticket = {
            "run_id": arguments.run_id,
            "iter_n": arguments.iter_n,
            "attempt": arguments.attempt,
            "databricks_run_id": arguments.databricks_run_id,
            "request_sha256": arguments.request_sha256,
            "artifact_sha256": None,
            "output_dir": arguments.output_dir,
            "started": time.time(),
            "timeout_s": None,
        }

    def execute(self) -> int:
        """The whole execution. Returns the exit code."""
        earlier = read_result(self._volumes, self._result_path)
        if earlier is not None:
            return self._repeat(earlier)
        try:
            verified = load(self._arguments, self._volumes)
        except Refused as refused:
            return self._refuse(refused.error_type, str(refused), refused.request)
        return self._leave(self._run(verified))

    @property
    def _result_path(self) -> str:
        return f"{self._arguments.output_dir}/{protocol.RESULT_FILE}"

    # -- without a run -----------------------------------------------------------------------------

    def _repeat(self, earlier: dict[str, Any]) -> int:
        """This attempt was started before. A program is never run twice: give the row and the exit code
        again.
        """
        if earlier and not belongs(earlier, self._ticket):
            _say(
                f"{protocol.RESULT_CONFLICT}: {self._result_path} is the result of another request; "
                "nothing was run"
            )
            return protocol.EXIT_FAILED
        request: Request | None = None
        try:
            request = read_request(self._arguments, self._volumes)
        except Refused as refused:
            _say(str(refused))
        if not is_final(earlier, self._ticket):
            return self._refuse(
                protocol.PROCESS_DIED,
                f"an earlier start of this attempt left an unreadable {self._result_path}; "
                "nothing was run again",
                request,
            )
        _say(f"{self._result_path} is there already: the program is not run again")
        self._append(earlier, request)
        return self._leave(int(earlier["exit_code"]))

    def _refuse(self, error_type: str, message: str, request: Request | None) -> int:
        _say(f"{error_type}: {message}")
        folder = self._arguments.output_dir
        nothing = {
            "stdout": protocol.empty_stream(),
            "stderr": protocol.empty_stream(),
        }
        if not self._volumes.local(folder).is_dir():
            _say(f"{folder} does not exist, so no result is written")
            return self._leave(protocol.EXIT_FAILED)
        return self._leave(self._conclude(Report.failed(error_type, message), nothing, request))

    # -- the run -----------------------------------------------------------------------------------

    def _run(self, verified: Verified) -> int:
        request = verified.request
        limits = request.get("limits") or {}
        grace = float(limits.get("grace_s", protocol.DEFAULT_GRACE_S))
        timeout = float(request["timeout_s"])
        self._ticket["artifact_sha256"] = request["artifact"]["sha256"]
        self._ticket["timeout_s"] = timeout
        self._recorder.start(
            self._ticket,
            cap=int(limits.get("stdout_bytes", protocol.DEFAULT_STDOUT_BYTES)),
            deadline=timeout + 2 * grace + _BACKSTOP_S,
        )
        self._aftermath.remember(self._recorder.pid)
        rlm = Rlm(request, self._volumes, self._session.get, self._redactor)
        report = self._guarded(verified, rlm, timeout, grace)
        return self._report(report, rlm, request)

    def _guarded(self, verified: Verified, rlm: Rlm, timeout: float, grace: float) -> Report:
        """Run the program under its guard; the exits of the guard's own thread are in `_overrun`."""
        request = verified.request
        name = request["artifact"]["path"]
        codebase = request.get("codebase_dir")
        program = Program(
            source=verified.source,
            name=name,
            file=self._volumes.local(name),
            codebase=self._volumes.local(codebase) if codebase else None,
        )
        thread = threading.get_ident()
        leaving: list[ProcessExit] = []

        def overrun(reason: Status) -> None:
            where, trace = current(thread, name)
            report = of_interruption(reason, timeout, where, trace)
            if leaving:
                report = of_exception(leaving[0], name)
            _hard_exit(self._report(report, rlm, request, stuck=True))

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
        variables: protocol.Variables | None = None
        try:
            guard.arm()
            _run_to_a_good_end(lambda: run(program, rlm, self._session, leave), name)
            variables = rlm.vars.commit()  # under the guard: large values count against the program's time
        except BaseException as raised:  # noqa: BLE001 -- whatever a program raises becomes its result
            error = raised
        reason = guard.disarm()
        report = of_exception(leaving[0], name) if leaving else _outcome(error, reason, name, timeout)
        return replace(report, variables=variables) if report.status == protocol.SUCCESS else report

    def _report(self, report: Report, rlm: Rlm, request: Request, *, stuck: bool = False) -> int:
        """Close the streams, look at what the program left, and write it all down."""
        streams = self._recorder.stop()
        seconds = _APPEND_S if report.status in (protocol.SUCCESS, protocol.FAILED) else _APPEND_STOPPED_S
        closed = _within(seconds, lambda: close(rlm))
        said = reported(rlm)
        if not closed:
            said["log"].append(f"the answers of models could not be kept in their table within {seconds:g} s")
        if report.variables is None:
            said["log"] += _not_kept(rlm, request)
        if report.status != protocol.SUCCESS:
            said["spawned"] = []
            if self._session.used and not stuck:
                _within(_APPEND_STOPPED_S, rlm.vars.discard)
        if self._session.used and not stuck:
            said["log"] += self._aftermath.measure_tables(said["produced_tables"], self._session)
        said["log"] += self._aftermath.leftovers()
        return self._conclude(replace(report, **said), streams, request)

    def _conclude(self, report: Report, streams: dict[str, Stream], request: Request | None) -> int:
        result = report.result(self._ticket, streams=streams, finished=time.time(), redactor=self._redactor)
        code = report.exit_code
        try:
            self._volumes.put(self._result_path, encode(result))
        except OSError as error:
            _say(f"{self._result_path} could not be written: {error}")
            code = code or protocol.EXIT_FAILED
        if report.error_summary:
            _say(self._redactor.text(f"{report.status}: {report.error_summary}"))
        self._recorder.done()
        self._append(dict(result), request)
        return code

    def _append(self, result: dict[str, Any], request: Request | None) -> None:
        """Add the row. A failure is said and no more: the controller adds it from result.json."""
        note = "the row was not added ({}); the controller adds it from result.json"
        if request is None:
            _say(note.format("the manifest cannot be trusted to name the table"))
            return
        table, row = request["results_table"], row_of(result, protocol.canonical_json)
        said: list[str] = []

        def work() -> None:
            try:
                append(lambda text: self._session.fresh().sql(text).collect(), table, row, sleep=time.sleep)
            except BaseException as error:  # noqa: BLE001 -- said below; engines raise anything
                said.append(f"{table}: {type(error).__name__}: {str(error)[:500]}")

        seconds = _APPEND_S if result["status"] in (protocol.SUCCESS, protocol.FAILED) else _APPEND_STOPPED_S
        if not _within(seconds, work):
            said.append(f"{table}: no answer from the engine within {seconds:g} s")
        if said:
            _say(self._redactor.text(note.format(said[0])))

    def _leave(self, code: int) -> int:
        """End what the program left running. Returns only where a plain return really ends the job."""
        self._session.unguard()
        if not self._kernel:
            self._session.release()
        elif self._guard is not None:
            self._guard.restore()
        self._aftermath.kill_children()
        if not self._kernel and self._aftermath.keeps_alive():
            _hard_exit(code)
        return code


def _outcome(error: BaseException | None, reason: Status | None, name: str, timeout: float) -> Report:
    """What a program's end means: the guard's reason comes first, whatever was raised because of it."""
    if reason:
        where = place(error, name) if error else ""
        trace = of_exception(error, name).traceback if error else None
        return of_interruption(reason, timeout, where, trace)
    return success() if error is None else _described(error, name)


def _described(error: BaseException, name: str) -> Report:
    try:
        return of_exception(error, name)
    finally:
        # What the frames hold may be the very memory that ran out.
        trace = error.__traceback__
        error.__traceback__ = None
        del trace


def _run_to_a_good_end(work: Callable[[], None], name: str) -> None:
    """Run a program; raises unless it ended well, as it does by `sys.exit(0)` too."""
    try:
        work()
    except SystemExit as error:
        if of_exception(error, name).status != protocol.SUCCESS:
            raise


def _not_kept(rlm: Rlm, request: Request) -> list[str]:
    """What a program has tried to leave behind in vain."""
    base = request.get("variables")
    of = f"those of iteration {base['iter_n']}" if base else "none"
    changed = ", ".join(rlm.vars.changed())
    return [f"the variables are still {of}; changes to {changed} were not kept"] if changed else []


def _within(seconds: float, work: Callable[[], None]) -> bool:
    worker = threading.Thread(target=work, name="rlm-worker", daemon=True)
    worker.start()
    worker.join(seconds)
    return not worker.is_alive()


def _say(message: str) -> None:
    sys.stderr.write(f"rlm: {message}\n")


def _hard_exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # nobody reads it any more
    _EXIT(code)
