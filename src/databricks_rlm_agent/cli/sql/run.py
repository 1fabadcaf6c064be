"""``sql plan`` and ``sql run``: plan or run a directory of SQL on a warehouse."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from databricks_rlm_agent.cli.sql.lines import report_lines
from databricks_rlm_agent.cli.sql.screen import PlainScreen, printable, put, screen
from databricks_rlm_agent.cli.workspace import say, workspace_in
from databricks_rlm_agent.errors import ConfigError, UsageError
from databricks_rlm_agent.sqlflow.handover import read_directory
from databricks_rlm_agent.sqlflow.model import Plan, Step
from databricks_rlm_agent.sqlflow.plan.order import Selection, select
from databricks_rlm_agent.sqlflow.plan.plan import plan_of
from databricks_rlm_agent.sqlflow.report.page import as_page
from databricks_rlm_agent.sqlflow.report.plans import as_dot, as_mermaid, as_table
from databricks_rlm_agent.sqlflow.run.events import problem_lines
from databricks_rlm_agent.sqlflow.run.outcome import StepOutcome
from databricks_rlm_agent.sqlflow.run.runner import Decide, FailureDecision, Options, Runner, go_on, stop
from databricks_rlm_agent.sqlflow.run.workflow import new_id, prepared, verify_place
from databricks_rlm_agent.sqltext.split import parse_variables

if TYPE_CHECKING:
    from databricks_rlm_agent.databricks.sql import WarehouseEngine
    from databricks_rlm_agent.databricks.workspace import Workspace


def check_page(file: str) -> None:
    """Raise UsageError if no page can be written there. Called before the run, not after it."""
    path = Path(file)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(
            "No page can be written there.",
            where=f"--page {file}",
            fix="Name a file in a folder that exists.",
        )


def write_page(file: str, report: Mapping[str, Any]) -> str:
    """Write the page, whole or not at all; return a sentence about it. A failure does not fail the run."""
    path = Path(file)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(as_page(report), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        return f"The page could not be written: {error}."
    return f"The report as a page: {path}"


_FORMATS = {"table": as_table, "mermaid": as_mermaid, "dot": as_dot}


def plan(options: argparse.Namespace) -> int:
    """Print the plan of a directory."""
    planned = selected_plan(options)
    if options.json or options.format == "json":
        print(json.dumps(planned.to_dict(), ensure_ascii=False), flush=True)
    else:
        print(_FORMATS[options.format](planned), flush=True)
    return 0


def selected_plan(options: argparse.Namespace) -> Plan:
    """Return the plan of ``DIR`` with the variables and the steps that the options choose."""
    source = read_directory(
        Path(options.directory),
        variables=parse_variables(options.var),
        catalog=options.catalog,
        schema=options.schema,
    )
    selection = Selection(only=tuple(options.only), start=options.start, skip=tuple(options.skip))
    return select(plan_of(source), selection)


_HELP = (
    "r: run the same text again. c: go on with what does not need it. "
    "s: start nothing more; correct the file, then run with --resume."
)
_ANSWERS = {"r": FailureDecision.RETRY, "c": FailureDecision.CONTINUE, "s": FailureDecision.STOP}


class NotAskedError(Exception):
    """Raised by a signal handler while a person is asked: the question does not matter any more."""


class Asker:
    """Decides by asking on the terminal. ``open`` while it waits for an answer.

    ``problem_shown``: the screen has shown the problem already.
    """

    def __init__(self, screen: PlainScreen, *, problem_shown: bool) -> None:
        self._screen, self._problem_shown = screen, problem_shown
        self.open = False

    def __call__(self, step: Step, outcome: StepOutcome) -> FailureDecision:
        """Ask for a decision; return STOP if the input ends or the run is interrupted."""
        with self._screen.paused():
            if outcome.problem is not None and not self._problem_shown:
                say(printable(f"✗ {step.id}\n{problem_lines(outcome.problem)}"))
            try:
                self.open = True
                return self._ask(step)
            except NotAskedError:
                return FailureDecision.STOP
            finally:
                self.open = False

    def _ask(self, step: Step) -> FailureDecision:
        while True:
            sys.stderr.write(printable(f"{step.id} has failed: [r]etry, [c]ontinue, [s]top? "))
            sys.stderr.flush()
            line = sys.stdin.readline()
            if not line:
                say("")
                return FailureDecision.STOP
            if decision := _ANSWERS.get(line.strip().lower()[:1]):
                return decision
            say(_HELP)


def cannot_ask(_step: Step, _outcome: StepOutcome) -> FailureDecision:
    """Stop, and say which options to pass."""
    say("Nobody can be asked here: stopping. Pass --on-error stop or --on-error continue.")
    return FailureDecision.STOP


INTERRUPTED = 130


def run(options: argparse.Namespace) -> int:
    """Run the plan of a directory; the exit code says how it ended."""
    options.catalog = options.catalog or os.environ.get("ADK_DELTA_CATALOG") or "main"
    options.schema = options.schema or os.environ.get("ADK_DELTA_SCHEMA") or "default"
    planned = selected_plan(options)  # before anybody is asked for a token
    if options.page:
        check_page(options.page)
    place = (options.catalog, options.schema)
    with _terminating(), _warehouse(options) as (workspace, http_path):
        from databricks_rlm_agent.databricks.sql import WarehouseEngine

        verify_place(WarehouseEngine(workspace, http_path=http_path), place, new_id)
        if options.dry_run:
            document = json.dumps({"dry_run": True, **planned.to_dict()})
            print(document if options.json else as_table(planned), flush=True)
            return 0
        engine = WarehouseEngine(workspace, http_path=http_path, catalog=place[0], schema=place[1])
        return _run(options, planned, engine, place)


def _run(options: argparse.Namespace, planned: Plan, engine: WarehouseEngine, place: tuple[str, str]) -> int:
    settings = Options(
        max_parallel=options.max_parallel,
        max_iterations=options.max_iterations,
        optimize=options.optimize_tables,
        resume=options.resume or options.resume_run is not None,
        resume_id=options.resume_run,
        partial=bool(options.only or options.start or options.skip),
    )
    with screen(
        planned, how=options.progress, statements=options.statements, document=options.json
    ) as display:
        decide = _decide(options, display)
        with (
            prepared(
                planned,
                engine,
                workflow=planned.name or Path(options.directory).resolve().name,
                place=place,
                options=settings,
                observer=display,
                decide=decide,
            ) as runner,
            _interrupting(runner, display, decide),
        ):
            report = runner.run()
    page = [write_page(options.page, report.to_dict())] if options.page else []
    if options.json:
        put(json.dumps(report.to_dict(), default=str), sys.stdout)
        for line in page if options.progress != "json" else ():
            say(line)
    else:
        display.write([*report_lines(report), *page])
    return report.exit_code


def _decide(options: argparse.Namespace, display: PlainScreen) -> Decide:
    if options.on_error == "continue":
        return go_on
    if options.on_error == "stop":
        return stop
    if not sys.stdin.isatty() or options.json:
        return cannot_ask
    shows_problems = sys.stdout.isatty() and options.progress in {None, "live", "lines"}
    return Asker(display, problem_shown=shows_problems)


@contextmanager
def _warehouse(options: argparse.Namespace) -> Iterator[tuple[Workspace, str]]:
    """Provide the workspace and the HTTP path of the warehouse that the options name."""
    from databricks_rlm_agent.databricks.workspace import Workspace

    with ExitStack() as stack:
        if options.root:
            info = stack.enter_context(workspace_in(options.root, catalog=options.catalog))
            yield Workspace(host=info.host, token=info.token), info.http_path
            return
        http_path = options.http_path or os.environ.get("RLM_WAREHOUSE_HTTP_PATH")
        if not http_path:
            raise ConfigError(
                "No SQL warehouse is named.",
                where="--http-path",
                fix="Give --http-path /sql/1.0/warehouses/<id> (its connection details in the workspace).",
            )
        yield _workspace(options, Workspace), http_path


def _workspace(options: argparse.Namespace, make: type[Workspace]) -> Workspace:
    host = options.server_hostname
    if host and "://" not in host:
        host = f"{'http' if _is_loopback(host) else 'https'}://{host}"
    if options.auth_type == "pat" or (options.auth_type is None and options.access_token):
        token = options.access_token or os.environ.get("DATABRICKS_TOKEN") or _asked_token()
        return make(host=host, token=token)
    if options.auth_type == "oauth":
        return make(host=host, auth_type="external-browser")
    return make(profile=options.profile, host=host)


def _is_loopback(host: str) -> bool:
    """Return whether a host without a scheme is this machine, where servers have no TLS."""
    return host.partition(":")[0] in {"localhost", "127.0.0.1"}


def _asked_token() -> str:
    if not sys.stdin.isatty():
        raise ConfigError(
            "No access token is given, and nobody can be asked for it here.",
            where="--auth-type pat",
            fix="Set DATABRICKS_TOKEN, or pass --auth-type oauth or profile.",
        )
    token = getpass.getpass("Access token: ")
    if not token:
        raise ConfigError("No access token was given.", where="--auth-type pat", fix="Give one.")
    return token


@contextmanager
def _terminating() -> Iterator[None]:
    """Let SIGTERM before and after the run itself end it as Ctrl-C does, so that everything is closed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _interrupting(runner: Runner, display: PlainScreen, decide: Decide) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP interrupt the run; a second one ends the process at once."""
    interrupted = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            display.leave()
            os._exit(INTERRUPTED)
        interrupted = True
        runner.interrupt()
        display.interrupted()
        if isinstance(decide, Asker) and decide.open:
            raise NotAskedError

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # and nohup, which ignores it, is left alone
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
