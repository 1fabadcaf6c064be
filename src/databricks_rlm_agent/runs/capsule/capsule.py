"""The session capsule: all that the planner's prompt knows of a run, of a fixed size for ever.

Full outputs stay in the Volume; the capsule keeps what matters of them. Every text is clipped, every list
has an end, and all of it together fits into ``CAPSULE_CHARS`` (``runs.capsule.packing`` decides what stays).
What is dropped is counted (``dropped``, ``earlier``), and stays reachable by the planner's tools
``read_result`` and ``search_results``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

from pydantic import Field, field_validator
from pydantic_core import to_json

from databricks_rlm_agent.runs.capsule.packing import (
    ITEM_CHARS,
    CapsuleItem,
    EarlierItems,
    Part,
    keep,
    merge_items,
    one_line,
    pack,
    printable,
    shorten,
)
from databricks_rlm_agent.runs.checks import Check
from databricks_rlm_agent.runs.parsing import Document
from databricks_rlm_agent.values import clip
from executor_harness import protocol
from executor_harness.protocol import KeptVariables, VariableNote

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
_MOST_NEW = 64  # of one delta
MAX_ITEMS = 12
MAX_TABLES = 16
MAX_ANSWERS = 16
_FIRST_CONSTRAINTS = 4
_HEADS = 12  # of constraints that were condensed: their beginnings stay


class TableNote(Document):
    """A table that the run made, or (``made`` false) one that it read; ``iter_n`` says when last."""

    name: str
    columns: str = ""
    rows: int | None = None
    note: str = ""
    made: bool = True
    iter_n: int | None = None


class AnswerNote(Document):
    """A child's end, as its parent's prompt tells it. ``path`` is the whole answer's document."""

    name: str
    run_id: str
    state: str
    path: str
    says: str = ""


class CapsuleDelta(Document):
    """The additions of one iteration. A plain text is an item without a source of its own."""

    digest: str = ""
    decisions: list[CapsuleItem | str] = Field(default_factory=list)
    failed_approaches: list[CapsuleItem | str] = Field(default_factory=list)
    tables: list[TableNote] = Field(default_factory=list)
    artifacts: list[CapsuleItem | str] = Field(default_factory=list)

    @field_validator("decisions", "failed_approaches", "artifacts")
    @classmethod
    def _items(cls, value: list[CapsuleItem | str]) -> list[CapsuleItem | str]:
        return [CapsuleItem.model_validate(item) for item in value]


