"""The kinds of request that a controller sends, by name, as the fault control and the log see them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_SQL = "/sql/1.0/warehouses/"
FILES = "/api/2.0/fs/files/"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of request. ``polled``: how often it comes depends on time, so only its first is a point."""

    name: str
    method: str
    path: str
    sql: str = ""
    polled: bool = False

    def rule(self, *, skip: int = 0, **fault: Any) -> dict[str, Any]:
        """A fault rule that hits the ``skip + 1``-th request of this kind."""
        return {"method": self.method, "path": self.path, "sql": self.sql, "skip": skip, **fault}

    def matches(self, entry: Mapping[str, Any]) -> bool:
        return (
            entry["method"] == self.method
            and re.search(self.path, entry["path"]) is not None
            and (not self.sql or re.search(self.sql, entry["sql"] or "", re.S) is not None)
        )


def _statement(name: str, sql: str, *, polled: bool = False) -> Kind:
    return Kind(name=name, method="POST", path=_SQL, sql=sql, polled=polled)


INSERT = _statement("insert run", r"MERGE INTO \S*run_state t .*WHEN NOT MATCHED")
CLAIM = _statement("claim", r"SET lease_owner = :owner")
SAVE = _statement("save", r"lease_owner = NULL, lease_expiry = NULL")
REQUESTS = _statement("append requests", r"MERGE INTO \S*execution_requests")
RESULTS = _statement("append results", r"MERGE INTO \S*execution_results")
EVENTS = _statement("append events", r"MERGE INTO \S*run_events")
ENTRYPOINT = Kind(name="put entrypoint", method="PUT", path=rf"{FILES}.*/entrypoint\.py$")
MANIFEST = Kind(name="put manifest", method="PUT", path=rf"{FILES}.*/manifest\.json$")
PUT_ANSWER = Kind(name="put answer", method="PUT", path=rf"{FILES}.*/children/[^/]+\.json$")
CANCEL = _statement("request cancel", r"SET cancel_reason = :reason")
CANCEL_JOB = Kind(name="cancel job", method="POST", path=r"/jobs/runs/cancel$")
SUBMIT = Kind(name="submit", method="POST", path=r"/jobs/runs/submit$")
# Which requests are told apart. Order counts: the first that matches names the request.
KINDS = (
    INSERT,
    CANCEL,
    CLAIM,
    SAVE,
    REQUESTS,
    RESULTS,
    EVENTS,
    _statement("read due", r"AS age_s", polled=True),
    _statement("renew", r"SET lease_expiry = timestamp_micros\(\S+ \+ :lease_us\)", polled=True),
    _statement("release", r"SET lease_expiry = timestamp_micros\(\S+ - 1\)", polled=True),
    _statement("read run", r"FROM \S*run_state WHERE run_id = :value", polled=True),
    _statement("read written", r"WHERE write_id = :write_id"),
    _statement("read unfinished", r"count\(DISTINCT run_id\)", polled=True),
    _statement("read results", r"SELECT \* FROM \S*execution_results"),
    ENTRYPOINT,
    MANIFEST,
    PUT_ANSWER,
    Kind(name="put call record", method="PUT", path=rf"{FILES}.*/planning/\d+\.json$"),
    Kind(name="read call record", method="GET", path=rf"{FILES}.*/planning/\d+\.json$"),
    Kind(name="make folder", method="PUT", path=r"/api/2\.0/fs/directories/.*scratchpad"),
    Kind(name="read manifest", method="GET", path=rf"{FILES}.*/manifest\.json$"),
    Kind(name="read entrypoint", method="GET", path=rf"{FILES}.*/entrypoint\.py$"),
    Kind(name="read result", method="GET", path=rf"{FILES}.*/result\.json$"),
    # Large files would go straight to storage; a workspace that does not offer it answers 403.
    Kind(name="ask for storage URL", method="POST", path=r"/api/2\.0/fs/create-"),
    Kind(name="read harness", method="GET", path=rf"{FILES}.*/harness/"),
    SUBMIT,
    CANCEL_JOB,
    Kind(name="get run", method="GET", path=r"/jobs/runs/get$", polled=True),
    # Other calls of the Thrift service (open session first of all) carry no statement to know them by.
    Kind(name="warehouse call", method="POST", path=_SQL, polled=True),
    Kind(name="discovery", method="GET", path=r"^/\.well-known/", polled=True),
)
# The points of an attempt that follows a lost one, from the end of the lost one on.
OF_NEXT_ATTEMPT = (CLAIM, ENTRYPOINT, MANIFEST, SUBMIT, REQUESTS, RESULTS, EVENTS, SAVE)
BY_NAME = {kind.name: kind for kind in KINDS}


def kind_of(entry: Mapping[str, Any]) -> Kind | None:
    """The kind of a logged request; None for one that no controller sends."""
    return next((kind for kind in KINDS if kind.matches(entry)), None)


def points(log: Iterable[Mapping[str, Any]]) -> list[tuple[Kind, int]]:
    """The points of a run, in order: the n-th request (from 1) of every kind, of polled kinds the first."""
    found: list[tuple[Kind, int]] = []
    seen: dict[str, int] = {}
    for entry in log:
        kind = kind_of(entry)
        if kind is None:
            raise AssertionError(f"a request of unknown kind: {entry}")
        seen[kind.name] = seen.get(kind.name, 0) + 1
        if seen[kind.name] == 1 or not kind.polled:
            found.append((kind, seen[kind.name]))
    return found
