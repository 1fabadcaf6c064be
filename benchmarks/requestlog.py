"""The request log of a workspace that allows faults: what was asked, and how long the answers took."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

from local_workspace import WorkspaceInfo

_PLACES = ("fs/files", "fs/directories", "jobs/runs/submit", "jobs/runs/get", "sql/1.0")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked between two looks. ``seconds``: how long the workspace took to answer, in all."""

    kinds: Counter[str]
    seconds: float

    @property
    def statements(self) -> int:
        """How many of the requests were SQL statements."""
        return self.kinds["statement"]

    @property
    def lists(self) -> int:
        """How many of the requests list something: a folder of a Volume, or job runs."""
        places = ("GET fs/directories", "GET /api/N.N/jobs/runs/list", "GET /api/N.N/jobs/list")
        return sum(self.kinds[place] for place in places)

    @property
    def requests(self) -> int:
        """All requests, statements among them."""
        return self.kinds.total()


class RequestLog:
    """Reads the log."""

    def __init__(self, info: WorkspaceInfo) -> None:
        self._info = info

    def clear(self) -> None:
        """Forget what was asked."""
        self._call("DELETE")

    def asked(self) -> Asked:
        """What was asked since."""
        entries = self._call("GET")["requests"]
        return Asked(
            kinds=Counter(_kind(entry) for entry in entries),
            seconds=sum(entry["duration_ms"] for entry in entries) / 1000,
        )

    def _call(self, method: str) -> Any:
        headers = {"Authorization": f"Bearer {self._info.token}"}
        request = Request(f"{self._info.host}/_local/requests", method=method, headers=headers)
        with urlopen(request) as reply:
            return json.load(reply)


def _kind(entry: dict[str, Any]) -> str:
    if entry["sql"] is not None:
        return "statement"
    place = next((place for place in _PLACES if place in entry["path"]), None)
    return f"{entry['method']} {place or re.sub('[0-9]+', 'N', entry['path'])}"
