"""The planner: one conversation per iteration, without history, on ADK.

google.adk is imported inside the functions that need it: it takes about a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from databricks_rlm_agent.agent.actions import actions
from databricks_rlm_agent.agent.allowance import Allowance, unpriced
from databricks_rlm_agent.agent.desk import Desk
from databricks_rlm_agent.agent.loop import shared_loop
from databricks_rlm_agent.agent.models import Models
from databricks_rlm_agent.agent.prompt import OPENING, planner_prompt
from databricks_rlm_agent.agent.review import Judge, Review
from databricks_rlm_agent.agent.summarizer import summarize
from databricks_rlm_agent.agent.tools import Toolbox
from databricks_rlm_agent.domain.actions import Action
from databricks_rlm_agent.domain.layout import Namespace
from databricks_rlm_agent.domain.policy.gating import GATED, gated_in
from databricks_rlm_agent.domain.prices import Price
from databricks_rlm_agent.domain.result import Result
from databricks_rlm_agent.domain.secret import Secret
from databricks_rlm_agent.ports import Catalog, Ledger, Planned, Planner, SqlBackend, Summary, Turn, Volume

if TYPE_CHECKING:
    from databricks_rlm_agent.agent.chain import Meter

MAX_MODEL_CALLS = 12
MAX_REFUSALS = 3
MODEL_TIMEOUT_S = 300.0


class AdkPlanner:
    """A Planner on google-adk. Safe to call from several threads at once.

    ``policy`` may refuse an action with a reason, which goes back to the model; ``gated`` names, by mode,
    tools and actions that are not offered and not answered (domain/policy/gating.py). At most
    ``max_model_calls`` questions are asked in an iteration, each within ``timeout_s`` seconds; ``clock``
    counts seconds. What is left of the turn's budget is looked at before every call: a turn that would pass
    it ends with a failure that begins with ``budget:``, and with the calls it has made.
    """

    def __init__(
        self,
        *,
        models: Models,
        toolbox: Toolbox,
        namespace: Namespace,
        policy: Judge | None = None,
        gated: Mapping[str, frozenset[str]] = GATED,
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = MODEL_TIMEOUT_S,
        max_model_calls: int = MAX_MODEL_CALLS,
        max_refusals: int = MAX_REFUSALS,
    ) -> None:
        self._models, self._toolbox, self._namespace = models, toolbox, namespace
        self._gated = gated
        self._policy, self._clock, self._timeout_s = policy, clock, timeout_s
        self._max_model_calls, self._max_refusals = max_model_calls, max_refusals

    @property
    def model(self) -> str:
        """The model setting."""
        return self._models.name

    def plan(self, turn: Turn) -> Planned:
        """Decide; a model's fault is ``failure``, never an exception.

        ``fault`` is a Conflict where the lease is lost, or what kept an action from being reviewed.
        """
        if reason := self._unpriced(turn):
            return Planned(action=None, failure=reason)
        return shared_loop().run(self._plan(turn))

    def summarize(self, turn: Turn, result: Result) -> Summary:
        """Compress a long result; ``delta`` is None for a short one, and where the model or budget failed."""
        if self._unpriced(turn):
            return Summary(delta=None)
        meter = self._meter("summarizer", turn)
        return shared_loop().run(
            summarize(self._models, turn, result, meter=meter, volume=self._toolbox.volume)
        )

    async def _plan(self, turn: Turn) -> Planned:
        from databricks_rlm_agent.agent.checked import ActionTool, ReadTool
        from databricks_rlm_agent.agent.invocation import Conversation, converse
        from databricks_rlm_agent.agent.plugins.lease import LeaseGuard
        from databricks_rlm_agent.agent.plugins.policy import PolicyGuard

        desk: Desk[Action] = Desk(max_refusals=self._max_refusals, redact=self._models.redact)
        meter = self._meter("planner", turn)
        review = Review(
            turn=turn,
            desk=desk,
            policy=self._policy,
            volume=self._toolbox.volume,
            namespace=self._namespace,
        )
        gated = gated_in(turn.mode, self._gated)
        reads = [ReadTool(tool) for tool in self._toolbox.for_run(turn) if tool.__name__ not in gated]
        taken = [one for one in actions(children_left=turn.children_left) if one.__name__ not in gated]
        endings = [ActionTool(action, desk=desk, review=review) for action in taken]
        conversation = Conversation(
            role="planner",
            instruction=planner_prompt(
                turn,
                self._namespace,
                actions={tool.name: tool.description for tool in endings},
                reads={tool.name: tool.description for tool in reads},
            ),
            opening=OPENING,
            tools=[*reads, *endings],
            endings=[tool.name for tool in endings],
        )
        model = self._models.open(
            role="planner", iter_n=turn.iter_n, meter=meter, objective=turn.capsule.objective
        )
        guards = [PolicyGuard(desk, mode=turn.mode, gated=self._gated), LeaseGuard(desk, turn)]
        await converse(conversation, model=model, desk=desk, redact=self._models.redact, guards=guards)
        return Planned(
            action=desk.decision,
            failure=desk.failure,
            fault=desk.fault,
            calls=tuple(meter.calls),
            notes=tuple(desk.notes),
        )

    def _unpriced(self, turn: Turn) -> str | None:
        if turn.budget.max_cost_usd is None:
            return None
        unknown = self._models.unpriced()
        return unpriced(unknown) if unknown else None

    def _meter(self, purpose: str, turn: Turn) -> Meter:
        from databricks_rlm_agent.agent.chain import Meter

        return Meter(
            purpose=purpose,
            max_calls=self._max_model_calls,
            timeout_s=self._timeout_s,
            clock=self._clock,
            redact=self._models.redact,
            allowance=Allowance.left(turn.budget),
            prices=self._models.prices,
        )


def create_planner(
    model_setting: str,
    *,
    volume: Volume,
    catalog: Catalog,
    sql: SqlBackend,
    namespace: Namespace,
    secrets: Mapping[str, Secret] | None = None,
    policy: Judge | None = None,
    gated: Mapping[str, frozenset[str]] = GATED,
    timeout_s: float = MODEL_TIMEOUT_S,
    prices: Mapping[str, Price] | None = None,
    ledger: Ledger | None = None,
) -> Planner:
    """A planner for a model setting.

    ``secrets`` are by key, as ``load_secrets(…).values`` has them; ``prices`` by model name, as
    ``Settings.prices`` has them. With ``ledger`` the planner finds results of which there is no file.

    Raises ConfigError for an unknown form, a missing package or a missing key, and UsageError for a script
    that cannot be used.
    """
    return AdkPlanner(
        models=Models(model_setting, secrets=secrets or {}, prices=prices),
        toolbox=Toolbox(volume=volume, catalog=catalog, sql=sql, namespace=namespace, ledger=ledger),
        namespace=namespace,
        policy=policy,
        gated=gated,
        timeout_s=timeout_s,
    )
