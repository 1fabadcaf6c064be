"""What many controllers left behind: was every change allowed, and how long did each lost lease cost?"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from databricks_rlm_agent.controller.claims import controller_of
from tools.crash.delta_history import Change, changes, commits, illegal
from tools.crash.fleet import ASKED, KILLED, Lifetime

_EVENT_COLUMNS = ("run_id", "seq", "at", "kind", "actor", "epoch", "payload")
# Why a holder did not save what it had claimed.
CAUSES = ("killed", "stopped past its lease", "asked to end", "ended by itself", "lapsed at work")
Epoch = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class LostLease:
    """A claim that was never saved: whose, why, from when on the run lay still, and until when (seconds)."""

    run_id: str
    epoch: int
    cause: str
    since: float
    until: float | None

    @property
    def seconds(self) -> float:
        """Until the run's next event in a later epoch; infinite if there was none."""
        return float("inf") if self.until is None else max(0.0, self.until - self.since)


@dataclass(frozen=True, kw_only=True)
class HistoryAudit:
    """``claims`` and ``commits`` of ``run_state``; events of epochs that came to nothing, and how many of
    those were written when a later epoch had begun (a controller that woke up); problems in words."""

    claims: int
    commits: int
    events: int
    fenced_events: int
    late_events: int
    lost: Sequence[LostLease]
    problems: Mapping[str, Sequence[str]]  # by run


def audit_history(tables: Path, lifetimes: Sequence[Lifetime]) -> HistoryAudit:
    """Read the histories of ``run_state`` and ``run_events`` below ``tables``."""
    history = changes(tables / "run_state")
    events = _events(tables / "run_events")
    claims = {(c.run_id, c.after["lease_epoch"]): c for c in history if c.claimed}
    saved = {(c.run_id, c.after["lease_epoch"]) for c in history if c.saved}
    problems: dict[str, list[str]] = defaultdict(list)
    for change in history:
        if found := illegal(change):
            problems[change.run_id].append(found)
    for run_id, mine in events.items():
        problems[run_id] += _order(mine, {epoch for run, epoch in saved if run == run_id})
        problems[run_id] += _wrong_actors(mine, claims)
    fenced = [event for mine in events.values() for event in mine if _key(event) not in saved]
    late = [event for event in fenced if _later(event, claims)]
    return HistoryAudit(
        claims=len(claims),
        commits=len({change.at for change in history}),
        events=sum(map(len, events.values())),
        fenced_events=len(fenced),
        late_events=len(late),
        lost=[_lost(key, claims, events, lifetimes) for key in sorted(claims.keys() - saved)],
        problems={run_id: texts for run_id, texts in problems.items() if texts},
    )


def _events(table: Path) -> dict[str, list[dict[str, Any]]]:
    """The events of every run in the order of their sequence, with the time of their commit."""
    seen: dict[tuple[str, int], dict[str, Any]] = {}
    for commit in commits(table, _EVENT_COLUMNS):
        for row in commit.rows:
            event = {**row, "at": row["at"].timestamp(), "committed": commit.at}
            seen.setdefault((row["run_id"], row["seq"]), event)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key in sorted(seen):
        found[key[0]].append(seen[key])
    return found


def _order(events: Sequence[Mapping[str, Any]], saved: set[int]) -> list[str]:
    """Of the epochs that were saved: by the clock too, each begins when the one before is over, and every
    transition starts where the last one ended."""
    problems = []
    last, state = (0, 0.0), "PENDING"
    for event in (event for event in events if event["epoch"] in saved):
        if (event["epoch"], event["at"]) < last or event["at"] < last[1]:
            problems.append(
                f"event {event['seq']} of epoch {event['epoch']} lies before one of epoch {last[0]}"
            )
        last = (event["epoch"], event["at"])
        if event["kind"] == "transition":
            payload = json.loads(event["payload"])
            # That a job run has ended is no event of its own: what came of it is.
            began = "EXECUTING" if payload["from_state"] == "INGESTING" else payload["from_state"]
            if began != state:
                problems.append(f"event {event['seq']} starts from {payload['from_state']}, not {state}")
            state = payload["to_state"]
    return problems


def _wrong_actors(events: Sequence[Mapping[str, Any]], claims: Mapping[Epoch, Change]) -> list[str]:
    """Events by another controller than the one that claimed the epoch."""
    problems = []
    for event in events:
        claim = claims.get(_key(event))
        holder = controller_of(claim.after["lease_owner"]) if claim else None
        if holder != event["actor"]:
            problems.append(f"{event['actor']} wrote event {event['seq']} in the epoch of {holder}")
    return problems


def _later(event: Mapping[str, Any], claims: Mapping[Epoch, Change]) -> bool:
    following = claims.get((event["run_id"], event["epoch"] + 1))
    return following is not None and following.at < event["committed"]


def _lost(
    key: Epoch,
    claims: Mapping[Epoch, Change],
    events: Mapping[str, Sequence[Mapping[str, Any]]],
    lifetimes: Sequence[Lifetime],
) -> LostLease:
    claim, following = claims[key], claims.get((key[0], key[1] + 1))
    holder = controller_of(claim.after["lease_owner"])
    lifetime = next((lifetime for lifetime in lifetimes if lifetime.name == holder), None)
    cause, since = _cause(lifetime, claim.at, following.at if following else float("inf"))
    times = [event["at"] for event in events[key[0]] if event["epoch"] > key[1]]
    return LostLease(run_id=key[0], epoch=key[1], cause=cause, since=since, until=min(times, default=None))


def _cause(lifetime: Lifetime | None, claimed: float, taken: float) -> tuple[str, float]:
    """Why a claim came to nothing, and since when."""
    if lifetime is None:
        return CAUSES[4], claimed
    for began, over in lifetime.stops:
        if began <= taken and over >= claimed:
            return CAUSES[1], max(began, claimed)
    if lifetime.ended is not None and lifetime.ended <= taken and lifetime.end == KILLED:
        return CAUSES[0], max(lifetime.ended, claimed)
    if lifetime.asked is not None and lifetime.asked <= taken:
        return CAUSES[2], max(lifetime.asked, claimed)
    if lifetime.ended is not None and lifetime.ended <= taken and lifetime.end != ASKED:
        return CAUSES[3], max(lifetime.ended, claimed)
    return CAUSES[4], claimed


def _key(event: Mapping[str, Any]) -> Epoch:
    return (event["run_id"], event["epoch"])
