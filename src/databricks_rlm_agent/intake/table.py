"""Reads a work table from where it was read last, and writes back how its items stand.

The position (a watermark) only saves work: that a revision is taken up once is held by the id of its run. So
it is kept in memory, written down after the runs are in, and never goes backwards.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from databricks_rlm_agent.errors import ConfigError, Conflict, Rejected
from databricks_rlm_agent.intake.items import ChangedRun, LatestRun, PollResult, WorkItem, WorkSource
from databricks_rlm_agent.intake.mapping import WorkMapping
from databricks_rlm_agent.intake.statements import WorkSql
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import Run
from databricks_rlm_agent.storage import sql
from databricks_rlm_agent.storage.schema import WatermarkRow, to_json
from databricks_rlm_agent.storage.stores import to_row
from databricks_rlm_agent.values import Row, clip

log = logging.getLogger(__name__)

BATCH = 200
COMMENT_CHARS = 4_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVER_US, _NEVER_US = -62_135_596_800_000_000, 253_402_300_799_000_000  # the years 1 and 9999
# A save is stamped when its statement starts and seen when it has landed: later than any statement may take.
_LANDS_WITHIN_US = 120_000_000


@dataclass(kw_only=True)
class _Position:
    """Where the next poll starts: microseconds of ``updated_at``, or a version of the change feed."""

    updated_us: int = _EVER_US
    version: int | None = None
    base: int | None = None  # a snapshot that is still to be read, in a table without updated_at
    runs_us: int | None = None
    begun_at: float
    whole: bool = True  # the next poll looks at all open items
    limit: int = BATCH
    read_up_to: tuple[int, int | None] = (_EVER_US, None)


@dataclass(kw_only=True)
class DeltaWorkTable:
    """One work table. ``monotonic`` in seconds. Not for several threads at once."""

    session: RetryingSession
    namespace: Namespace
    mapping: WorkMapping
    monotonic: Callable[[], float]
    _at: _Position | None = None
    _no_feed: bool = False

    @property
    def source(self) -> WorkSource:
        """Where the items come from."""
        return WorkSource(table=self.mapping.table, by_version=self.mapping.columns.updated_at is None)

    @property
    def _sql(self) -> WorkSql:
        return WorkSql(namespace=self.namespace, mapping=self.mapping, source=self.source)

    def read(self) -> PollResult:
        """Read what is new: one statement, except at the start, every ``rescan_s``, and when the feed breaks.

        Raise NotFound or Rejected if the table or its columns are not as the mapping says, ConfigError if its
        changes cannot be seen at all.
        """
        at = self._at
        if at is None or self.monotonic() - at.begun_at >= self.mapping.rescan_s:
            at = self._first_position()
        try:
            rows = self._poll(at)
        except Rejected as error:
            if at.whole or at.version is None:
                raise
            # Made anew, or its older versions are gone: start over, and what was taken up stays taken up.
            log.warning("%s: the change feed broke off (%s); all open items are read", self._name, error)
            at = self._first_position(broken=True)
            rows = self._poll(at)
        self._at = at
        return self._result(rows, at)

    def commit(self, result: PollResult) -> None:
        """Go on after ``result``: all that ``read`` returned is taken care of."""
        at = self._at
        if at is None or result.more:
            return
        moved = at.read_up_to != (at.updated_us, at.version)
        at.updated_us, at.version = at.read_up_to
        # Where a snapshot has been read in full, everybody may go on after it.
        store = at.base is not None or (moved and (at.whole or bool(result.items)))
        at.whole, at.base, at.limit = False, None, BATCH
        if store:
            self._store_watermark(at)

    def enlarge_batch(self) -> None:
        """Read more at once: nothing could be done with a full batch, and further items lie after it."""
        if self._at is not None:
            self._at.limit *= 2

    def unreported(self) -> list[ChangedRun]:
        """Runs whose items do not say yet how they stand: what was missed while nobody was here."""
        if self.mapping.columns.status is None or not self.mapping.write.named():
            return []
        return _changed_runs(self._fetch(self._sql.unreported()))

    def report(self, changed: Iterable[ChangedRun]) -> bool:
        """Write statuses back; False if somebody wrote at the same time, so that it has to be done again."""
        rows = [
            {
                "item_id": run.item_id,
                "row_key": self.source.row_key(run.revision),
                "status": self.mapping.write.of(run.state),
                "comment": clip(run.message, COMMENT_CHARS) if run.message else None,
            }
            for run in changed
        ]
        statement = self._sql.report()
        try:
            self.session.execute_once(statement, self._sql.bound(statement, rows=json.dumps(rows)))
        except Conflict as error:  # it is their table: they go first
            log.info("%s: %s; the statuses are written later", self._name, error)
            return False
        return True

    def answer(self, run: Run, *, revision: str, write_id: str) -> None:
        """Store an answered run with the revision that answered it, if nobody has changed it since."""
        row = asdict(to_row(run))
        names = ("run_id", "version", "fsm_state", "iter_n", "attempt", "capsule", "outcome")
        values = {name: row[name] for name in names} | {"revision": revision, "write_id": write_id}
        self.session.execute(self._sql.answer(), values)

    @property
    def _name(self) -> str:
        return self.mapping.table

    def _poll(self, at: _Position) -> Sequence[Row]:
        statements, feed = self._sql, None
        if at.base is not None:
            relation = statements.snapshot(at.base)
        elif at.version is not None and not at.whole:
            relation, feed = statements.changes(at.version), statements.feed(at.version)
        else:
            relation = statements.since()
        since = at.updated_us - int(self.mapping.lookback_s * 1_000_000)
        return self._fetch(
            statements.poll(relation, feed=feed),
            since=_EVER_US if at.whole else max(_EVER_US, since),
            limit=at.limit,
            # What ended before we came is found by ``unreported``.
            runs_since=_NEVER_US if at.runs_us is None else at.runs_us - _LANDS_WITHIN_US,
        )

    def _result(self, rows: Sequence[Row], at: _Position) -> PollResult:
        items = [row for row in rows if row["kind"] == "item"]
        clock = next(row for row in rows if row["kind"] == "clock")
        # A date in the future must not hide all that comes before it.
        newest = at.updated_us if clock["mark"] is None else min(clock["mark"], clock["n"])
        version = at.version if clock["rank"] is None else clock["rank"]
        at.read_up_to, at.runs_us = (max(at.updated_us, newest), version), clock["n"]
        return PollResult(
            items=[self._item(row) for row in sorted(items, key=lambda row: (row["rank"], row["n"]))],
            runs=_changed_runs(row for row in rows if row["kind"] == "run"),
            obsolete=_changed_runs(row for row in rows if row["kind"] == "obsolete"),
            more=len(items) >= at.limit,
            whole=at.whole,
        )

    def _item(self, row: Row) -> WorkItem:
        state = _state(row)
        return WorkItem(
            item_id=row["item_id"],
            revision=self.source.revision(row["n"], row["digest"]),
            title=row["title"],
            description=row["description"],
            status=row["status"],
            mode=row["mode"],
            answer=row["answer"],
            latest_run=LatestRun(run_id=row["run_id"], state=state) if state else None,
        )

    def _first_position(self, *, broken: bool = False) -> _Position:
        """Find out what the table offers; begin with all open items. ``broken``: the feed broke off."""
        at = _Position(begun_at=self.monotonic(), runs_us=self._at.runs_us if self._at else None)
        if not self._has_feed():
            if self.source.by_version:
                raise ConfigError(
                    "The work table has no change feed that can be read here, and its mapping names no "
                    "updated_at: no change could be seen.",
                    where=self._name,
                    fix="Name an updated_at column, or set delta.enableChangeDataFeed on the table.",
                )
        elif self.source.by_version:
            self._first_version(at, broken=broken)
        else:
            at.version = self._latest()
        return at

    def _first_version(self, at: _Position, *, broken: bool) -> None:
        """Go on where any controller left off; else agree with all of them on one snapshot to start from."""
        key = self._source_key()
        mark = self._watermark(key)
        if mark is not None and not broken:
            at.version, at.whole = mark, False
            at.read_up_to = (at.updated_us, mark)
            return
        base = f"{key}|from {mark}"
        self._execute(sql.append(self.namespace, WatermarkRow), self._row(base, version=self._latest()))
        at.base = at.version = self._watermark(base)

    def _has_feed(self) -> bool:
        if not self.mapping.change_feed or self._no_feed:
            return False
        properties = self._fetch(f"SHOW TBLPROPERTIES {self._sql.table}")
        found = {str(row["key"]): str(row["value"]).lower() for row in properties}
        if found.get("delta.enableChangeDataFeed") != "true":
            return False
        try:
            self._fetch(f"SELECT 1 FROM {self._sql.feed(self._latest())} LIMIT 1")
        except Rejected as error:
            self._no_feed = True  # so that it is logged once
            log.warning("%s: its change feed cannot be read here (%s)", self._name, error)
            return False
        return True

    def _latest(self) -> int:
        return int(self._fetch(f"DESCRIBE HISTORY {self._sql.table} LIMIT 1")[0]["version"])

    def _source_key(self) -> str:
        """The watermark's key, with the table's identity: one that was made anew has versions of its own."""
        if not self.source.by_version:
            return self._name
        return f"{self._name}|{self._fetch(f'DESCRIBE DETAIL {self._sql.table}')[0]['id']}"

    def _watermark(self, key: str) -> int | None:
        found = self._fetch(sql.by_key(self.namespace, WatermarkRow, key="source"), value=key)
        return max(
            (int(row["last_version"]) for row in found if row["last_version"] is not None), default=None
        )

    def _store_watermark(self, at: _Position) -> None:
        updated_at = None
        if at.updated_us > _EVER_US:
            updated_at = _EPOCH + timedelta(microseconds=at.updated_us)
        self._execute(
            _advance(self.namespace), self._row(self._source_key(), version=at.version, updated_at=updated_at)
        )

    @staticmethod
    def _row(key: str, *, version: int | None, updated_at: datetime | None = None) -> str:
        return to_json([WatermarkRow(source=key, last_version=version, last_updated_at=updated_at)])

    def _execute(self, statement: str, rows: str) -> None:
        self.session.execute(statement, {"rows": rows})

    def _fetch(self, statement: str, **values: Any) -> Sequence[Row]:
        bound = self._sql.bound(statement, **values)
        return self.session.fetch(statement, bound or None)


def _advance(namespace: Namespace) -> str:
    """Move a watermark forward: the greater of both, whoever writes last."""
    later = "(t.{0} IS NULL OR t.{0} < {1})"
    version = later.format("last_version", "s.last_version")
    updated = later.format("last_updated_at", "timestamp_micros(s.last_updated_at)")
    head, tail = sql.append(namespace, WatermarkRow).split(" WHEN NOT MATCHED ", 1)
    return (
        f"{head} WHEN MATCHED AND ({version} OR {updated}) THEN UPDATE SET "
        f"last_version = CASE WHEN {version} THEN s.last_version ELSE t.last_version END, "
        f"last_updated_at = CASE WHEN {updated} THEN timestamp_micros(s.last_updated_at) "
        f"ELSE t.last_updated_at END WHEN NOT MATCHED {tail}"
    )


def _changed_runs(rows: Iterable[Row]) -> list[ChangedRun]:
    return [
        ChangedRun(
            item_id=row["item_id"],
            run_id=row["run_id"],
            revision=row["revision"] or "",
            state=state,
            message=_message_of(row.get("outcome")),
        )
        for row in rows
        if (state := _state(row))
    ]


def _state(row: Row) -> State | None:
    """None for a damaged row: the run store complains of it, and the others must not suffer."""
    text = row["fsm_state"]
    return State(text) if text in set(State) else None


def _message_of(text: str | None) -> str | None:
    try:
        outcome: Mapping[str, Any] = json.loads(text or "{}")
        return outcome.get("question") or outcome.get("answer") or outcome.get("reason")
    except (ValueError, AttributeError):  # a damaged row is the run store's to complain about
        return None
