"""The arguments of every command. Each names the function that runs it, so that no other one is imported."""

from __future__ import annotations

import argparse
import logging
import os
from functools import partial
from typing import Any

from databricks_rlm_agent.errors import ConfigError

_FORMATS = ("text", "json")


def add_log_options(command: argparse.ArgumentParser) -> None:
    """The options that every command has."""
    command.add_argument("--verbose", action="store_true", help="log what happens on standard error")
    command.add_argument(
        "--log-format",
        choices=_FORMATS,
        help="log as text or as one JSON object per line (default: RLM_LOG_FORMAT, then text)",
    )


def set_up_logs(options: argparse.Namespace, *, log_format: str, level: int) -> None:
    """Log as the options or the environment say, or else as given; raise ConfigError for an unknown format.

    ``options.log_format`` is then what was chosen. Keys in the environment are hidden from all lines.
    """
    from databricks_rlm_agent import logs
    from databricks_rlm_agent.models import VARIABLES
    from databricks_rlm_agent.secrets import Secret

    keys = [name for key, name in VARIABLES.items() if key != "databricks-host"]
    logs.hide(*(Secret(os.environ[name]) for name in keys if os.environ.get(name)))
    chosen = getattr(options, "log_format", None) or os.environ.get("RLM_LOG_FORMAT") or log_format
    options.log_format = chosen if chosen in _FORMATS else "text"
    verbose = options.verbose
    logs.configure(level=logging.INFO if verbose else level, format=options.log_format, vendors=verbose)
    if chosen not in _FORMATS:
        raise ConfigError(f"RLM_LOG_FORMAT is {chosen!r}.", fix=f"Use {' or '.join(_FORMATS)}.")


# As in runs.budget.Budget, which has the defaults.
BUDGET = (
    ("max_iterations", int, "N", "iterations (30)"),
    ("max_attempts", int, "N", "attempts of an iteration that the platform lost (3)"),
    ("max_model_calls", int, "N", "calls of models (300)"),
    ("max_sub_calls", int, "N", "model calls of the programs (10,000)"),
    ("max_tokens", int, "N", "tokens, in and out together (5,000,000)"),
    ("max_cost_usd", float, "USD", "cost of the models, by RLM_MODEL_PRICES (no limit)"),
    ("max_executor_s", float, "S", "seconds of job runs, all together (a day)"),
    ("max_wall_s", float, "S", "seconds from now on (a week)"),
    ("max_depth", int, "N", "levels of child runs below this one (2)"),
    ("max_children", int, "N", "child runs, all together (32)"),
)


