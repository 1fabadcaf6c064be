"""The workspace that a command works on, and ``workspace start``, which serves a local one."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from databricks_rlm_agent.errors import ConfigError, NotFound, RlmError, UsageError

if TYPE_CHECKING:
    from local_workspace import WorkspaceInfo

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
                workspace_in(
                    options.root,
                    catalog=environ.get("ADK_DELTA_CATALOG"),
                    model=model,
                    create=getattr(options, "creates", False),
                )
            )
            host, token = info.host, info.token
            if info.ca_file:  # of a workspace with TLS: for requests, and for OpenSSL's users
                os.environ |= dict.fromkeys(("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), info.ca_file)
            environ["RLM_WAREHOUSE_HTTP_PATH"] = info.http_path
        settings = from_environment(
            environ, model=getattr(options, "model", None), profile=getattr(options, "profile", None)
        )
        app = App(settings=settings, environ=environ, host=host, token=token)
        stack.callback(app.close)
        try:
            yield app
        except NotFound:
            if getattr(options, "creates", False) or app.has_tables():
                raise  # a command that makes them knows better what is missing
            names = settings.namespace
            raise NotFound(
                f"There are no tables of the agent in {names.catalog}.{names.schema}.",
                where=app.workspace.host,
                fix="Check ADK_DELTA_CATALOG and ADK_DELTA_SCHEMA, or make the tables: "
                + command_line(options, "init"),
            ) from None


@contextmanager
def workspace_in(
    root: str, *, catalog: str | None = None, model: str | None = None, create: bool = False
) -> Iterator[WorkspaceInfo]:
    """The workspace that runs in a folder, or one that is started there for the time of the command.

    One that is started serves the sub-model of a scripted `model`; one that runs keeps what it was given.
    Raise UsageError where the folder holds none, unless ``create`` allows to make one: a mistyped name must
    not become a workspace.
    """
    folder = Path(root).absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{root} is not a folder.", fix="Name a folder for --root.")
    with local_workspace_installed():
        from local_workspace import WorkspaceError, WorkspaceOptions, running, spawn
        from local_workspace.layout import Layout
    if not create and not Layout(root=folder).private.is_dir():
        raise UsageError(
            f"There is no local workspace in {root}.",
            fix=f"Check --root, or make one: {shlex.join(['rlm-agent', 'init', '--root', root])}",
        )
    info = running(folder)
    if info is not None:
        yield info
        return
    catalogs = tuple(dict.fromkeys(("main", catalog or "main")))
    try:
        started = spawn(WorkspaceOptions(root=folder, catalogs=catalogs, model=_scripted(model)))
    except (OSError, WorkspaceError) as error:
        raise RlmError(f"The local workspace did not start: {error}.", where=str(folder)) from None
    try:
        yield started.info
    finally:
        started.stop()


@contextmanager
def local_workspace_installed() -> Iterator[None]:
    """Raise ConfigError, which says what to install, where an import of the local workspace fails.

    It is a distribution of its own.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The local workspace is not installed: there is no module {error.name!r}.",
            where="the distribution rlm-local-workspace",
            fix="pip install 'rlm-local-workspace[sail]', or in a clone of the repository "
            "pip install './localworkspace[sail]'.",
        ) from None


def _scripted(model: str | None) -> str | None:
    """The model that a local workspace is started with: a script, if it can be read.

    A script that cannot is refused when the planner is made, with the place and the format; without this the
    command would report a workspace that did not start.
    """
    if model is None or not model.startswith("scripted:"):
        return None
    from databricks_rlm_agent.planner.script import Script

    Script.read(model.removeprefix("scripted:"))
    return _absolute(model)


def resolved_model(app: App, setting: str | None) -> str:
    """The model that was asked for, in a form that means the same to every controller on this machine."""
    from databricks_rlm_agent.models import parse_models
    from databricks_rlm_agent.settings import choose_model

    model = choose_model(setting or app.settings.model, app.environ)
    parse_models(model)
    return _absolute(model) if model.startswith("scripted:") else model


def _absolute(script: str) -> str:
    return f"scripted:{Path(script.removeprefix('scripted:')).absolute()}"


def command_line(options: argparse.Namespace, *words: str) -> str:
    """Return a command on the same workspace, as it can be pasted into a shell."""
    place = [
        part
        for name in ("root", "profile")
        if getattr(options, name, None)
        for part in (f"--{name}", getattr(options, name))
    ]
    return shlex.join(["rlm-agent", *words, *place])


def say(text: str) -> None:
    """Print a message for the person on standard error: standard output is the command's own."""
    print(text, file=sys.stderr, flush=True)


def start(arguments: argparse.Namespace) -> int:
    """Serve until interrupted; print how to reach it when ready."""
    with local_workspace_installed():
        from local_workspace import WorkspaceError
        from local_workspace.server import run
    try:
        return run(arguments)
    except ValueError as error:
        raise UsageError(f"{error}.") from None
    except (OSError, WorkspaceError) as error:
        raise RlmError(f"The local workspace did not start: {error}", where=str(arguments.root)) from None
