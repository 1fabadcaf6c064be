"""The workspace that a command works on, and ``workspace start``, which serves a local one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from local_workspace.options import options_from
from local_workspace.problem import WorkspaceError

from databricks_rlm_agent.errors import ConfigError, RlmError, UsageError

if TYPE_CHECKING:
    from local_workspace.info import WorkspaceInfo

    from databricks_rlm_agent.app import App


@contextmanager
def app_at(options: argparse.Namespace) -> Iterator[App]:
    """The composition root for a command. A local workspace that had to be started ends with the command."""
    from databricks_rlm_agent.app import App  # here: not every command that works on a workspace needs it
    from databricks_rlm_agent.settings import from_environment

    environ = dict(os.environ)
    with ExitStack() as stack:
        host = token = None
        if getattr(options, "root", None):
            model = getattr(options, "model", None) or environ.get("RLM_MODEL")
            info = stack.enter_context(
                local_workspace(options.root, catalog=environ.get("ADK_DELTA_CATALOG"), model=model)
            )
            host, token = info.host, info.token
            environ["RLM_WAREHOUSE_HTTP_PATH"] = info.http_path
        settings = from_environment(
            environ, model=getattr(options, "model", None), profile=getattr(options, "profile", None)
        )
        app = App(settings=settings, environ=environ, host=host, token=token)
        stack.callback(app.close)
        yield app


@contextmanager
def local_workspace(
    root: str, *, catalog: str | None = None, model: str | None = None
) -> Iterator[WorkspaceInfo]:
    """The workspace that runs in a folder, or one that is started there for the time of the command.

    One that is started serves the sub-model of a scripted `model`; one that runs keeps what it was given.
    """
    folder = Path(root).absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{root} is not a folder.", fix="Name a folder for --root.")
    try:
        from local_workspace.client import running, spawn
        from local_workspace.options import WorkspaceOptions
        from local_workspace.problem import WorkspaceError
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The local workspace needs a package that is not installed: {error.name}.",
            fix="pip install 'databricks-rlm-agent[local]'",
        ) from None
    info = running(folder)
    if info is not None:
        yield info
        return
    catalogs = tuple(dict.fromkeys(("main", catalog or "main")))
    try:
        started = spawn(WorkspaceOptions(root=folder, catalogs=catalogs, model=_stub(model)))
    except (OSError, WorkspaceError) as error:
        raise RlmError(f"The local workspace did not start: {error}.", where=str(folder)) from None
    try:
        yield started.info
    finally:
        started.stop()


def _stub(model: str | None) -> str | None:
    """The model that a local workspace is started with: a script, if it can be read.

    A script that cannot is refused when the planner is made, with the place and the format; without this the
    command would report a workspace that did not start.
    """
    if model is None or not model.startswith("scripted:"):
        return None
    from databricks_rlm_agent.planner.script import Script

    file = str(Path(model.removeprefix("scripted:")).absolute())
    Script.read(file)
    return f"scripted:{file}"


def say(text: str) -> None:
    """Tell the person, on standard error, so that standard output stays the command's own."""
    print(text, file=sys.stderr, flush=True)


def start(arguments: argparse.Namespace) -> int:
    """Serve until interrupted; print how to reach it when ready."""
    try:
        from local_workspace.__main__ import follow_parent, print_json, print_text
        from local_workspace.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The local workspace needs a package that is not installed: {error.name}.",
            fix="pip install 'databricks-rlm-agent[local]'",
        ) from None
    try:
        options = options_from(arguments)
    except ValueError as error:
        raise UsageError(f"{error}.") from None
    if arguments.exit_with_parent:
        follow_parent()
    try:
        serve(options, print_json if arguments.json else print_text)
    except (OSError, WorkspaceError) as error:
        raise RlmError(f"The local workspace did not start: {error}", where=str(arguments.root)) from None
    return 0
