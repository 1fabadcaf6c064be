"""The command `local-workspace`, also as `python -m local_workspace`: serve a workspace until interrupted."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from local_workspace import threads
from local_workspace.errors import WorkspaceError
from local_workspace.options import (
    WorkspaceInfo,
    add_arguments,
    clean_environment,
    is_clean,
    options_from,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, serve, return the exit code: 0 after a signal, 2 when the workspace cannot start."""
    parser = argparse.ArgumentParser(
        prog="local-workspace",
        description="Serve a Databricks workspace of your own on 127.0.0.1 until interrupted.",
    )
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON when ready")
    try:
        return run(parser.parse_args(arguments))
    except (WorkspaceError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command's output
        return 2


def run(namespace: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, then return 0. `namespace`: the options of `add_arguments`, and `json`.

    The program is started anew without the keys of its environment: /proc would show them to every job.

    Raises ValueError for a malformed option, WorkspaceError when the workspace cannot start.
    """
    from local_workspace.server import serve

    options = options_from(namespace)
    if not is_clean(os.environ):
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(command[0], command, clean_environment(os.environ))  # noqa: S606 - this very program
    if namespace.exit_with_parent:
        _follow_parent()
    serve(options, _print_json if namespace.json else _print_text)
    return 0


def _print_json(info: WorkspaceInfo) -> None:
    print(info.to_json(), flush=True)  # noqa: T201 - a command's output


def _print_text(info: WorkspaceInfo) -> None:
    lines = [
        f"Local workspace at {info.root}",
        f"  DATABRICKS_HOST={info.host}",
        f"  DATABRICKS_TOKEN={info.token}",
        *([f"  REQUESTS_CA_BUNDLE={info.ca_file}"] if info.ca_file else []),
        f"  RLM_WAREHOUSE_HTTP_PATH={info.http_path}",
        "Ctrl+C stops it.",
    ]
    print("\n".join(lines), flush=True)  # noqa: T201 - a command's output


def _follow_parent() -> None:
    """Stop this process when its standard input closes, as it does when whoever started it dies."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threads.begin("follow-parent", wait)


if __name__ == "__main__":
    sys.exit(main())
