"""``workspace start``: serve a local workspace."""

from __future__ import annotations

import argparse

from databricks_rlm_agent.errors import ConfigError, RlmError, UsageError
from databricks_rlm_agent.localworkspace.options import options_from
from databricks_rlm_agent.localworkspace.problem import WorkspaceError


def start(arguments: argparse.Namespace) -> int:
    """Serve until interrupted; print how to reach it when ready."""
    try:
        from databricks_rlm_agent.localworkspace.__main__ import follow_parent, print_json, print_text
        from databricks_rlm_agent.localworkspace.server import serve
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
