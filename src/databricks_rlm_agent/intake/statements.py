"""Every statement on a work table, named. Values are bound; only names that were checked are formatted in.

The work table is somebody else's: it is read through the columns of the mapping, and only status and comment
are ever written, never ``updated_at``, so that our own writing makes no revision.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from databricks_rlm_agent.intake.items import READ_ID, READ_TEXT, READ_TITLE, WorkSource
from databricks_rlm_agent.intake.mapping import WRITTEN, WorkMapping
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.runs.fsm import TERMINAL, WAITING_FOR_PERSON
from databricks_rlm_agent.storage.sql import states

# Of a priority that is no number, or none of the words: after all others.
_LAST = 1_000_000_000
_NOW_US = "unix_micros(current_timestamp())"
_POST = "_change_type IN ('insert', 'update_postimage')"
_PRE = "_change_type IN ('update_preimage', 'delete')"
_BOUND = re.compile(r":([a-z_]+[0-9]*)")
# What a poll returns: kind, and the columns that a row of that kind uses; the others are NULL.
_SHAPE = {
    "item_id": "STRING",
    "title": "STRING",
    "description": "STRING",
    "status": "STRING",
    "mode": "STRING",
    "answer": "STRING",
    "n": "BIGINT",
    "digest": "STRING",
    "rank": "BIGINT",
    "mark": "BIGINT",
    "run_id": "STRING",
    "fsm_state": "STRING",
    "revision": "STRING",
    "outcome": "STRING",
}


def _quoted(*parts: str) -> str:
    return ".".join(f"`{part}`" for part in parts)


@dataclass(frozen=True, kw_only=True)
class WorkSql:
    """The statements of one mapping."""

    namespace: Namespace
    mapping: WorkMapping
    source: WorkSource

    @property
    def table(self) -> str:
        """The work table, quoted."""
        return _quoted(*self.mapping.table.split("."))

    def bound(self, statement: str, **values: Any) -> dict[str, Any]:
        """The values that a statement binds: the mapping's words, and those given."""
        mapping, write = self.mapping, self.mapping.write
        lists = {
            "o": sorted(mapping.opened),
            "a": sorted(mapping.active),
            "p": mapping.priorities,
            "w": mapping.assignees,
        }
        known = {f"{key}{n}": word.lower() for key, words in lists.items() for n, word in enumerate(words)}
        known |= {f"s_{name}": status or "" for name, status in write.model_dump().items()}
        known |= {"waiting": (write.waiting or "").lower()} | values
        return {name: known[name] for name in _BOUND.findall(statement) if name in known}

    def poll(self, relation: str, *, feed: str | None = None) -> str:
        """One statement: new revisions in ``relation``, runs that changed, runs that are obsolete, the clock.

        The clock's row has the last version in the ``feed`` as its rank, and as its mark the newest
        ``updated_at`` of the relation, whoever's the row.
        """
        last = f"(SELECT max(_commit_version) FROM {feed})" if feed else "NULL"
        mark = "NULL" if self.source.by_version else f"(SELECT max({self._number()}) FROM {relation})"
        kinds = {
            "item": f"SELECT * FROM ({self._items(relation)}) WHERE {self._is_new()} "
            "ORDER BY rank, n, item_id LIMIT :limit",
            "run": f"SELECT item_id, run_id, fsm_state, item_revision AS revision, outcome "
            f"FROM {self._runs()} WHERE updated_at >= timestamp_micros(:runs_since)",
            "obsolete": f"SELECT r.item_id, r.run_id, r.fsm_state, k.revision FROM {self._numbered()} r "
            f"JOIN {self._newest()} k ON k.k_item = r.item_id WHERE r.n < k.k_n AND r.cancel_reason IS NULL "
            f"AND r.fsm_state NOT IN {states(TERMINAL)}",
            "clock": f"SELECT {_NOW_US} AS n, {last} AS rank, {mark} AS mark",
        }
        columns = {
            "item": set(_SHAPE) - {"outcome", "mark"},
            "run": {"item_id", "run_id", "fsm_state", "revision", "outcome"},
            "obsolete": {"item_id", "run_id", "fsm_state", "revision"},
            "clock": {"n", "rank", "mark"},
        }
        return " UNION ALL ".join(_shaped(kind, query, columns[kind]) for kind, query in kinds.items())

    def since(self) -> str:
        """The rows whose ``updated_at`` is not below ``:since``, or that have none, or that may reply."""
        replies = ""
        if self.mapping.columns.answer and self.mapping.write.waiting is not None:
            replies = f"OR (lower({self._text('status')}) = :waiting AND {self._text('answer')} <> '')"
        return (
            f"(SELECT * FROM {self.table} WHERE {self._updated_at()} >= timestamp_micros(:since) "
            f"OR {self._updated_at()} IS NULL {replies})"
        )

    def feed(self, version: int) -> str:
        """The change feed from a version on."""
        return f"table_changes('{self.mapping.table}', {version:d})"

    def changes(self, version: int) -> str:
        """The newest image of every row in the change feed from ``version`` on, that version included.

        To ask from the one after the last would be refused as long as there is none.
        """
        was = f"CASE WHEN {_PRE} THEN CASE WHEN {self._open()} THEN 1 ELSE 0 END END"
        item = self._item_id()
        inner = (
            f"SELECT *, max({was}) OVER (PARTITION BY {item}, _commit_version) AS _was_open, "
            f"rank() OVER (PARTITION BY {item} ORDER BY _commit_version DESC, "
            f"CASE WHEN {_POST} THEN 0 ELSE 1 END) AS _place FROM {self.feed(version)}"
        )
        opened = f"CASE WHEN {_POST} AND _was_open = 0 AND {self._open()} THEN _commit_version END"
        middle = f"SELECT *, max({opened}) OVER (PARTITION BY {item}) AS _opened_n FROM ({inner})"
        return f"(SELECT * FROM ({middle}) WHERE _place = 1 AND {_POST})"

    def snapshot(self, version: int) -> str:
        """The whole table as of a version."""
        return (
            f"(SELECT *, CAST({version:d} AS BIGINT) AS _commit_version, CAST(NULL AS BIGINT) AS _opened_n "
            f"FROM {self.table} VERSION AS OF {version:d})"
        )

    def unreported(self) -> str:
        """The newest runs of items whose row does not say yet how they stand."""
        cases = " ".join(f"WHEN '{state}' THEN :s_{name}" for state, name in WRITTEN.items())
        desired = f"CASE k.fsm_state {cases} ELSE :s_started END"
        return (
            f"SELECT k.k_item AS item_id, k.run_id, k.fsm_state, k.revision, k.outcome "
            f"FROM {self._newest()} k JOIN (SELECT {self._item_id()} AS item_id, "
            f"{self._row_key()} AS row_key, {self._text('status')} AS status "
            f"FROM {self.table} WHERE {self._active()}) w "
            f"ON w.item_id = k.k_item AND w.row_key = k.row_key "
            f"WHERE {desired} <> '' AND NOT (w.status <=> {desired})"
        )

    def report(self) -> str:
        """Write the statuses and comments of ``:rows`` into rows that are still at the revision they name."""
        columns = self.mapping.columns
        shape = "array<struct<item_id:string,row_key:string,status:string,comment:string>>"
        status, comment = _quoted(columns.status or ""), ""
        differs = f"NOT (t.{status} <=> s.status)"  # or every controller would make a commit of it
        if columns.comment:
            name = _quoted(columns.comment)
            comment = f", {name} = coalesce(s.comment, t.{name})"
            differs += f" OR NOT (t.{name} <=> coalesce(s.comment, t.{name}))"
        return (
            f"MERGE INTO {self.table} t USING "
            f"(SELECT c.* FROM (SELECT explode(from_json(:rows, '{shape}')) AS c)) s "
            f"ON {self._item_id('t.')} = s.item_id AND {self._row_key('t.')} = s.row_key "
            f"AND {self._active('t.')} AND ({differs}) "
            f"WHEN MATCHED THEN UPDATE SET {status} = s.status{comment}"
        )

    def answer(self) -> str:
        """Compare-and-set a waiting run to what it is after an answer, with the revision that answered it."""
        return (
            f"UPDATE {self.namespace.table('run_state')} SET fsm_state = :fsm_state, iter_n = :iter_n, "
            "attempt = :attempt, capsule = :capsule, outcome = :outcome, item_revision = :revision, "
            "version = version + 1, write_id = :write_id, updated_at = current_timestamp() "
            "WHERE run_id = :run_id AND version = :version "
            f"AND fsm_state IN {states(WAITING_FOR_PERSON)} AND cancel_reason IS NULL"
        )

    def _items(self, relation: str) -> str:
        """The rows of a relation that are ours, with their newest runs."""
        mine = self._active()
        if self.mapping.assignees:
            words = ", ".join(f":w{n}" for n in range(len(self.mapping.assignees)))
            mine += f" AND lower({self._text('assignee')}) IN ({words})"
        opened = "_opened_n" if self.source.by_version else "CAST(NULL AS BIGINT)"
        answer = self._text("answer")
        return (
            f"SELECT w.*, k.k_n, k.k_digest, k.run_id, k.fsm_state, k.revision FROM (SELECT "
            f"{self._item_id()} AS item_id, left({self._text('title')}, {READ_TITLE}) AS title, "
            f"left({self._text('description')}, {READ_TEXT}) AS description, "
            f"left({self._text('status')}, 100) AS status, left({self._text('mode')}, 100) AS mode, "
            f"left({answer}, {READ_TEXT}) AS answer, {self._number()} AS n, {self._digest()} AS digest, "
            f"{self._rank()} AS rank, {self._open()} AS is_open, {opened} AS opened_n "
            f"FROM {relation} WHERE {mine}) w LEFT JOIN {self._newest()} k ON k.k_item = w.item_id"
        )

    def _is_new(self) -> str:
        """Return whether a row is at a revision that no run has taken up. See intake.items."""
        if self.source.by_version:
            return (
                "(k_n IS NULL AND is_open) OR (k_n < n AND digest <> k_digest) "
                "OR (k_n < opened_n AND opened_n <= n)"
            )
        waiting = f"fsm_state IN {states(WAITING_FOR_PERSON)}"
        replies = f"k_n = n AND digest <> '' AND digest <> k_digest AND {waiting}"
        return f"(k_n IS NULL AND is_open) OR k_n < n OR ({replies})"

    def _runs(self) -> str:
        run_state = self.namespace.table("run_state")
        return f"(SELECT * FROM {run_state} WHERE run_id LIKE '{self.source.prefix}%')"

    def _numbered(self) -> str:
        number = "CAST(regexp_extract(item_revision, '^[uv](-?[0-9]+)', 1) AS BIGINT)"
        return f"(SELECT *, {number} AS n FROM {self._runs()} WHERE item_revision IS NOT NULL)"

    def _newest(self) -> str:
        digest = "regexp_extract(max_by(item_revision, n), '[.]([0-9a-f]+)$', 1)"
        row_key = digest if self.source.by_version else "max_by(item_revision, n)"
        return (
            f"(SELECT item_id AS k_item, max(n) AS k_n, max_by(run_id, n) AS run_id, "
            f"max_by(fsm_state, n) AS fsm_state, max_by(item_revision, n) AS revision, "
            f"max_by(outcome, n) AS outcome, {digest} AS k_digest, {row_key} AS row_key "
            f"FROM {self._numbered()} GROUP BY item_id)"
        )

    def _text(self, field: str, row: str = "") -> str:
        """A column as text, NULL where the mapping names none."""
        name: str | None = getattr(self.mapping.columns, field)
        return f"CAST({row}{_quoted(name)} AS STRING)" if name else "CAST(NULL AS STRING)"

    def _item_id(self, row: str = "") -> str:
        return f"coalesce(left({self._text('id', row)}, {READ_ID}), '')"

    def _updated_at(self, row: str = "") -> str:
        # A column of text may hold anything: what is no time counts as none.
        return f"try_cast({row}{_quoted(self.mapping.columns.updated_at or '')} AS TIMESTAMP)"

    def _number(self, row: str = "") -> str:
        if self.source.by_version:
            return "_commit_version"
        return f"coalesce(unix_micros({self._updated_at(row)}), 0)"

    def _digest(self, row: str = "") -> str:
        answer = f"coalesce({self._text('answer', row)}, '')"
        if not self.source.by_version:
            return f"CASE WHEN {answer} = '' THEN '' ELSE left(sha2({answer}, 256), 8) END"
        fields = ("title", "description", "mode", "assignee")
        parts = [f"coalesce({self._text(name, row)}, ''), char(1)" for name in fields]
        return f"left(sha2(concat({', '.join(parts)}, {answer}), 256), 16)"

    def _row_key(self, row: str = "") -> str:
        if self.source.by_version:
            return self._digest(row)
        dot = f"CASE WHEN {self._digest(row)} = '' THEN '' ELSE '.' END"
        return f"concat('u', CAST({self._number(row)} AS STRING), {dot}, {self._digest(row)})"

    def _open(self, row: str = "") -> str:
        return self._status_in("o", sorted(self.mapping.opened), row)

    def _active(self, row: str = "") -> str:
        return self._status_in("a", sorted(self.mapping.active), row)

    def _status_in(self, key: str, words: Sequence[str], row: str) -> str:
        if self.mapping.columns.status is None:
            return "true"
        status = self._text("status", row)
        listed = ", ".join(f":{key}{n}" for n in range(len(words)))
        found = f"coalesce(lower({status}) IN ({listed}), false)" if words else "false"
        return f"({found} OR {status} IS NULL)" if None in self.mapping.open_statuses else f"({found})"

    def _rank(self) -> str:
        priority = self._text("priority")
        if not self.mapping.priorities:
            return f"coalesce(try_cast({priority} AS BIGINT), {_LAST})"
        cases = " ".join(f"WHEN :p{n} THEN {n + 1}" for n in range(len(self.mapping.priorities)))
        return f"CAST(CASE lower({priority}) {cases} ELSE {_LAST} END AS BIGINT)"


def _shaped(what: str, query: str, used: set[str]) -> str:
    columns = ", ".join(
        f"CAST({name if name in used else 'NULL'} AS {kind}) AS {name}" for name, kind in _SHAPE.items()
    )
    return f"SELECT '{what}' AS kind, {columns} FROM ({query})"