class Capsule(Document):
    """The knowledge of a run (``run_state.capsule``).

    ``constraints`` are instructions of people, oldest first; everything else comes from programs and models,
    and is marked so. ``earlier`` holds what older items of a list were condensed into, by list.
    ``input_notes`` describe inputs, by name (``with_input_notes``).
    """

    capsule_version: int = CAPSULE_VERSION
    objective: str
    constraints: list[str] = Field(default_factory=list)
    inputs: dict[str, Any] = Field(default_factory=dict)
    decisions: list[CapsuleItem] = Field(default_factory=list)
    failed_approaches: list[CapsuleItem] = Field(default_factory=list)
    tables: list[TableNote] = Field(default_factory=list)
    artifacts: list[CapsuleItem] = Field(default_factory=list)
    earlier: dict[str, EarlierItems] = Field(default_factory=dict)
    last_result: str = ""
    dropped: int = 0
    input_notes: dict[str, str] = Field(default_factory=dict)
    variables: KeptVariables | None = None
    answers: list[AnswerNote] = Field(default_factory=list)
    checks: list[Check] = Field(default_factory=list)

    @classmethod
    def begin(cls, objective: str, *, inputs: dict[str, Any] | None = None) -> Self:
        """The capsule of a new run."""
        return cls(objective=clip(objective, OBJECTIVE_CHARS), inputs=inputs or {})

    def with_constraint(self, text: str) -> Self:
        """The capsule with an instruction of a person; one that is repeated becomes the newest."""
        text = clip(printable(clip(text, 8 * ITEM_CHARS)), 2 * ITEM_CHARS)
        return self._packed(constraints=[*(old for old in self.constraints if old != text), text])

    def fold(self, delta: CapsuleDelta) -> Self:
        """The capsule after one more iteration."""
        lists = ("decisions", "failed_approaches", "artifacts")
        new = {name: getattr(delta, name)[-_MOST_NEW:] for name in lists}
        tables = {table.name: table for table in self.tables}
        for table in map(_clipped, delta.tables[-_MOST_NEW:]):
            before = tables.pop(table.name, None)  # re-inserted, so that the newest knowledge is last
            made = table.made or (before is not None and before.made)
            tables[table.name] = table.model_copy(update={"made": made})
        left_out = sum(max(0, len(getattr(delta, name)) - _MOST_NEW) for name in ("tables", *lists))
        return self._packed(
            **{name: merge_items(getattr(self, name), items) for name, items in new.items()},
            tables=list(tables.values()),
            last_result=clip(printable(clip(delta.digest, 4 * DIGEST_CHARS)), DIGEST_CHARS),
            dropped=self.dropped + left_out,
        )

    def with_variables(self, variables: KeptVariables) -> Self:
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
        return self._packed(variables=replace(variables, shown=shown))

    def with_answers(self, answers: Sequence[AnswerNote]) -> Self:
        """The capsule when child runs have ended: by name, the newest of that name, at most 16."""
        known = {answer.name: answer for answer in self.answers}
        for answer in answers:
            if len(answer.path) <= _PATH_CHARS:
                known.pop(answer.name, None)
                known[answer.name] = answer.model_copy(
                    update={"says": clip(one_line(clip(answer.says, 2_400)), _NOTE_CHARS)}
                )
        return self._packed(answers=list(known.values()))

    def with_input_notes(self, notes: Mapping[str, str]) -> Self:
        """The capsule with a description of each input, by name; of the first 16 of them."""
        kept = {
            clip(one_line(name), _NAME_CHARS): clip(printable(note), _NOTE_CHARS)
            for name, note in [*notes.items()][:MAX_NOTES]
        }
        return self._packed(input_notes=kept)

    def _packed(self, **changes: Any) -> Self:
        """This capsule, changed, within ``CAPSULE_CHARS``."""
        whole = self.model_copy(update={"capsule_version": CAPSULE_VERSION, **changes})
        parts = {
            name: Part(chars=chars, fit=_fitter(fit, whole, name), least=least)
            for name, (fit, chars, least) in _PARTS.items()
        }
        return pack(
            parts,
            join=whole._joined,
            fits=lambda packed: len(packed.model_dump_json(exclude={"objective", "inputs"})) <= CAPSULE_CHARS,
        )

    def _joined(self, parts: Mapping[str, Fitted]) -> Self:
        earlier = {name: part.earlier for name, part in parts.items() if part.earlier and part.earlier.count}
        return self.model_copy(
            update={
                **{name: part.value for name, part in parts.items()},
                "earlier": self.earlier | earlier,
                "dropped": self.dropped + sum(part.dropped for part in parts.values()),
            }
        )


class Fitted(NamedTuple):
    """A part that fits, how many of its items were dropped, and what older ones were condensed into."""

    value: Any
    dropped: int = 0
    earlier: EarlierItems | None = None


Fit = Callable[[Any, EarlierItems, int], Fitted]


def _fitter(fit: Fit, capsule: Capsule, name: str) -> Callable[[int], Fitted]:
    return lambda chars: fit(getattr(capsule, name), capsule.earlier.get(name, EarlierItems()), chars)


def _within(chars: int, most: int | None = None) -> Callable[[Any], bool]:
    """Return whether a value's JSON has at most so many characters, and a list at most so many items."""
    return lambda value: (most is None or len(value) <= most) and len(to_json(value).decode()) <= chars


