"""Tell a person at the terminal what a run is doing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from databricks_rlm_agent.app import App
from databricks_rlm_agent.control.tick import TickReport
from databricks_rlm_agent.domain.fsm import State
from databricks_rlm_agent.domain.run import Run


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
        return self.run.fsm_state.terminal or self._rests(report)

    def _rests(self, report: TickReport) -> bool:
        """Whether nothing goes on until a person has said something, to the run or to one of its children."""
        assert self.run is not None
        if self.run.fsm_state is State.WAITING_FOR_CHILDREN and not report.due and not report.working:
            return not self.app.store.unfinished(only=self.app.store.family(self.run_id))
        return self.run.fsm_state is State.WAITING_FOR_INPUT

    def _tell(self) -> None:
        events = self.app.ledger.events(self.run_id)
        for event in events[self._seen :]:
            line = _line(event["kind"], json.loads(event["payload"]))
            if line:
                self.say(line)
        self._seen = len(events)


def _line(kind: str, event: dict[str, Any]) -> str | None:
    if kind == "transition" and event["to_state"] == "EXECUTING":
        job_run = event.get("databricks_run_id")
        return f"• iteration {event['iter_n']}: {event.get('purpose')} (job run {job_run})"
    if kind == "transition" and event["to_state"] == "WAITING_FOR_CHILDREN":
        return f"• iteration {event['iter_n']}: waits for {', '.join(map(str, event['children']))}"
    if kind == "transition" and event["from_state"] == "WAITING_FOR_CHILDREN":
        states = event.get("children") or {}
        return f"✓ child runs: {', '.join(f'{name} {state}' for name, state in states.items())}"
    if kind == "transition" and event["from_state"] == "INGESTING":
        good = event.get("status") == "SUCCESS"
        return f"{'✓' if good else '✗'} iteration {event['iter_n']}: {event.get('error_type') or 'done'}"
    if kind == "passing_error":
        return f"! {event.get('message')}"
    return None
