"""How a command logs: ``--log-format``, ``RLM_LOG_FORMAT`` and ``--verbose``."""

from __future__ import annotations

import argparse
import logging
import os

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
    from databricks_rlm_agent.domain.models import VARIABLES
    from databricks_rlm_agent.domain.secret import Secret

    keys = [name for key, name in VARIABLES.items() if key != "databricks-host"]
    logs.hide(*(Secret(os.environ[name]) for name in keys if os.environ.get(name)))
    told = getattr(options, "log_format", None) or os.environ.get("RLM_LOG_FORMAT") or log_format
    options.log_format = told if told in _FORMATS else "text"
    verbose = options.verbose
    logs.configure(level=logging.INFO if verbose else level, format=options.log_format, vendors=verbose)
    if told not in _FORMATS:
        raise ConfigError(f"RLM_LOG_FORMAT is {told!r}.", fix=f"Use {' or '.join(_FORMATS)}.")
