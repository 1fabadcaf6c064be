"""Ask a person what is to be done after a step has failed."""

from __future__ import annotations

import sys

from databricks_rlm_agent.cli.place import say
from databricks_rlm_agent.cli.sql.lines import printable, problem_lines
from databricks_rlm_agent.cli.sql.screen import Screen
from databricks_rlm_agent.domain.workflow.model import Step
from databricks_rlm_agent.domain.workflow.running.outcome import StepOutcome
from databricks_rlm_agent.sqlflow.runner import Decision

_HELP = (
    "r: run the same text again. c: go on with what does not need it. "
    "s: start nothing more; mend the file, then run with --resume."
)
_ANSWERS = {"r": Decision.RETRY, "c": Decision.CONTINUE, "s": Decision.STOP}


class NotAskedError(Exception):
    """Raised by a signal handler while a person is asked: there is nothing to decide any more."""


class Asker:
    """Decides by asking on the terminal. ``open`` while it waits for an answer."""

    def __init__(self, screen: Screen, *, shown: bool) -> None:
        self._screen, self._shown = screen, shown
        self.open = False

    def __call__(self, step: Step, outcome: StepOutcome) -> Decision:
        """What is to be done; STOP where the input ends, or the run is interrupted."""
        with self._screen.paused():
            if outcome.problem is not None and not self._shown:
                say(printable(f"✗ {step.id}\n{problem_lines(outcome.problem)}"))
            try:
                self.open = True
                return self._asked(step)
            except NotAskedError:
                return Decision.STOP
            finally:
                self.open = False

    def _asked(self, step: Step) -> Decision:
        while True:
            sys.stderr.write(printable(f"{step.id} has failed: [r]etry, [c]ontinue, [s]top? "))
            sys.stderr.flush()
            said = sys.stdin.readline()
            if not said:
                say("")
                return Decision.STOP
            if said.strip().lower()[:1] in _ANSWERS:
                return _ANSWERS[said.strip().lower()[:1]]
            say(_HELP)


def cannot_ask(_step: Step, _outcome: StepOutcome) -> Decision:
    """Stop, and say what to pass."""
    say("Nobody can be asked here: stopping. Pass --on-error stop or --on-error continue.")
    return Decision.STOP
