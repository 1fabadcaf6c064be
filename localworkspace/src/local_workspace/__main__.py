"""`python -m local_workspace`: serve a local workspace in the foreground."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence

from local_workspace.options import add_arguments, options_from
from local_workspace.problem import WorkspaceError
from local_workspace.server import WorkspaceInfo, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, serve, return the exit code: 0 after a signal, 2 when the workspace cannot start."""
    parser = argparse.ArgumentParser(prog="local_workspace", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON when ready")
    namespace = parser.parse_args(arguments)
    try:
        options = options_from(namespace)
        if namespace.exit_with_parent:
            follow_parent()
        serve(options, print_json if namespace.json else print_text)
    except (WorkspaceError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command's output
        return 2
    return 0


def print_json(info: WorkspaceInfo) -> None:
    """One line of JSON, at once."""
    print(info.to_json(), flush=True)  # noqa: T201 - a command's output


def print_text(info: WorkspaceInfo) -> None:
    """What a person needs to connect."""
    lines = [
        f"Local workspace at {info.root}",
        f"  DATABRICKS_HOST={info.host}",
        f"  DATABRICKS_TOKEN={info.token}",
        f"  RLM_WAREHOUSE_HTTP_PATH={info.http_path}",
        "Ctrl+C stops it.",
    ]
    print("\n".join(lines), flush=True)  # noqa: T201 - a command's output


def follow_parent() -> None:
    """Stop this process when its standard input closes, as it does when whoever started it dies."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