def parser(version: str) -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="rlm-agent",
        description="An autonomous, durable data agent for Databricks, and a local workspace to try it on.",
        epilog="Start with: rlm-agent demo",
    )
    top.add_argument("--version", action="version", version=f"rlm-agent {version}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _demo(commands)
    _work(commands)
    _inspect(commands)
    _operate(commands)
    _sql(commands)
    _workspace(commands)
    return top


def _add(
    commands: Any,
    name: str,
    path: str,
    help_text: str,
    *,
    run: bool = False,
    model: bool = False,
    place: bool = False,
    json: bool = True,
) -> argparse.ArgumentParser:
    """Add a command, with the arguments that several have: the id of a ``run``, a ``model``, a workspace."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=help_text)
    command.set_defaults(command_path=path)
    if run:
        command.add_argument("run_id", metavar="RUN")
    if model:
        command.add_argument(
            "--model",
            help="gemini-…, databricks/ENDPOINT, openai/MODEL, anthropic/MODEL, a chain with commas, "
            "scripted:FILE or auto (default: RLM_MODEL, then auto)",
        )
    if place:
        where = command.add_argument_group(
            "workspace (default: DATABRICKS_HOST and the SDK's own configuration)"
        )
        where.add_argument("--root", metavar="DIR", help="use the local workspace in DIR, started if need be")
        where.add_argument("--profile", help="profile of ~/.databrickscfg")
    if json:
        command.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_log_options(command)
    return command


def _task(command: argparse.ArgumentParser) -> None:
    command.add_argument("task", metavar="TASK", help="what is to be done, in your words")
    command.add_argument(
        "--run-id", help="id of the run (default: a new one); an id that exists is not run twice"
    )
    limits = command.add_argument_group("budget (the run ends FAILED when one of these is used up)")
    for name, kind, metavar, help_text in BUDGET:
        limits.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=help_text)
    command.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a table (c.s.t), a file or folder (/Volumes/…), a file of this machine (@FILE) or a text",
    )
    command.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="CHECK",
        help="what must hold before an answer is accepted: 'sql: SELECT …' (true), "
        "'sql: SELECT … => VALUE', 'table: c.s.t columns=a,b rows>=1', 'file: /Volumes/… bytes>=10'",
    )


def _demo(commands: Any) -> None:
    help_text = "Answer a question about real flights, on this machine alone."
    command = _add(commands, "demo", "demo:demo", help_text, model=True)
    command.set_defaults(creates=True)
    command.add_argument(
        "--root", metavar="DIR", help="keep the workspace in DIR (default: a temporary folder)"
    )


def _work(commands: Any) -> None:
    add = partial(_add, commands, place=True)
    _task(add("run", "work:run", "Give a task and stay until it is done.", model=True))
    add("follow", "work:follow", "Stay with a run until it is done; carry it out.", run=True, model=True)
    _task(add("submit", "work:submit", "Give a task and leave; a controller carries it out.", model=True))
    answer = add("answer", "work:answer", "Answer the question that a run waits for.", run=True)
    answer.add_argument("text", metavar="TEXT")
    cancel = add("cancel", "work:cancel", "End a run and its job; what is done already is kept.", run=True)
    cancel.add_argument("--reason", default="It was cancelled by a person.", help="kept with the run")
    cancel.add_argument("--wait", type=float, default=120.0, metavar="S", help="wait at most so long (120)")
    cancel.add_argument("--no-wait", action="store_true", help="leave it to the running controllers")


def _inspect(commands: Any) -> None:
    add = partial(_add, commands, place=True)
    status = add("status", "inspect:status", "List the newest runs, or show the state of one.")
    status.add_argument("run_id", metavar="RUN", nargs="?")
    status.add_argument("--limit", type=int, default=20, help="how many runs to list (20)")
    text = "Show all of one run: iterations, results, events, capsule."
    add("show", "inspect:show", text, run=True)
    logs = add("logs", "inspect:logs", "Print what a run's programs wrote.", run=True)
    logs.add_argument("--iteration", type=int, help="only this iteration (default: the newest)")
    logs.add_argument("--stderr", action="store_true", help="standard error in place of standard output")


def _operate(commands: Any) -> None:
    add = partial(_add, commands, place=True)
    init = add("init", "operate:init", "Create, migrate or repair schema, Volume, tables, harness.")
    init.set_defaults(creates=True)
    add("doctor", "operate:doctor", "Check everything that a run needs.", model=True)
    add("tick", "operate:tick", "One pass over all runs that have something to do.", model=True)
    loop = add("orchestrate", "operate:orchestrate", "Tick until stopped.", model=True)
    mode = loop.add_mutually_exclusive_group()
    mode.add_argument("--continuous", action="store_true", help="until stopped (default)")
    mode.add_argument("--once", action="store_true", help="one tick")
    mode.add_argument("--until-idle", action="store_true", help="until no run has anything to do")
    mode.add_argument("--max-ticks", type=int, metavar="N", help="at most N ticks")
    secrets = commands.add_parser("secrets", help="Check the secrets.").add_subparsers(
        required=True, metavar="ACTION"
    )
    text = "Say which secrets are found, and where; never their values."
    _add(secrets, "check", "operate:secrets_check", text, model=True, place=True)


def _sql(commands: Any) -> None:
    actions = commands.add_parser("sql", help="Run directories of SQL.").add_subparsers(
        required=True, metavar="ACTION"
    )
    plan = _add(actions, "plan", "sql.run:plan", "Show in what order a directory of SQL would run, and why.")
    _directory(plan)
    plan.add_argument(
        "--format",
        choices=["table", "json", "mermaid", "dot"],
        default="table",
        help="a table (default), JSON, or a picture for Mermaid or Graphviz",
    )
    run = _add(
        actions, "run", "sql.run:run", "Run a directory of SQL on a warehouse, loops until they converge."
    )
    _directory(run)
    _warehouse(run)
    _running(run)


def _warehouse(command: argparse.ArgumentParser) -> None:
    where = command.add_argument_group(
        "warehouse (default: RLM_WAREHOUSE_HTTP_PATH, the SDK's configuration)"
    )
    where.add_argument("--root", metavar="DIR", help="use the local workspace in DIR, started if need be")
    where.add_argument("--server-hostname", metavar="HOST", help="the workspace's host")
    where.add_argument("--http-path", metavar="PATH", help="/sql/1.0/warehouses/<id>")
    where.add_argument(
        "--auth-type",
        choices=["pat", "oauth", "profile"],
        help="a token, a browser, or what the SDK finds (machine-to-machine too; default, "
        "but pat with --access-token)",
    )
    where.add_argument("--access-token", metavar="TOKEN", help="better: DATABRICKS_TOKEN, or be asked for it")
    where.add_argument("--profile", help="profile of ~/.databrickscfg")


def _running(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dry-run", action="store_true", help="check the warehouse, show the plan, run nothing"
    )
    command.add_argument("--optimize-tables", action="store_true", help="OPTIMIZE what a step has made")
    command.add_argument(
        "--max-iterations", type=_positive_int, default=30, metavar="N", help="of a loop (default 30)"
    )
    command.add_argument(
        "--max-parallel", type=_positive_int, default=4, metavar="N", help="steps at once (default 4)"
    )
    command.add_argument(
        "--on-error",
        choices=["ask", "stop", "continue"],
        default="ask",
        help="when a step has failed: ask (default; off a terminal it stops), stop, or "
        "continue with what does not need it",
    )
    command.add_argument(
        "--progress",
        choices=["live", "lines", "json", "none"],
        help="a live display (default on a terminal), plain lines (default elsewhere), an event per line as "
        "JSON on standard error, or none (default with --json)",
    )
    command.add_argument(
        "--statements", action="store_true", help="a line for each statement: place, rows affected, time"
    )
    command.add_argument("--page", metavar="FILE", help="write the report as a page, one HTML file")
    command.add_argument("--resume", action="store_true", help="go on with the last run that did not succeed")
    command.add_argument("--resume-run", metavar="RUN", help="go on with this one")


def _positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _directory(command: argparse.ArgumentParser) -> None:
    command.add_argument("directory", metavar="DIR", help="the directory that has the .sql files")
    command.add_argument("--catalog", help="what names without a catalog mean")
    command.add_argument("--schema", help="what names without a schema mean")
    command.add_argument(
        "--var", action="append", default=[], metavar="NAME=VALUE", help="what {NAME} means in the files"
    )
    steps = command.add_argument_group("steps (names as sql plan shows them, files, or patterns)")
    steps.add_argument("--only", action="append", default=[], metavar="STEP", help="only these")
    steps.add_argument("--from", dest="start", metavar="STEP", help="this one and all after it")
    steps.add_argument("--skip", action="append", default=[], metavar="STEP", help="all but these")


def _workspace(commands: Any) -> None:
    actions = commands.add_parser("workspace", help="The local workspace.").add_subparsers(
        required=True, metavar="ACTION"
    )
    path, help_text = "workspace:start", "Serve a local workspace on loopback until interrupted."
    try:
        from local_workspace.options import add_arguments
    except ModuleNotFoundError:
        # The command itself says what to install, whatever follows it: here nothing is an option.
        start = actions.add_parser("start", help=help_text, prefix_chars="\0", add_help=False)
        start.add_argument("arguments", nargs="*")
        start.set_defaults(command_path=path, verbose=False, debug=False)
        return
    start = _add(actions, "start", path, help_text, json=False)
    add_arguments(start)
    start.add_argument("--json", action="store_true", help="print one JSON document when ready")
