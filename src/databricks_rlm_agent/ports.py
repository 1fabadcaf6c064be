"""The protocols between features and outer systems, and the planner's view of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from databricks_rlm_agent.attempts.records import EventRow, RequestRow, ResultRow
from databricks_rlm_agent.attempts.result import JobVerdict, Result
from databricks_rlm_agent.errors import RemoteError
from databricks_rlm_agent.runs.actions import Action
from databricks_rlm_agent.runs.budget import Budget, Usage
from databricks_rlm_agent.runs.capsule.capsule import Capsule, CapsuleDelta
from databricks_rlm_agent.runs.run import Due, Run
from databricks_rlm_agent.values import Row


class RunStore(Protocol):
    """Compare-and-set on runs. A run that is missing from an answer was won by somebody else."""

    def insert(self, runs: Iterable[Run]) -> None:
        """Add new runs; one that exists already is left as it is."""

    def due(
        self, *, limit: int, gap_s: float, asked: Sequence[str] = (), only: Sequence[str] = ()
    ) -> Sequence[Due]:
        """Runs that nobody holds and that have something to do, then those whose job run should be asked
        about, in ``Due.order``. The latter are those that became due within the last ``gap_s`` seconds (see
        ``storage.sql``) and are not among ``asked``. One that waits for child runs has something to do when
        all have ended, or when it was cancelled and they were not. ``only``: of these runs, if any are named.
        """

    def children(self, run_id: str) -> Sequence[Run]:
        """The child runs of a run, oldest first."""

    def family(self, run_id: str) -> Sequence[str]:
        """The ids of a run and of all runs below it."""

    def cancel_children(self, run_id: str, *, reason: str) -> None:
        """Put the intent to cancel the child runs of a run on record, in one statement."""

    def get(self, run_id: str) -> Run:
        """One run; raise RunNotFound."""

    def claim(self, runs: Sequence[Run], *, owner: str, lease_s: float, write_id: str) -> Sequence[Run]:
        """Take the leases that are still free, in one statement; return those won."""

    def request_cancel(self, run_id: str, *, reason: str) -> bool:
        """Put the intent to cancel a run on record, whoever holds it; False if it has ended already."""

    def renew(self, *, owners: Sequence[str], lease_s: float) -> None:
        """Prolong all leases of these holders, in one statement."""

    def release(self, *, owners: Sequence[str]) -> None:
        """End all leases of these holders; the runs stay marked as interrupted."""

    def save(self, runs: Sequence[Run], *, write_id: str) -> set[str]:
        """Compare-and-set runs and release their leases; return the ids of those that were changed."""


class Ledger(Protocol):
    """The append-only ledgers. A repeat of the same key adds nothing."""

    def append(self, rows: Sequence[RequestRow] | Sequence[ResultRow] | Sequence[EventRow]) -> None:
        """Add rows of one table in one commit."""

    def results(self, run_id: str) -> Sequence[Row]:
        """One result per attempt of a run, in order."""


class Volume(Protocol):
    """Whole files under ``/Volumes``."""

    def put(self, path: str, content: bytes, *, overwrite: bool) -> None:
        """Write a whole file and the folders above it; raise AlreadyExists if it may not be overwritten."""

    def get(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read a file or a range of it; raise NotFound."""

    def look(self, path: str) -> FileEntry | None:
        """The file or folder at a path; None where there is nothing."""

    def list(self, path: str, *, limit: int | None = None) -> Sequence[FileEntry]:
        """The files and folders in a folder, at most ``limit`` of them; raise NotFound."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """An entry of a Volume folder; ``size`` in bytes, None for folders."""

    path: str
    is_directory: bool
    size: int | None = None


class Jobs(Protocol):
    """The Jobs API."""

    def submit(self, payload: Mapping[str, Any]) -> int:
        """Send ``runs/submit`` and return the run's id; the same idempotency token gives the same id, or
        ``runs.run.DELETED`` if that run has been deleted.
        """

    def verdict(self, databricks_run_id: int) -> JobVerdict:
        """How a run stands; raise NotFound if the workspace knows no such run."""

    def url(self, databricks_run_id: int) -> str | None:
        """The run's page."""

    def cancel(self, databricks_run_id: int) -> None:
        """Ask for a run's cancellation (asynchronous)."""


