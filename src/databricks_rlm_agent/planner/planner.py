"""The planner: one conversation per iteration, without history, on ADK.

google.adk is imported inside the functions that need it: it takes about a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from databricks_rlm_agent import threads
from databricks_rlm_agent.attempts.result import Result
from databricks_rlm_agent.planner.actions import actions
from databricks_rlm_agent.planner.models import Models
from databricks_rlm_agent.planner.prompt import OPENING, planner_prompt
from databricks_rlm_agent.planner.review import PendingDecision, Policy, Review, check_lease
from databricks_rlm_agent.planner.spending import Allowance, unpriced
from databricks_rlm_agent.planner.summarizer import Summarizer
from databricks_rlm_agent.planner.tools import Toolbox
from databricks_rlm_agent.policy.judge import GATED, gated_in
from databricks_rlm_agent.ports import CallRecorder, Planner, PlanningContext, PlanResult, Summary
from databricks_rlm_agent.runs.actions import Action

if TYPE_CHECKING:
    from databricks_rlm_agent.planner.chain import Meter

T = TypeVar("T")


class LoopThread:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threads.start("rlm-models", self._loop.run_forever)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end and return what it returns. Interrupting the caller cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
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


@dataclass(frozen=True, kw_only=True)
class AdkPlanner:
    """A Planner on google-adk. Safe to call from several threads at once.

    ``policy`` may refuse an action with a reason, which goes back to the model; ``gated`` names, by mode,
    tools and actions that are not offered and not answered (policy/judge.py). At most
    ``max_model_calls`` questions are asked in an iteration, each within ``timeout_s`` seconds; ``clock``
    counts seconds. What is left of the iteration's budget is checked before every call: an iteration that
    would exceed it ends with a failure that begins with ``budget:``, and with the calls it has made.
    """

    models: Models
    toolbox: Toolbox
    policy: Policy | None = None
    gated: Mapping[str, frozenset[str]] = field(default_factory=lambda: GATED)
    clock: Callable[[], float] = time.monotonic
    timeout_s: float = MODEL_TIMEOUT_S
    max_model_calls: int = MAX_MODEL_CALLS
    max_refusals: int = MAX_REFUSALS

    @property
    def model(self) -> str:
        """The model setting."""
        return self.models.name

    def plan(self, context: PlanningContext) -> PlanResult:
        """Decide; a model's fault is ``failure``, never an exception.

        ``fault`` is a Conflict if the lease is lost, or the error that kept an action from being reviewed.
        """
        if reason := self._unpriced(context):
            return PlanResult(action=None, failure=reason)
        return shared_loop().run(self._plan(context))

    def summarize(self, context: PlanningContext, result: Result) -> Summary:
        """Summarize a long result; ``delta`` is None for a short one, and if the model or budget failed."""
        if self._unpriced(context):
            return Summary(delta=None)
        meter = self.meter("summarizer", Allowance.left(context.budget), context.record)
        summarizer = Summarizer(
            models=self.models, context=context, result=result, meter=meter, volume=self.toolbox.volume
        )
        return shared_loop().run(summarizer.summarize())

    async def _plan(self, context: PlanningContext) -> PlanResult:
        from databricks_rlm_agent.planner.conversation import ActionTool, Conversation, ReadTool

        pending: PendingDecision[Action] = PendingDecision(
            max_refusals=self.max_refusals, redact=self.models.redact
        )
        meter = self.meter("planner", Allowance.left(context.budget), context.record)
        review = Review(
            context=context,
            pending=pending,
            policy=self.policy,
            volume=self.toolbox.volume,
            namespace=self.toolbox.namespace,
        )
        gated = gated_in(context.mode, self.gated)
        tools = [*self.toolbox.tools, *self.toolbox.results(context).tools]
        reads = [ReadTool(tool) for tool in tools if tool.__name__ not in gated]
        endings = [
            ActionTool(action, pending=pending, review=review)
            for action in actions(children_left=context.children_left)
            if action.__name__ not in gated
        ]
        conversation = Conversation(
            role="planner",
            model=self.models.open(
                role="planner", iter_n=context.iter_n, meter=meter, objective=context.capsule.objective
            ),
            instruction=planner_prompt(
                context,
                self.toolbox.namespace,
                actions={tool.name: tool.description for tool in endings},
                reads={tool.name: tool.description for tool in reads},
            ),
            opening=OPENING,
            tools=[*reads, *endings],
            pending=pending,
            before_call=lambda: check_lease(context),
            mode=context.mode,
            gated=self.gated,
        )
        await conversation.converse()
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
        unknown = self.models.unpriced()
        return unpriced(unknown) if unknown else None

    def meter(self, purpose: str, allowance: Allowance, recorder: CallRecorder) -> Meter:
        """Return the bounds of one conversation, each of whose calls is given to ``recorder``."""
        from databricks_rlm_agent.planner.chain import Meter

        return Meter(
            purpose=purpose,
            max_calls=self.max_model_calls,
            timeout_s=self.timeout_s,
            clock=self.clock,
            redact=self.models.redact,
            allowance=allowance,
            prices=self.models.prices,
            recorder=recorder,
        )


_PROBE_CALLS, _PROBE_TOKENS = 100, 100_000  # a chain asks each of its models once at most


def probe(planner: Planner) -> float | None:
    """Ask the planner's models for one word; return the seconds that took, None for a script.

    Raise ModelUnavailable where none answers, ModelOutage where one may later. It costs a few tokens, which
    no run is charged for.
    """
    from google.adk.models.llm_request import LlmRequest
    from google.genai import types

    if not isinstance(planner, AdkPlanner) or planner.models.scripted:
        return None
    meter = planner.meter("probe", Allowance(calls=_PROBE_CALLS, tokens=_PROBE_TOKENS), CallRecorder())
    model = planner.models.open(role="planner", iter_n=1, meter=meter, objective="")
    content = types.Content(role="user", parts=[types.Part(text="Reply with the word OK.")])
    request = LlmRequest(model=model.model, contents=[content])

    async def ask() -> None:
        async for _ in model.generate_content_async(request):
            return

    started = planner.clock()
    shared_loop().run(ask())
    return planner.clock() - started
