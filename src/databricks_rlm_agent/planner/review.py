"""The decision that a conversation has to reach, and the review that an action must pass to become it.

The review: its bounds, the policy, and the controller's own checks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from databricks_rlm_agent.errors import Conflict, Forbidden, InvalidData, NotFound, RemoteError, UsageError
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.logs import keep_off_root
from databricks_rlm_agent.planner.actions import completed
from databricks_rlm_agent.policy.judge import PolicyFinding, ProgramPolicy
from databricks_rlm_agent.ports import FileEntry, PlannerNote, PlanningContext, Volume
from databricks_rlm_agent.runs.actions import Action, RunSqlWorkflow
from databricks_rlm_agent.sqlflow.handover import (
    MAX_BYTES,
    MAX_FILES,
    check_files,
    for_agent,
    is_workflow_file,
    source_of,
)
from databricks_rlm_agent.sqlflow.plan.plan import plan_of

T = TypeVar("T")
_LISTED = 2_000


@dataclass(kw_only=True)
class PendingDecision(Generic[T]):
    """The state of one conversation: a decision ends it, a failure of the model, or a fault that is not the
    model's. Used on the event loop's thread only. ``redact`` hides keys in what is noted.
    """

    max_refusals: int
    redact: Callable[[str], str] = str
    decision: T | None = None
    failure: str | None = None
    fault: RemoteError | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while an action is looked at: a reply may hold several, which ADK runs at the same time."""
    notes: list[PlannerNote] = field(default_factory=list)
    _refusals: int = 0
    _without_action: int = 0

    @property
    def closed(self) -> bool:
        """Return whether the model has nothing more to do."""
        return self.decided or self.failure is not None

    @property
    def decided(self) -> bool:
        """Return whether no action can be taken any more."""
        return self.decision is not None or self.fault is not None

    def accept(self, decision: T) -> None:
        """Take the decision."""
        self.decision = decision

    def fail(self, reason: str) -> None:
        """End the conversation: the model could not decide, or its budget is used up."""
        if not self.closed:
            self.failure = reason

    def stop(self, fault: RemoteError) -> None:
        """End the conversation with a fault that is to be raised: nothing is decided."""
        if not self.decided:
            self.fault = fault

    def note_finding(self, finding: PolicyFinding, *, tool: str, mode: str) -> None:
        """Note what the policy found, whether it refuses or allows it."""
        payload = {"rule": finding.rule, "tool": tool, "reason": self.redact(finding.reason), "mode": mode}
        self.notes.append(PlannerNote(kind="policy", payload=payload | {"refused": finding.refused}))

    def refuse(self, reason: str, *, tool: str) -> None:
        """Count a refusal; too many of them are a failure."""
        self._refusals += 1
        reason = self.redact(reason)
        self.notes.append(PlannerNote(kind="refusal", payload={"tool": tool, "reason": reason}))
        if self._refusals >= self.max_refusals:
            self.fail(f"The model's actions were refused {self._refusals} times; the last reason: {reason}")

    def explain(self) -> None:
        """Add the last refusal to a failure that came after it: most often it is the cause."""
        reasons = [str(note.payload["reason"]) for note in self.notes if note.kind == "refusal"]
        if reasons and self.failure is not None and reasons[-1] not in self.failure:
            self.failure = f"{self.failure} Before that, an action was refused: {reasons[-1]}"

    def no_action(self) -> None:
        """Count a reply without any action; the second one is a failure."""
        self._without_action += 1
        self.notes.append(PlannerNote(kind="no_action", payload={}))
        if self._without_action > 1:
            self.fail("The model gave no action.")


def collect_workflow(action: RunSqlWorkflow, *, volume: Volume, namespace: Namespace) -> RunSqlWorkflow:
    """Return the workflow with all its texts, which can be planned.

    Raise InvalidData with what the model has to correct, RemoteError if the Volume does not answer.
    """
    files = {**(_read(action.path, volume) if action.path else {}), **action.files}
    source = source_of(
        check_files(files),
        variables=action.variables,
        catalog=action.catalog or namespace.catalog,
        schema=action.schema or namespace.schema,
    )
    try:
        plan_of(source)
    except UsageError as error:
        raise InvalidData(error.what, where=error.where, fix=for_agent(error.fix or "") or None) from None
    return replace(action, files=files, path=None)


