"""The command `local-workspace`, also as `python -m local_workspace`: serve a workspace until interrupted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from local_workspace.errors import WorkspaceError
from local_workspace.options import add_arguments
from local_workspace.server import run


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


if __name__ == "__main__":
    sys.exit(main())
