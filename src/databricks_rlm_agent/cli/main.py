"""``rlm-agent``: parse the arguments, run one command, turn errors into a message and an exit code.

Exit codes: 0 done, 1 the run failed, 2 wrong usage or configuration, 3 workspace unreachable or
unauthorised, 130 interrupted. Nothing heavy is imported before a command asks for it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence

from databricks_rlm_agent import __version__
from databricks_rlm_agent.cli import arguments
from databricks_rlm_agent.errors import RlmError

INTERRUPTED = 130
_VENDORS = ("databricks.sql", "databricks.sdk", "google_adk", "google_genai", "LiteLLM", "urllib3")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = arguments.parser(__version__)
    options = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if not options.verbose:
        for vendor in _VENDORS:  # they log what our own errors say better
            logging.getLogger(vendor).setLevel(logging.CRITICAL)
    try:
        module, _, function = options.command_path.partition(":")
        command = getattr(importlib.import_module(f"databricks_rlm_agent.cli.{module}"), function)
        return int(command(options))
    except RlmError as error:
        if options.debug:
            raise
        return _report(error, options)
    except KeyboardInterrupt:
        print("Interrupted. What was accepted is kept: run the same command again to go on.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone; there is nobody left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # a defect of ours: one line for the user, all of it with --debug
        if options.debug:
            raise
        print(
            f"rlm-agent: internal error: {type(error).__name__}: {error}. Show it with --debug.",
            file=sys.stderr,
        )
        return 1


def _report(error: RlmError, options: argparse.Namespace) -> int:
    if getattr(options, "json", False):
        document = {
            "error": type(error).__name__,
            "message": error.what,
            "where": error.where,
            "fix": error.fix,
            "exit_code": error.exit_code,
        }
        print(json.dumps(document))
    print(f"rlm-agent: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
