"""What a failed process's exit code and output say: the `error` and `error_trace` of get-output."""

from __future__ import annotations

import re
import signal

_HEADER = "Traceback (most recent call last):"
_CHAINED = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
_TRACE_LIMIT = 64 * 1024


def explain(exit_code: int, log: str) -> tuple[str, str | None]:
    """`(error, error_trace)`: the exception's line and the traceback, as far as the output has them.

    `exit_code` is negative for a signal, as in subprocess.
    """
    if exit_code < 0:
        return f"The Python process was ended by {_signal_name(-exit_code)}", None
    start = log.rfind(_HEADER)
    if start < 0 or exit_code != 1:
        # sys.exit(n) prints no traceback; what an interpreter says for exit code 1 is a traceback.
        return f"SystemExit: {exit_code}", None
    trace = _whole_chain(log, start)
    lines = log[start:].splitlines()
    error = next((line for line in lines[1:] if line and not re.match(r"\s|[|+]", line)), lines[-1])
    return error.strip(), trace[-_TRACE_LIMIT:]


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (exit code {128 + number})"
    except ValueError:
        return f"signal {number}"


def _whole_chain(log: str, start: int) -> str:
    """From the first traceback of a chain of exceptions; `start` is where the last one begins."""
    while True:
        before = log[:start].rstrip()
        if not before.endswith(_CHAINED):
            return log[start:]
        earlier = before.rfind(_HEADER)
        if earlier < 0:
            return log[start:]
        start = earlier
