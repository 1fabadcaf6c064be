"""Our Delta tables as typed rows. DDL, the JSON shape of a batch and the parsing of rows derive from them.

Column names and kinds are fixed by the design, section 5. A batch of rows travels as one bound parameter
(JSON), so the text of a statement does not grow with the batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, get_type_hints

from databricks_rlm_agent.attempts.records import EventRow, ModelCallRow, RequestRow, ResultRow

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SQL_TYPES = {str: "STRING", int: "BIGINT", float: "DOUBLE", datetime: "TIMESTAMP"}


@dataclass(frozen=True, kw_only=True)
class WorkItemRow:
    """A task that somebody gave."""

    TABLE: ClassVar[str] = "work_items"
    KEY: ClassVar[tuple[str, ...]] = ("item_id",)

    item_id: str
    title: str | None
    description: str | None
    priority: int | None
    status: str | None
    assignee: str | None
    mode: str | None
    updated_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class RunStateRow:
    """A run, changed by compare-and-set only."""

    TABLE: ClassVar[str] = "run_state"
    KEY: ClassVar[tuple[str, ...]] = ("run_id",)

    run_id: str
    item_id: str | None
    parent_run_id: str | None
    depth: int
    current_mode: str
    fsm_state: str
    iter_n: int
    attempt: int
    lease_owner: str | None
    lease_epoch: int
    lease_expiry: datetime | None
    version: int
    write_id: str | None
    capsule: str
    budget: str
    last_request: str | None
    last_result: str | None
    outcome: str | None
    model: str | None
    cancel_reason: str | None
    item_revision: str | None
    due_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class WatermarkRow:
    """How far an intake source has been read."""

    TABLE: ClassVar[str] = "intake_watermarks"
    KEY: ClassVar[tuple[str, ...]] = ("source",)

    source: str
    last_version: int | None
    last_updated_at: datetime | None


RowType = (
    type[WorkItemRow]
    | type[RunStateRow]
    | type[RequestRow]
    | type[ResultRow]
    | type[EventRow]
    | type[WatermarkRow]
    | type[ModelCallRow]
)
AnyRow = WorkItemRow | RunStateRow | RequestRow | ResultRow | EventRow | WatermarkRow | ModelCallRow
ALL_TABLES: tuple[RowType, ...] = (
    WorkItemRow,
    RunStateRow,
    RequestRow,
    ResultRow,
    EventRow,
    WatermarkRow,
    ModelCallRow,
)


def columns(row_type: RowType) -> dict[str, str]:
    """Column names of a table and their SQL types, in order."""
    return _COLUMNS[row_type]


def json_shape(row_type: RowType) -> str:
    """The ``from_json`` type of a batch of rows; timestamps travel as microseconds since the epoch."""
    parts = (
        f"{name}:{'BIGINT' if kind == 'TIMESTAMP' else kind}" for name, kind in columns(row_type).items()
    )
    return f"array<struct<{','.join(parts)}>>"


def to_json(rows: Iterable[AnyRow]) -> str:
    """A batch of rows as the parameter that ``json_shape`` describes."""
    return json.dumps([{k: _as_json(v) for k, v in asdict(row).items()} for row in rows], ensure_ascii=True)


def distinct(rows: Sequence[AnyRow]) -> list[AnyRow]:
    """The first row of every key: what a MERGE finds twice in its own source, it inserts twice."""
    found: dict[tuple[Any, ...], AnyRow] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, name) for name in row.KEY), row)
    return list(found.values())


def one_per_key(rows: Iterable[Mapping[str, Any]], row_type: RowType) -> list[Mapping[str, Any]]:
    """The first row of every key, in order. A platform may let two MERGEs create the same row."""
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in row_type.KEY), row)
    return list(found.values())


def _as_json(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise ValueError("a timestamp without a time zone")
    return (value - EPOCH) // timedelta(microseconds=1)  # timestamp() would lose some to floating point


def _plain(hint: Any) -> type:
    kinds = [kind for kind in getattr(hint, "__args__", (hint,)) if kind is not type(None)]
    return kinds[0]  # type: ignore[no-any-return]  # the rows above use plain types and None only


def _typed(row_type: RowType) -> dict[str, str]:
    hints = get_type_hints(row_type)
    return {field.name: _SQL_TYPES[_plain(hints[field.name])] for field in fields(row_type)}


# Asked for with every row that is read.
_COLUMNS = {row_type: _typed(row_type) for row_type in ALL_TABLES}
