"""The session capsule: all that the planner's prompt knows of a run, of a fixed size for ever.

Full outputs stay in the Volume; the capsule keeps what matters of them. Every text is clipped, every list
has an end, and all of it together fits into ``CAPSULE_CHARS``. What merges, what
is dropped, and the sizes are in ``runs.capsule.packing``. What is dropped is counted (``dropped``,
``earlier``), and stays reachable by the planner's tools ``read_result`` and ``search_results``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from databricks_rlm_agent.runs.capsule import packing as rooms
from databricks_rlm_agent.runs.capsule.packing import ITEM_CHARS, CapsuleItem, Gist, merged, one_line, visible
from databricks_rlm_agent.runs.checks import Check
from databricks_rlm_agent.runs.children import AnswerNote
from databricks_rlm_agent.runs.parsing import parse
from databricks_rlm_agent.runs.variables import VariableNote, Variables
from databricks_rlm_agent.values import clip
from executor_harness import protocol

CAPSULE_VERSION = 2
CAPSULE_CHARS = 24_000
"""Most characters of a capsule's JSON beyond its objective and inputs, which intake bounds."""
DIGEST_CHARS = 3_000
OBJECTIVE_CHARS = 4_000
INPUT_CHARS = 20_000  # of the inputs' JSON; intake refuses more
MAX_NOTES = 16
_NOTE_CHARS = 600
_PATH_CHARS = 700
_NAME_CHARS = 80
_TAKEN = 64  # of one delta: nobody has that much to say at once


class TableNote(BaseModel):
    """A table that the run made, or (``made`` false) one that it read; ``iter_n`` says when last."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    columns: str = ""
    rows: int | None = None
    note: str = ""
    made: bool = True
    iter_n: int | None = None


class CapsuleDelta(BaseModel):
    """What one iteration adds to the capsule. A plain text is an item without a source of its own."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    digest: str = ""
    decisions: list[CapsuleItem | str] = Field(default_factory=list)
    failed_approaches: list[CapsuleItem | str] = Field(default_factory=list)
    tables: list[TableNote] = Field(default_factory=list)
    artifacts: list[CapsuleItem | str] = Field(default_factory=list)

    @field_validator("decisions", "failed_approaches", "artifacts")
    @classmethod
    def _items(cls, value: list[CapsuleItem | str]) -> list[CapsuleItem | str]:
        return [CapsuleItem.model_validate(item) for item in value]


class Capsule(BaseModel):
    """The compressed memory of a run (``run_state.capsule``).

    ``constraints`` are the words of people, in the order in which they were said; everything else comes from
    programs and models, and says so. ``earlier`` holds what older items of a list were condensed into.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    capsule_version: int = CAPSULE_VERSION
    objective: str
    constraints: list[str] = Field(default_factory=list)
    inputs: dict[str, Any] = Field(default_factory=dict)
    decisions: list[CapsuleItem] = Field(default_factory=list)
    failed_approaches: list[CapsuleItem] = Field(default_factory=list)
    tables: list[TableNote] = Field(default_factory=list)
    artifacts: list[CapsuleItem] = Field(default_factory=list)
    earlier: dict[str, Gist] = Field(default_factory=dict)
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
        """The capsule after a person said something that the run must heed; said again, it is the newest."""
        said = clip(visible(clip(text, 8 * ITEM_CHARS)), 2 * ITEM_CHARS)
        return self._with(constraints=[*(old for old in self.constraints if old != said), said])

    def fold(self, delta: CapsuleDelta) -> Self:
        """The capsule after one more iteration."""
        taken = {
            name: getattr(delta, name)[-_TAKEN:] for name in ("decisions", "failed_approaches", "artifacts")
        }
        tables = {table.name: table for table in self.tables}
        for table in map(_clipped, delta.tables[-_TAKEN:]):
            before = tables.pop(table.name, None)  # re-inserted, so that the newest knowledge is last
            made = table.made or (before is not None and before.made)
            tables[table.name] = table.model_copy(update={"made": made})
        said = sum(len(getattr(delta, name)) for name in ("tables", *taken))
        return self._with(
            **{name: merged(getattr(self, name), new) for name, new in taken.items()},
            tables=list(tables.values()),
            last_result=clip(visible(clip(delta.digest, 4 * DIGEST_CHARS)), DIGEST_CHARS),
            dropped=self.dropped + said - len(delta.tables[-_TAKEN:]) - sum(map(len, taken.values())),
        )

    def with_variables(self, variables: Variables) -> Self:
        """The capsule when a program has left these variables. An index whose path is none is not taken."""
        if len(variables.ref.path) > _PATH_CHARS:
            return self
        shown = [
            VariableNote(
                name=clip(one_line(note.name), _NAME_CHARS),
                type=clip(one_line(note.type), _NAME_CHARS),
                size=clip(one_line(note.size), 2 * _NAME_CHARS),
            )
            for note in variables.shown[: protocol.VARIABLES_SHOWN]
        ]
        return self._with(variables=variables.model_copy(update={"shown": shown}))

    def with_answers(self, answers: Sequence[AnswerNote]) -> Self:
        """The capsule when child runs have ended: by name, the newest of that name, at most 16."""
        known = {answer.name: answer for answer in self.answers}
        for answer in answers:
            if len(answer.path) <= _PATH_CHARS:
                known.pop(answer.name, None)
                known[answer.name] = answer.model_copy(
                    update={"says": clip(one_line(clip(answer.says, 2_400)), _NOTE_CHARS)}
                )
        return self._with(answers=list(known.values()))

    def surveyed(self, notes: Mapping[str, str]) -> Self:
        """The capsule when the inputs have been looked at: by input, what it is."""
        kept = {
            clip(one_line(name), _NAME_CHARS): clip(visible(note), _NOTE_CHARS)
            for name, note in [*notes.items()][:MAX_NOTES]
        }
        return self._with(input_notes=kept)

    def _with(self, **changes: Any) -> Self:
        """This capsule, changed and made to fit."""
        whole = self.model_copy(update={"capsule_version": CAPSULE_VERSION, **changes})
        fitted = whole
        for scale in rooms.SCALES:
            fitted = whole._at(scale)
            if len(fitted.model_dump_json(exclude={"objective", "inputs"})) <= CAPSULE_CHARS:
                break
        return fitted

    def _at(self, scale: float) -> Self:
        """This capsule with each part in its share of the room."""
        parts: dict[str, Any] = {}
        earlier, dropped = dict(self.earlier), self.dropped
        for name, (trim, _) in rooms.ROOMS.items():
            gist = earlier.get(name, Gist())
            parts[name], gone, gist = trim(getattr(self, name), gist, rooms.room(name, scale))
            dropped += gone
            if gist.count:
                earlier[name] = gist
        return self.model_copy(update={**parts, "earlier": earlier, "dropped": dropped})


def _clipped(table: TableNote) -> TableNote:
    return TableNote(
        name=clip(one_line(table.name), ITEM_CHARS),
        columns=clip(one_line(clip(table.columns, 8 * ITEM_CHARS)), 2 * ITEM_CHARS),
        rows=table.rows,
        note=clip(one_line(clip(table.note, 4 * ITEM_CHARS)), ITEM_CHARS),
        made=table.made,
        iter_n=table.iter_n,
    )