def _fit_constraints(texts: Sequence[str], earlier: EarlierItems, chars: int) -> Fitted:
    """The first and the newest of what people said; the beginnings of the rest."""
    kept, dropped = keep(texts, fits=_within(chars * 3 // 4, MAX_ITEMS), first=_FIRST_CONSTRAINTS)
    for text in dropped:
        earlier = earlier.with_item(CapsuleItem(text=text), heads=_HEADS)
    while earlier.heads and not _within(chars // 4)(earlier):
        earlier = earlier.model_copy(update={"heads": earlier.heads[1:]})
    return Fitted(kept, len(dropped), earlier)


def _fit_items(items: Sequence[CapsuleItem], earlier: EarlierItems, chars: int) -> Fitted:
    """The newest items, then those that occurred more than once, then a model's words before the facts',
    which the ledger has too. A failure is merged into a newer one of its kind before it is dropped.
    """
    kept, dropped = keep(
        items,
        fits=_within(chars, MAX_ITEMS),
        rank=lambda item: 2 if item.count > 1 else int(item.by == "summarizer"),
        merge=merge_failures,
    )
    for item in dropped:
        earlier = earlier.with_item(item)
    return Fitted(kept, len(dropped), earlier)


def merge_failures(old: CapsuleItem, new: CapsuleItem) -> CapsuleItem | None:
    """The newer one of two failures of a kind, with the older one counted in; None for others."""
    return new.with_older(old) if old.kind and old.kind == new.kind else None


def _fit_tables(tables: Sequence[TableNote], _earlier: EarlierItems, chars: int) -> Fitted:
    """Those that the run made before those that it read, and the newest before older ones."""
    kept, dropped = keep(tables, fits=_within(chars, MAX_TABLES), rank=lambda table: int(table.made))
    return Fitted(kept, len(dropped))


def _fit_text(text: str, _earlier: EarlierItems, chars: int) -> Fitted:
    """Head and tail."""
    return Fitted(
        value=shorten(lambda limit: clip(text, limit), fits=_within(chars), limit=max(40, len(text)))
    )


def _fit_notes(notes: dict[str, str], _earlier: EarlierItems, chars: int) -> Fitted:
    """All inputs in fewer words; then the first of them."""
    short = shorten(
        lambda limit: {name: clip(note, limit) for name, note in notes.items()}, fits=_within(chars)
    )
    kept, dropped = keep(reversed(short.items()), fits=lambda items: _within(chars)(dict(items)), newest=0)
    return Fitted(dict(reversed(kept)), len(dropped))


def _fit_variables(variables: KeptVariables | None, _earlier: EarlierItems, chars: int) -> Fitted:
    """The first of them; ``count`` and the index are of all."""
    while variables is not None and variables.shown and not _within(chars)(variables):
        variables = replace(variables, shown=variables.shown[:-1])
    return Fitted(variables)


def _fit_answers(answers: Sequence[AnswerNote], _earlier: EarlierItems, chars: int) -> Fitted:
    """The newest, in fewer words. Those that are still waited for (no path yet) are never dropped."""
    short = shorten(
        lambda limit: [note.model_copy(update={"says": clip(note.says, limit)}) for note in answers],
        fits=_within(chars),
    )
    kept, dropped = keep(
        short,
        fits=lambda notes: _within(chars, MAX_ANSWERS)(notes) or not any(note.path for note in notes),
        rank=lambda note: int(not note.path),
        newest=0,
    )
    return Fitted(kept, len(dropped))


# By field: how it is fitted, its share in characters, and what it keeps: people's words give way last.
_PARTS: dict[str, tuple[Fit, int, int]] = {
    "constraints": (_fit_constraints, 6_400, 1_600),
    "decisions": (_fit_items, 3_200, 0),
    "failed_approaches": (_fit_items, 4_200, 0),
    "tables": (_fit_tables, 4_200, 0),
    "artifacts": (_fit_items, 1_600, 0),
    "last_result": (_fit_text, 4_000, 0),
    "input_notes": (_fit_notes, 6_000, 0),
    "variables": (_fit_variables, 4_000, 0),
    "answers": (_fit_answers, 7_000, 0),
}


def _clipped(table: TableNote) -> TableNote:
    return TableNote(
        name=clip(one_line(table.name), ITEM_CHARS),
        columns=clip(one_line(clip(table.columns, 8 * ITEM_CHARS)), 2 * ITEM_CHARS),
        rows=table.rows,
        note=clip(one_line(clip(table.note, 4 * ITEM_CHARS)), ITEM_CHARS),
        made=table.made,
        iter_n=table.iter_n,
    )
