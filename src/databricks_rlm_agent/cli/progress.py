"""Tell a person at the terminal what a run is doing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from databricks_rlm_agent.app import App
from databricks_rlm_agent.control.tick import TickReport
from databricks_rlm_agent.domain.fsm import State
from databricks_rlm_agent.domain.run import Run

_RESTING = frozenset({State.WAITING_FOR_INPUT, State.WAITING_FOR_CHILDREN})


@dataclass(kw_only=True)
class Follower:
    """Reads a run after each tick that changed something, and says what is new."""

    app: App
    run_id: str
    say: Callable[[str], None]
    run: Run | None = None
    _seen: int = 0

    def __call__(self, report: TickReport) -> bool:
        """Whether the run has come to rest. Other controllers may move it: then it is looked at as well."""
        if report.advanced or self.run is None or not report.due:
            self.run = self.app.store.get(self.run_id)
            if report.advanced:
                self._tell()
        return self.run.fsm_state.terminal or self.run.fsm_state in _RESTING

    def _tell(self) -> None:
        events = self.app.ledger.events(self.run_id)
        for event in events[self._seen :]:
            line = _line(event["kind"], json.loads(event["payload"]))
            if line:
                self.say(line)
        self._seen = len(events)


def _line(kind: str, event: dict[str, object]) -> str | None:
    if kind == "transition" and event["to_state"] == "EXECUTING":
        job_run = event.get("databricks_run_id")
        return f"• iteration {event['iter_n']}: {event.get('purpose')} (job run {job_run})"
    if kind == "transition" and event["from_state"] == "INGESTING":
        good = event.get("status") == "SUCCESS"
        return f"{'✓' if good else '✗'} iteration {event['iter_n']}: {event.get('error_type') or 'done'}"
    if kind == "passing_error":
        return f"! {event.get('message')}"
    return None
