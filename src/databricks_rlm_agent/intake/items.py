"""The findings of one poll of a work table."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.runs.capsule.capsule import INPUT_CHARS, OBJECTIVE_CHARS
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.values import storable

ID_CHARS = 200
TITLE_CHARS = 1_000
TEXT_CHARS = INPUT_CHARS
# How much of a text is read: enough to see that it is too long, never all of somebody's ten megabytes.
READ_ID, READ_TITLE, READ_TEXT = ID_CHARS + 56, TITLE_CHARS + 1, TEXT_CHARS + 1
_MODES = ("DEV", "PROD")
_HEAD_CHARS = 3_000


@dataclass(frozen=True, kw_only=True)
class LatestRun:
    """The latest run of an item."""

    run_id: str
    state: State


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """A revision of a work item that no run has taken up yet; texts are cut off where they are too long."""

    item_id: str
    revision: str
    title: str | None = None
    description: str | None = None
    status: str | None = None
    mode: str | None = None
    answer: str | None = None
    latest_run: LatestRun | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """The task of a run."""

    text: str
    mode: str
    inputs: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ItemDecision:
    """The decision about a revision: a new ``run``, an ``answer`` to its latest run, or a rejection.

    A new run and a rejection supersede the latest run where that still goes on.
    """

    item: WorkItem
    action: Literal["run", "answer", "reject"]
    task: Task | None = None
    reason: str = ""

    @property
    def supersedes(self) -> str | None:
        """The run that this revision makes obsolete."""
        latest = self.item.latest_run
        return latest.run_id if latest and self.action != "answer" and not latest.state.terminal else None


@dataclass(frozen=True, kw_only=True)
class WorkSource:
    """Where items come from: part of the id of all their runs, so that two tables never mix."""

    table: str
    by_version: bool = False

    @property
    def prefix(self) -> str:
        """Return the prefix of the ids of all runs of this source."""
        kind = "v" if self.by_version else "u"
        return f"i{hashlib.sha256(f'{self.table}|{kind}'.encode()).hexdigest()[:8]}-"

    def run_id(self, item_id: str, revision: str) -> str:
        """The id of the one run of a revision: the same for every controller, so it is inserted once."""
        text = f"{item_id}\0{revision}".encode("utf-8", "surrogatepass")
        return f"{self.prefix}{hashlib.sha256(text).hexdigest()[:24]}"

    def revision(self, number: int, digest: str) -> str:
        """The text of a revision."""
        return f"{'v' if self.by_version else 'u'}{number}{'.' if digest else ''}{digest}"

    def row_key(self, revision: str) -> str:
        """The part of a revision that can be told from the row itself."""
        return revision.partition(".")[2] if self.by_version else revision


def decide(items: Iterable[WorkItem]) -> list[ItemDecision]:
    """Decide about the items of one poll, in their order."""
    items = list(dict.fromkeys(items))
    rows = Counter(item.item_id for item in items)
    return [_decided(item, rows[item.item_id]) for item in items]


def _decided(item: WorkItem, rows: int) -> ItemDecision:
    if rows > 1 and item.item_id:
        return ItemDecision(item=item, action="reject", reason=f"{rows} rows of the table have this id.")
    if item.latest_run and item.latest_run.state is State.WAITING_FOR_INPUT:
        return ItemDecision(item=item, action="answer")
    return _new(item)


def _new(item: WorkItem) -> ItemDecision:
    try:
        return ItemDecision(item=item, action="run", task=task_of(item))
    except UsageError as error:
        return ItemDecision(item=item, action="reject", reason=str(error))


def task_of(item: WorkItem) -> Task:
    """The task of an item; raise UsageError that says why it cannot be one."""
    if not item.item_id.strip():
        raise UsageError("The item has no id.")
    if len(item.item_id) > ID_CHARS:
        raise UsageError(f"The item's id has more than {ID_CHARS} characters.")
    if not item.item_id.isprintable() or storable(item.item_id) != item.item_id:
        raise UsageError("The item's id has characters that cannot be printed.")
    title, text = (item.title or "").strip(), (item.description or "").strip()
    if not title and not text:
        raise UsageError("The item has neither a title nor a description.")
    if len(title) > TITLE_CHARS:
        raise UsageError(f"The item's title has more than {TITLE_CHARS:,} characters.")
    if len(item.description or "") > TEXT_CHARS:
        raise UsageError(
            f"The item's description has more than {TEXT_CHARS:,} characters.",
            fix="Put long material in a file of a Volume and name the file.",
        )
    mode = (item.mode or "").strip().upper() or _MODES[0]
    if mode not in _MODES:
        raise UsageError(f"The item's mode is {mode[:40]!r}.", fix=f"Use {' or '.join(_MODES)}.")
    return _sized(title, text, mode)


def _sized(title: str, text: str, mode: str) -> Task:
    """A description that is too long for an objective becomes an input."""
    whole = "\n\n".join(part for part in (title, text) if part)
    if len(whole) <= OBJECTIVE_CHARS:
        return Task(text=whole, mode=mode)
    head = text[: _HEAD_CHARS - len(title)]
    note = "[… cut off: read all of it from rlm.inputs['description'].text() first]"
    inputs = {"description": {"kind": "text", "text": text}}
    return Task(text="\n\n".join(part for part in (title, head, note) if part), mode=mode, inputs=inputs)


def answer_of(item: WorkItem, objective: str, *, waiting: str | None) -> str | None:
    """Return the reply of a changed item to its run's question: the answer column, else what is new in the
    text.

    None if nobody has answered yet: nothing is new, and the status is still ``waiting``, as we wrote it.
    """
    if (item.answer or "").strip():
        return (item.answer or "").strip()
    text = "\n\n".join(part.strip() for part in (item.title, item.description) if part and part.strip())
    known = {line.strip() for line in objective.splitlines()}
    new = "\n".join(line for line in text.splitlines() if line.strip() and line.strip() not in known)
    if not new and waiting is not None and (item.status or "").lower() == waiting.lower():
        return None
    return new or "(The item was opened again without a word more: decide with what is known.)"


@dataclass(frozen=True, kw_only=True)
class ChangedRun:
    """How the run of an item stands; ``message`` is its question, answer or reason."""

    item_id: str
    run_id: str
    revision: str
    state: State
    message: str | None = None


@dataclass(frozen=True, kw_only=True)
class PollResult:
    """Revisions that no run has taken up, runs that changed, and runs whose item has a newer revision.

    ``more``: the batch was full, so there may be further items; ``whole``: all open items were looked at,
    whenever they changed.
    """

    items: Sequence[WorkItem] = ()
    runs: Sequence[ChangedRun] = ()
    obsolete: Sequence[ChangedRun] = ()
    more: bool = False
    whole: bool = False
