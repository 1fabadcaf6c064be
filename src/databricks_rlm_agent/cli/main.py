"""Entry points of wheel tasks: what Job A calls."""

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
from databricks_rlm_agent.cli.arguments import set_up_logs
from databricks_rlm_agent.errors import RlmError

INTERRUPTED = 130
log = logging.getLogger(__name__)


def main(
    argv: Sequence[str] | None = None, *, log_format: str = "text", log_level: int = logging.WARNING
) -> int:
    """Run one command and return its exit code; log as given where options and environment do not say."""
    parser = arguments.parser(__version__)
    options = parser.parse_args(argv)
    try:
        set_up_logs(options, log_format=log_format, level=log_level)
        module, _, function = options.command_path.partition(":")
        command = getattr(importlib.import_module(f"databricks_rlm_agent.cli.{module}"), function)
        return int(command(options))
    except RlmError as error:
        if options.debug:
            raise
        return _report(error, options)
    except KeyboardInterrupt as interruption:  # a command says itself how to go on
        _report_line(options, str(interruption) or "Interrupted. What was accepted is kept.")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone; there is nobody left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # a defect of ours: one line for the user, all of it with --debug
        if options.debug:
            raise
        problem = f"{type(error).__name__}: {error}"
        _report_line(options, f"rlm-agent: internal error: {problem}. Show it with --debug.", error)
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
    _report_line(options, f"rlm-agent: {error}")
    return error.exit_code


def _report_line(options: argparse.Namespace, text: str, error: Exception | None = None) -> None:
    """Print the last line in the form of the log, so that readers of JSON can parse it too.

    A defect's traceback goes into the JSON line as well: the process that could show it again is gone.
    """
    if options.log_format == "json":
        log.error("%s", text, exc_info=error)
    else:
        print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())


def orchestrator() -> int:
    """``rlm-orchestrator``: the continuous control plane. It takes the parameters of ``orchestrate``.

    With ``doctor`` as its first parameter it is ``rlm-agent doctor``, from inside the job. Its log is read by
    machines and long after the fact: JSON lines at INFO, unless told otherwise.
    """
    given = sys.argv[1:]
    command = given if given[:1] == ["doctor"] else ["orchestrate", *given]
    code = main(command, log_format="json", log_level=logging.INFO)
    if code:
        sys.exit(code)  # a wheel task counts as failed by its exit code only
    return code