class Catalog(Protocol):
    """Reads of Unity Catalog, for the planner's tools."""

    def search(self, text: str, *, limit: int) -> Sequence[str]:
        """Full names of tables whose name contains ``text`` (all tables for an empty text)."""

    def describe(self, table: str) -> Sequence[tuple[str, str]]:
        """The columns of a table: name and type; raise NotFound."""


class CallRecorder:
    """Keeps on record what a planner asks of models; this one keeps nothing. Safe for several threads."""

    def asking(self, usage: Usage) -> None:
        """Record a call before it is made, with what it will use at least; raise Conflict if none may be."""

    def not_charged(self) -> None:
        """Take back a call that no model has answered."""


@dataclass(frozen=True, kw_only=True)
class PlanningContext:
    """All that the planner is given for one iteration; ``model`` None means the controller's own.

    ``last_value`` is what the last program gave to ``rlm.finish``: answers may quote it. ``budget`` is what
    this plan may still spend: ``calls_left``, ``tokens_left``, ``cost_left_usd``. ``sub_model`` is what
    programs may ask, ``children_left`` how many child runs may be spawned. ``lease_held`` tells whether
    the run is still ours: if not, the planner must stop. Every model call is given to ``record`` first: its
    Conflict stops the planner too. ``review`` says why an action cannot be taken, or
    None; it may ask the workspace, so it is called from a thread that may wait.
    """

    run_id: str
    iter_n: int
    mode: str
    capsule: Capsule
    budget: Budget
    model: str | None = None
    last_value: Any = None
    sub_model: str | None = None
    children_left: int = 0
    lease_held: Callable[[], bool] = lambda: True
    record: CallRecorder = field(default_factory=CallRecorder)
    review: Callable[[Action], str | None] = lambda _action: None


@dataclass(frozen=True, kw_only=True)
class ModelCall:
    """One call of a model, for ``run_events``. ``purpose`` is planner or summarizer."""

    model: str
    purpose: str
    usage: Usage
    seconds: float
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlannerNote:
    """An event of planning, for ``run_events``: a tool call, a refusal."""

    kind: str
    payload: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """The planner's decision, or why it made none (``failure``, a sentence), or the transient error of the
    workspace that prevented it (``fault``); exactly one of the three.
    """

    action: Action | None
    failure: str | None = None
    fault: RemoteError | None = None
    calls: tuple[ModelCall, ...] = ()
    notes: tuple[PlannerNote, ...] = ()

    @property
    def usage(self) -> Usage:
        """Return the usage of all calls together."""
        return sum((call.usage for call in self.calls), Usage())


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A summarizer's result; ``delta`` None means: take the deterministic digest."""

    delta: CapsuleDelta | None
    calls: tuple[ModelCall, ...] = field(default=())


class Planner(Protocol):
    """Decides the next step of a run. Safe to call from several threads at once."""

    @property
    def model(self) -> str:
        """The name of the model (or chain), for reports."""

    def plan(self, context: PlanningContext) -> PlanResult:
        """Decide. Raises no error of a model or of the workspace: what was spent must count."""

    def summarize(self, context: PlanningContext, result: Result) -> Summary:
        """Compress a long result."""


def planning_context(
    run: Run,
    *,
    used_calls: int,
    record: CallRecorder,
    sub_model: str | None = None,
    lease_held: Callable[[], bool] = lambda: True,
    review: Callable[[Action], str | None] = lambda _action: None,
) -> PlanningContext:
    """Return the planner's view of a run; ``used_calls``: model calls that were made since its claim."""
    return PlanningContext(
        run_id=run.run_id,
        iter_n=run.iter_n,
        mode=run.current_mode,
        capsule=run.capsule,
        budget=run.budget.for_plan(used=used_calls),
        model=run.model,
        last_value=run.last_value,
        sub_model=sub_model,
        children_left=run.children_left,
        lease_held=lease_held,
        record=record,
        review=review,
    )