def _read(path: str, volume: Volume) -> Mapping[str, str]:
    try:
        entries = volume.list(path, limit=_LISTED)
    except (NotFound, Forbidden) as error:
        raise InvalidData(
            f"The folder cannot be listed: {error.what}", where=path, fix="Check it with list_files."
        ) from None
    parts = [entry for entry in entries if not entry.is_directory and is_workflow_file(_name(entry))]
    if len(entries) >= _LISTED:
        raise InvalidData(
            f"The folder has {_LISTED:,} entries or more.",
            where=path,
            fix="Name one that has the SQL files only.",
        )
    size = sum(entry.size or 0 for entry in parts)
    if not parts:
        raise InvalidData("The folder has no *.sql file.", where=path, fix="Name the folder that has them.")
    if len(parts) > MAX_FILES or size > MAX_BYTES:
        raise InvalidData(
            f"The folder has {len(parts):,} files of {size:,} bytes; the limits of a workflow are "
            f"{MAX_FILES:,} and {MAX_BYTES:,}.",
            where=path,
            fix="Split it, or run a part of it by `files`.",
        )
    return {_name(entry): _text(entry.path, volume) for entry in parts}


def _text(path: str, volume: Volume) -> str:
    content = volume.get(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content[: error.start].count(b"\n")
        raise InvalidData(
            "It is not valid UTF-8.", where=f"{path}:{line}", fix="Send its text in `files`."
        ) from None


def _name(entry: FileEntry) -> str:
    return entry.path.rstrip("/").rpartition("/")[2]


Policy = Callable[[PlanningContext, Action], PolicyFinding | None]
"""Returns what it finds about an action."""


def run_policy(namespace: Namespace, write_targets: tuple[str, ...] | None) -> Policy:
    """Return the policy of policy/judge.py, applied to the run of a context (``Settings.write_targets``)."""
    keep_off_root("sqlglot")  # it warns about statements that it does not know, and so do we

    def judge(context: PlanningContext, action: Action) -> PolicyFinding | None:
        capsule = context.capsule
        policy = ProgramPolicy(
            mode=context.mode,
            namespace=namespace,
            run_id=context.run_id,
            write_targets=write_targets,
            tables=frozenset(table.name.lower() for table in capsule.tables),
            files=frozenset(str(getattr(item, "text", item)) for item in capsule.artifacts),
            inputs=capsule.inputs,
        )
        return policy.judge(action)

    return judge


def check_lease(context: PlanningContext) -> None:
    """Raise Conflict if the run is no longer ours."""
    if not context.lease_held():
        raise Conflict(
            "The lease of the run was lost while it was planned.",
            where=f"run {context.run_id}",
            fix="Its new holder plans again.",
        )


@dataclass(frozen=True, kw_only=True)
class Review:
    """Looks at an action before it is accepted."""

    context: PlanningContext
    pending: PendingDecision[Action]
    policy: Policy | None
    volume: Volume
    namespace: Namespace

    async def __call__(self, action: Action, tool: str) -> Action:
        """Return the action as it is to be carried out.

        Raise InvalidData with the reason of a refusal, for the model; raise RemoteError for a fault of the
        workspace, or if the lease is lost, for which the model is not to blame.
        """
        context = self.context
        action = completed(action, value=context.last_value, limit=context.children_left)
        # On threads: a workflow is read from a Volume, a policy parses programs, and the controller may ask
        # the workspace.
        if isinstance(action, RunSqlWorkflow):
            action = await asyncio.to_thread(
                collect_workflow, action, volume=self.volume, namespace=self.namespace
            )
        finding = await asyncio.to_thread(self.policy, context, action) if self.policy else None
        if finding is not None:
            self.pending.note_finding(finding, tool=tool, mode=context.mode)
            if finding.refused:
                raise InvalidData(finding.reason)
        reason = await asyncio.to_thread(context.review, action)
        if reason is not None:
            raise InvalidData(reason)
        check_lease(context)
        return action
