"""``sql run``: run a directory of SQL on a warehouse."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from databricks_rlm_agent.cli.place import local_workspace, say
from databricks_rlm_agent.cli.sql.asking import Asker, NotAskedError, cannot_ask
from databricks_rlm_agent.cli.sql.page import check_page, write_page
from databricks_rlm_agent.cli.sql.plan import planned_for
from databricks_rlm_agent.cli.sql.report import report_lines
from databricks_rlm_agent.cli.sql.screen import Screen, put, screen
from databricks_rlm_agent.domain.workflow.pictures.plans import as_table
from databricks_rlm_agent.errors import ConfigError
from databricks_rlm_agent.sqlflow.library import new_id, prepared
from databricks_rlm_agent.sqlflow.preflight import verify
from databricks_rlm_agent.sqlflow.runner import Decide, Options, Runner, go_on, stop

if TYPE_CHECKING:
    from databricks_rlm_agent.domain.workflow.model import Plan
    from databricks_rlm_agent.remote.sqlsessions import WarehouseEngine
    from databricks_rlm_agent.remote.workspace import Workspace

INTERRUPTED = 130


def run(options: argparse.Namespace) -> int:
    """Run the plan of a directory; the exit code says how it ended."""
    options.catalog = options.catalog or os.environ.get("ADK_DELTA_CATALOG") or "main"
    options.schema = options.schema or os.environ.get("ADK_DELTA_SCHEMA") or "default"
    planned = planned_for(options)  # before anybody is asked for a token
    if options.page:
        check_page(options.page)
    place = (options.catalog, options.schema)
    with _terminating(), _warehouse(options) as (workspace, http_path):
        from databricks_rlm_agent.remote.sqlsessions import WarehouseEngine

        verify(WarehouseEngine(workspace, http_path=http_path), place, new_id)
        if options.dry_run:
            said = json.dumps({"dry_run": True, **planned.to_dict()}) if options.json else as_table(planned)
            print(said, flush=True)
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
    with screen(planned, how=options.progress, statements=options.statements, document=options.json) as shown:
        decide = _decide(options, shown)
        with (
            prepared(
                planned,
                engine,
                workflow=planned.name or Path(options.directory).resolve().name,
                place=place,
                options=settings,
                observer=shown,
                decide=decide,
            ) as runner,
            _interrupting(runner, shown, decide),
        ):
            report = runner.run()
    told = [write_page(options.page, report.to_dict())] if options.page else []
    if options.json:
        put(json.dumps(report.to_dict(), default=str), sys.stdout)
        for line in told if options.progress != "json" else ():
            say(line)
    else:
        shown.tell([*report_lines(report), *told])
    return report.exit_code


def _decide(options: argparse.Namespace, shown: Screen) -> Decide:
    if options.on_error == "continue":
        return go_on
    if options.on_error == "stop":
        return stop
    if not sys.stdin.isatty() or options.json:
        return cannot_ask
    return Asker(shown, shown=sys.stdout.isatty() and options.progress in {None, "live", "lines"})


@contextmanager
def _warehouse(options: argparse.Namespace) -> Iterator[tuple[Workspace, str]]:
    """The workspace and the HTTP path of the warehouse that the options name."""
    from databricks_rlm_agent.remote.workspace import Workspace

    with ExitStack() as stack:
        if options.root:
            info = stack.enter_context(local_workspace(options.root, catalog=options.catalog))
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
    """Whether a host without a scheme is this machine, where nothing speaks TLS."""
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
    """SIGTERM ends what comes before and after the run itself as Ctrl-C does: things are closed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _interrupting(runner: Runner, shown: Screen, decide: Decide) -> Iterator[None]:
    """SIGINT, SIGTERM and the end of the terminal cancel what runs; a second one ends the process at once."""
    asked: list[bool] = []

    def ask(_number: int, _frame: FrameType | None) -> None:
        if asked:
            shown.leave()
            os._exit(INTERRUPTED)
        asked.append(True)
        runner.interrupt()
        shown.interrupted()
        if isinstance(decide, Asker) and decide.open:
            raise NotAskedError

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # and nohup, which ignores it, is left alone
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
