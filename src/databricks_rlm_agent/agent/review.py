"""What an action that a model has chosen must pass: its bounds, the policy, control's own judgement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from databricks_rlm_agent.agent.actions import settled
from databricks_rlm_agent.agent.desk import Desk
from databricks_rlm_agent.agent.gathering import gathered
from databricks_rlm_agent.domain.actions import Action, RunSqlWorkflow
from databricks_rlm_agent.domain.layout import Namespace
from databricks_rlm_agent.domain.policy.gating import Finding
from databricks_rlm_agent.domain.policy.judge import Policy
from databricks_rlm_agent.errors import Conflict, InvalidData
from databricks_rlm_agent.logs import keep_off_root
from databricks_rlm_agent.ports import Turn, Volume

Judge = Callable[[Turn, Action], Finding | None]
"""A policy: what it finds about an action of a turn."""


def turn_policy(namespace: Namespace, write_targets: tuple[str, ...] | None) -> Judge:
    """The policy of domain/policy/ on what a turn tells of its run (``Settings.write_targets``)."""
    keep_off_root("sqlglot")  # it warns about statements that it does not know, and so do we

    def judge(turn: Turn, action: Action) -> Finding | None:
        capsule = turn.capsule
        policy = Policy(
            mode=turn.mode,
            namespace=namespace,
            run_id=turn.run_id,
            write_targets=write_targets,
            tables=frozenset(table.name.lower() for table in capsule.tables),
            files=frozenset(str(getattr(item, "text", item)) for item in capsule.artifacts),
            inputs=capsule.inputs,
        )
        return policy.judge(action)

    return judge


def check_lease(turn: Turn) -> None:
    """Raise Conflict if the run is no longer ours."""
    if not turn.held():
        raise Conflict(
            "The lease of the run was lost while it was planned.",
            where=f"run {turn.run_id}",
            fix="Its new holder plans again.",
        )


@dataclass(frozen=True, kw_only=True)
class Review:
    """Looks at an action before it is accepted."""

    turn: Turn
    desk: Desk[Action]
    policy: Judge | None
    volume: Volume
    namespace: Namespace

    async def __call__(self, action: Action, tool: str) -> Action:
        """The action as it is to be carried out. Raise InvalidData with a refusal's reason for the model, and
        RemoteError for a fault of the workspace, or where the lease is lost: the model is not to blame.
        """
        turn = self.turn
        action = settled(action, value=turn.last_value, room=turn.children_left)
        # On threads: a workflow is read from a Volume, a policy parses programs, and control may ask the
        # workspace.
        if isinstance(action, RunSqlWorkflow):
            action = await asyncio.to_thread(gathered, action, volume=self.volume, namespace=self.namespace)
        finding = await asyncio.to_thread(self.policy, turn, action) if self.policy else None
        if finding is not None:
            self.desk.judged(finding, tool=tool, mode=turn.mode)
            if finding.refused:
                raise InvalidData(finding.reason)
        reason = await asyncio.to_thread(turn.review, action)
        if reason is not None:
            raise InvalidData(reason)
        check_lease(turn)
        return action
