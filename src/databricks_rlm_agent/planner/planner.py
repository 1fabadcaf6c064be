"""The planner: one conversation per iteration, without history, on ADK.

google.adk is imported inside the functions that need it: it takes about a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from databricks_rlm_agent.attempts.result import Result
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.models import Price
from databricks_rlm_agent.planner.actions import actions
from databricks_rlm_agent.planner.decision import PendingDecision
from databricks_rlm_agent.planner.models import Models
from databricks_rlm_agent.planner.prompt import OPENING, planner_prompt
from databricks_rlm_agent.planner.review import Judge, Review
from databricks_rlm_agent.planner.spending import Allowance, unpriced
from databricks_rlm_agent.planner.summarizer import summarize
from databricks_rlm_agent.planner.tools import Toolbox
from databricks_rlm_agent.policy.rules import GATED, gated_in
from databricks_rlm_agent.ports import (
    Catalog,
    Ledger,
    Planner,
    PlanningContext,
    PlanResult,
    SqlSession,
    Summary,
    Volume,
)
from databricks_rlm_agent.runs.actions import Action
from databricks_rlm_agent.secrets import Secret

if TYPE_CHECKING:
    from databricks_rlm_agent.planner.chain import Meter

T = TypeVar("T")


class LoopThread:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="rlm-models", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end and return what it returns. Interrupting the caller cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


@cache
def shared_loop() -> LoopThread:
    """The process's loop: model clients keep connections that belong to the loop they were opened on."""
    return LoopThread()


MAX_MODEL_CALLS = 12
MAX_REFUSALS = 3
MODEL_TIMEOUT_S = 300.0


class AdkPlanner:
    """A Planner on google-adk. Safe to call from several threads at once.

    ``policy`` may refuse an action with a reason, which goes back to the model; ``gated`` names, by mode,
    tools and actions that are not offered and not answered (policy/rules.py). At most
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

    def plan(self, context: PlanningContext) -> PlanResult:
        """Decide; a model's fault is ``failure``, never an exception.

        ``fault`` is a Conflict where the lease is lost, or what kept an action from being reviewed.
        """
        if reason := self._unpriced(context):
            return PlanResult(action=None, failure=reason)
        return shared_loop().run(self._plan(context))

    def summarize(self, context: PlanningContext, result: Result) -> Summary:
        """Compress a long result; ``delta`` is None for a short one, and where the model or budget failed."""
        if self._unpriced(context):
            return Summary(delta=None)
        meter = self._meter("summarizer", context)
        return shared_loop().run(
            summarize(self._models, context, result, meter=meter, volume=self._toolbox.volume)
        )

    async def _plan(self, context: PlanningContext) -> PlanResult:
        from databricks_rlm_agent.planner.invocation import Conversation, converse
        from databricks_rlm_agent.planner.plugins import LeaseGuard, PolicyGuard
        from databricks_rlm_agent.planner.tool_calls import ActionTool, ReadTool

        pending: PendingDecision[Action] = PendingDecision(
            max_refusals=self._max_refusals, redact=self._models.redact
        )
        meter = self._meter("planner", context)
        review = Review(
            context=context,
            pending=pending,
            policy=self._policy,
            volume=self._toolbox.volume,
            namespace=self._namespace,
        )
        gated = gated_in(context.mode, self._gated)
        reads = [ReadTool(tool) for tool in self._toolbox.for_run(context) if tool.__name__ not in gated]
        taken = [one for one in actions(children_left=context.children_left) if one.__name__ not in gated]
        endings = [ActionTool(action, pending=pending, review=review) for action in taken]
        conversation = Conversation(
            role="planner",
            instruction=planner_prompt(
                context,
                self._namespace,
                actions={tool.name: tool.description for tool in endings},
                reads={tool.name: tool.description for tool in reads},
            ),
            opening=OPENING,
            tools=[*reads, *endings],
            endings=[tool.name for tool in endings],
        )
        model = self._models.open(
            role="planner", iter_n=context.iter_n, meter=meter, objective=context.capsule.objective
        )
        guards = [PolicyGuard(pending, mode=context.mode, gated=self._gated), LeaseGuard(pending, context)]
        await converse(conversation, model=model, pending=pending, redact=self._models.redact, guards=guards)
        return PlanResult(
            action=pending.decision,
            failure=pending.failure,
            fault=pending.fault,
            calls=tuple(meter.calls),
            notes=tuple(pending.notes),
        )

    def _unpriced(self, context: PlanningContext) -> str | None:
        if context.budget.max_cost_usd is None:
            return None
        unknown = self._models.unpriced()
        return unpriced(unknown) if unknown else None

    def _meter(self, purpose: str, context: PlanningContext) -> Meter:
        from databricks_rlm_agent.planner.chain import Meter

        return Meter(
            purpose=purpose,
            max_calls=self._max_model_calls,
            timeout_s=self._timeout_s,
            clock=self._clock,
            redact=self._models.redact,
            allowance=Allowance.left(context.budget),
            prices=self._models.prices,
        )


def create_planner(
    model_setting: str,
    *,
    volume: Volume,
    catalog: Catalog,
    sql: SqlSession,
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
