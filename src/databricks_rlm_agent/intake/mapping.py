"""How a table of somebody else's becomes work: columns, who and what is ours, and what is written back."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from databricks_rlm_agent.errors import ConfigError
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.parsing import Document

# What a pair of backquotes holds without escapes; paths, dots and quotes never reach a statement.
_NAME = re.compile(r"[^\W\d][\w -]{0,254}")
_HOW = "docs/work-tables.md shows a mapping."


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is not a plain name")
    return value


def _table(value: str) -> str:
    parts = value.split(".")
    if len(parts) != 3:
        raise ValueError(f"{value[:200]!r} is not catalog.schema.table")
    for part in parts:
        _name(part)
    return value


Name = Annotated[str, AfterValidator(_name)]
TableName = Annotated[str, AfterValidator(_table)]


class WorkColumns(Document, extra="forbid"):
    """Which column holds what; None: the table has none.

    ``comment`` is written (question, answer, reason); ``answer`` is read (what a person replies).
    """

    id: Name
    title: Name | None = None
    description: Name | None = None
    priority: Name | None = None
    status: Name | None = None
    assignee: Name | None = None
    mode: Name | None = None
    updated_at: Name | None = None
    comment: Name | None = None
    answer: Name | None = None


# Which status is written for a run in these states; in all others it is that of one that was started.
WRITTEN = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.WAITING_FOR_INPUT: "waiting",
}


class Statuses(Document, extra="forbid"):
    """The values of the status column, by the state of a run; None: nothing is written."""

    started: str | None = None
    waiting: str | None = None
    succeeded: str | None = None
    failed: str | None = None
    cancelled: str | None = None

    def of(self, state: State) -> str | None:
        """The status of an item whose run is in ``state``."""
        status: str | None = getattr(self, WRITTEN.get(state, "started"))
        return status

    def named(self) -> list[str]:
        """All statuses that are ever written."""
        return [value for value in self.model_dump().values() if value is not None]


class WorkMapping(Document, extra="forbid"):
    """A work table. Times in seconds.

    ``open_statuses`` say which items are to be done (null: no status), ``assignees`` whose; both without
    regard to case, and an empty list of assignees means everybody's. ``priorities`` orders words, the most
    urgent first; without it, priorities are numbers, and 1 comes before 2.
    """

    table: TableName
    columns: WorkColumns
    open_statuses: list[str | None] = Field(default_factory=lambda: ["OPEN", "NEW", "TODO", None])
    assignees: list[str] = Field(default_factory=list)
    priorities: list[str] = Field(default_factory=list)
    write: Statuses = Statuses()
    change_feed: bool = True
    poll_s: float = Field(default=5.0, gt=0)
    lookback_s: float = Field(default=600.0, ge=0)
    rescan_s: float = Field(default=3600.0, gt=0)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        columns, written = self.columns, {value.lower() for value in self.write.named()}
        if columns.title is None and columns.description is None:
            raise ValueError("neither a title nor a description column is named")
        if columns.updated_at is None and not self.change_feed:
            raise ValueError("without updated_at and without change_feed no change could be seen")
        if columns.status is None and (written or columns.comment or columns.answer):
            raise ValueError("to write anything back or to read answers takes a status column")
        if columns.assignee is None and self.assignees:
            raise ValueError("assignees are named, but no assignee column")
        # Or our own writing would look like somebody who opened the item again.
        if both := written & self.opened:
            raise ValueError(f"{sorted(both)} is both an open status and one that is written back")
        return self

    @property
    def opened(self) -> set[str]:
        """The open statuses in lower case, without the null."""
        return {value.lower() for value in self.open_statuses if value is not None}

    @property
    def active(self) -> set[str]:
        """Statuses of items that a change or a result still concerns: open, started, waiting."""
        ours = {value.lower() for value in (self.write.started, self.write.waiting) if value is not None}
        return self.opened | ours


def default_mapping(table: str) -> WorkMapping:
    """The mapping of our own ``work_items``, or of a table with the same columns; raise ConfigError."""
    fields = ("title", "description", "priority", "status", "assignee", "mode", "updated_at")
    written = {
        "started": "IN_PROGRESS",
        "waiting": "WAITING",
        "succeeded": "DONE",
        "failed": "FAILED",
        "cancelled": "CANCELLED",
    }
    columns = {"id": "item_id"} | {name: name for name in fields}
    return _validated({"table": table, "columns": columns, "write": written})


def parse_mapping(text: str, *, where: str) -> WorkMapping:
    """A mapping from its JSON; raise ConfigError that says what is wrong with it."""
    try:
        return WorkMapping.model_validate_json(text)
    except ValidationError as error:
        raise _refused(error, where) from None


def with_table(mapping: WorkMapping, table: str) -> WorkMapping:
    """The same mapping for another table; raise ConfigError."""
    return _validated(mapping.model_dump() | {"table": table})


def _validated(value: dict[str, object]) -> WorkMapping:
    try:
        return WorkMapping.model_validate(value)
    except ValidationError as error:
        raise _refused(error, "RLM_WORK_TABLE") from None


def _refused(error: ValidationError, where: str) -> ConfigError:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return ConfigError(
        f"The work table's mapping is wrong: {problem['msg']}{f' at {place}' if place else ''}.",
        where=where,
        fix=_HOW,
    )
