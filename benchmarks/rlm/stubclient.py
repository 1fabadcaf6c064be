"""The other end of the stub model server: sets its scenario and reads its log."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from benchmarks.rlm.stub import ROOT, SUB, Asked, Scenario


@dataclass(frozen=True, kw_only=True)
class StubClient:
    """A stub at ``host`` (a URL)."""

    host: str

    def play(self, scenario: Scenario) -> None:
        """Begin a scenario; the log begins anew."""
        self._ask("PUT", "/_stub/scenario", asdict(scenario))

    def log(self) -> Log:
        """What was asked since the scenario began."""
        return Log(calls=[Asked(**call) for call in self._ask("GET", "/_stub/log")])

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection(urlsplit(self.host).netloc, timeout=30)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            reply = connection.getresponse()
            text = reply.read()
            if reply.status != 200:
                raise RuntimeError(f"{method} {path}: {reply.status} {text[:200]!r}")
            return json.loads(text)
        finally:
            connection.close()


@dataclass(frozen=True, kw_only=True)
class Log:
    """Calls in the order of their ends."""

    calls: Sequence[Asked]

    @property
    def root(self) -> list[Asked]:
        """Those of the planner or root model, in order."""
        return sorted((call for call in self.calls if call.model == ROOT), key=lambda call: call.started)

    @property
    def sub(self) -> list[Asked]:
        """Those of programs."""
        return [call for call in self.calls if call.model == SUB]

    def gaps(self) -> list[tuple[float, float]]:
        """From each root reply to the next root request, as Unix times."""
        return [(before.ended, after.started) for before, after in pairwise(self.root)]

    def usage(self) -> dict[str, int]:
        """Calls and tokens of all models together."""
        return {
            "calls": len(self.calls),
            "input_tokens": sum(call.input_tokens for call in self.calls),
            "output_tokens": sum(call.output_tokens for call in self.calls),
        }

    def most_at_once(self) -> int:
        """How many sub-calls were under way at the same time, at most."""
        steps = [(call.started, 1) for call in self.sub] + [(call.ended, -1) for call in self.sub]
        now = most = 0
        for _, step in sorted(steps):
            now += step
            most = max(most, now)
        return most
