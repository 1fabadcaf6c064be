"""The session capsule: all that the planner's prompt knows of a run, bounded by construction.

Full outputs stay in the Volume; the capsule keeps what matters of them. Every text is clipped and every
list keeps its newest items, so the capsule cannot grow with the run.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from databricks_rlm_agent.domain.checks import Check
from databricks_rlm_agent.domain.children import AnswerNote
from databricks_rlm_agent.domain.parsing import parse
from databricks_rlm_agent.domain.text import clip
from databricks_rlm_agent.domain.variables import Variables

CAPSULE_VERSION = 1
MAX_ITEMS = 12
ITEM_CHARS = 300
DIGEST_CHARS = 3_000
OBJECTIVE_CHARS = 4_000
INPUT_CHARS = 20_000  # of the inputs' JSON; intake refuses more


class TableNote(BaseModel):
    """A table that the run read or made."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    columns: str = ""
    rows: int | None = None
    note: str = ""


class CapsuleDelta(BaseModel):
    """What one iteration adds to the capsule. A summarizer's reply is validated against this."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    digest: str = ""
    decisions: list[str] = Field(default_factory=list)
    failed_approaches: list[str] = Field(default_factory=list)
    tables: list[TableNote] = Field(default_factory=list)
    artifacts: list[str] = Field(default_factory=list)


class Capsule(BaseModel):
    """The compressed memory of a run (``run_state.capsule``)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    capsule_version: int = CAPSULE_VERSION
    objective: str
    constraints: list[str] = Field(default_factory=list)
    inputs: dict[str, Any] = Field(default_factory=dict)
    decisions: list[str] = Field(default_factory=list)
    failed_approaches: list[str] = Field(default_factory=list)
    tables: list[TableNote] = Field(default_factory=list)
    artifacts: list[str] = Field(default_factory=list)
    last_result: str = ""
    dropped: int = 0
    # By input: what it is, in few words (control.survey); see ``surveyed``.
    input_notes: dict[str, str] = Field(default_factory=dict)
    variables: Variables | None = None
    answers: list[AnswerNote] = Field(default_factory=list)
    checks: list[Check] = Field(default_factory=list)

    @classmethod
    def begin(cls, objective: str, *, inputs: dict[str, Any] | None = None) -> Self:
        """The capsule of a new run."""
        return cls(objective=clip(objective, OBJECTIVE_CHARS), inputs=inputs or {})

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a stored capsule; raise InvalidData if it does not parse."""
        return parse(cls, text, what="The capsule")

    def instructed(self, text: str) -> Self:
        """The capsule after a person said something that the run must heed."""
        constraints, lost = _newest(self.constraints, [clip(text, 2 * ITEM_CHARS)])
        return self.model_copy(update={"constraints": constraints, "dropped": self.dropped + lost})

    def fold(self, delta: CapsuleDelta) -> Self:
        """The capsule after one more iteration: newest items win, older ones are dropped and counted."""
        decisions, lost_a = _newest(self.decisions, [clip(x, ITEM_CHARS) for x in delta.decisions])
        failed, lost_b = _newest(
            self.failed_approaches, [clip(x, ITEM_CHARS) for x in delta.failed_approaches]
        )
        artifacts, lost_c = _newest(self.artifacts, [clip(x, ITEM_CHARS) for x in delta.artifacts])
        known = {table.name: table for table in self.tables}
        for table in map(_clipped, delta.tables):
            known.pop(table.name, None)  # re-inserted, so that the newest knowledge is last
            known[table.name] = table
        tables = list(known.values())[-MAX_ITEMS:]
        return self.model_copy(
            update={
                "decisions": decisions,
                "failed_approaches": failed,
                "artifacts": artifacts,
                "tables": tables,
                "last_result": clip(delta.digest, DIGEST_CHARS),
                "dropped": self.dropped + lost_a + lost_b + lost_c + len(known) - len(tables),
            }
        )


def _newest(old: list[str], new: list[str]) -> tuple[list[str], int]:
    merged = [item for item in old if item not in new] + list(dict.fromkeys(new))
    return merged[-MAX_ITEMS:], max(0, len(merged) - MAX_ITEMS)


def _clipped(table: TableNote) -> TableNote:
    return TableNote(
        name=clip(table.name, ITEM_CHARS),
        columns=clip(table.columns, 2 * ITEM_CHARS),
        rows=table.rows,
        note=clip(table.note, ITEM_CHARS),
    )
