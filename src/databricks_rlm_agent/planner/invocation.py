"""One conversation with a model, from its instruction to its one decision.

Imports google.adk at once: it is imported by those who are about to use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.apps import App
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import Runner
from google.adk.sessions import InMemorySessionService
from google.adk.tools.function_tool import FunctionTool
from google.genai import types

from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.planner.chain import ChainModel
from databricks_rlm_agent.planner.decision import PendingDecision
from databricks_rlm_agent.planner.plugins import BudgetGuard, Recorder
from databricks_rlm_agent.values import clip

_APP = "rlm"
_REASON_CHARS = 1_000


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What a model is told and may call. ``role`` names the agent, ``opening`` is the first message."""

    role: str
    instruction: str
    opening: str
    tools: Sequence[FunctionTool]
    endings: Sequence[str]
    """Names of those tools that end the conversation."""


async def converse(
    conversation: Conversation,
    *,
    model: ChainModel,
    pending: PendingDecision[Any],
    redact: Callable[[str], str],
    guards: Sequence[BasePlugin] = (),
) -> None:
    """Talk until the desk is closed: by a decision, or by a failure with its reason.

    ``guards`` are asked before our own plugins. Raises nothing: what stopped the desk is its ``fault``.
    """
    plugins = [
        *guards,
        BudgetGuard(pending, model.meter),
        Recorder(pending, names=[tool.name for tool in conversation.tools], redact=redact),
    ]
    try:
        await _talk(conversation, model, pending, redact, plugins)
    except RlmError as error:
        pending.fail(clip(redact(str(error)), _REASON_CHARS))
    except Exception as error:  # noqa: BLE001 - recorded: a model's fault, of whatever class, ends no controller
        pending.fail(clip(redact(f"{type(error).__name__}: {error}"), _REASON_CHARS))
    if pending.decision is not None or pending.fault is not None:
        pending.failure = None
    elif pending.failure is not None:
        pending.explain()


async def _talk(
    conversation: Conversation,
    model: ChainModel,
    pending: PendingDecision[Any],
    redact: Callable[[str], str],
    plugins: list[BasePlugin],
) -> None:
    agent = LlmAgent(
        name=conversation.role,
        model=model,
        # A function: in a plain text ADK would look for {state variables}, and ours holds braces of its own.
        instruction=lambda _context: conversation.instruction,
        tools=list(conversation.tools),
    )
    sessions = InMemorySessionService()
    runner = Runner(app=App(name=_APP, root_agent=agent, plugins=plugins), session_service=sessions)
    session = await sessions.create_session(app_name=_APP, user_id=_APP)
    message: str | None = conversation.opening
    while message is not None:
        problem = await _exchange(runner, session.id, message)
        if problem is not None:
            problem = clip(redact(problem), _REASON_CHARS)  # a provider's words: of any length, with any key
        message = _next_message(pending, problem, conversation.endings)


def _next_message(pending: PendingDecision[Any], problem: str | None, endings: Sequence[str]) -> str | None:
    """What to say to a model that has stopped: nothing once the desk is closed."""
    if pending.closed:
        return None
    if problem is None:
        pending.silence()
        message = f"You took no action. Call exactly one of: {', '.join(endings)}."
    else:
        pending.refuse(problem, tool="")
        message = f"Your last reply could not be used: {problem} Try again."
    return None if pending.closed else message


async def _exchange(runner: Runner, session_id: str, message: str) -> str | None:
    """Send a message and let the model work; return what was wrong with its last reply, if it was said."""
    problem = None
    content = types.Content(role="user", parts=[types.Part(text=message)])
    async for event in runner.run_async(user_id=_APP, session_id=session_id, new_message=content):
        problem = (
            f"{event.error_code}: {event.error_message or 'no further word'}" if event.error_code else None
        )
    return problem
