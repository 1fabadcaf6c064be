"""One conversation with a model, from its instruction to its one decision, on google-adk.

Functions become tools: their arguments are checked by type, and errors are answered instead of raised.

It imports google.adk at once: imported only by callers that are about to use it.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, get_type_hints

from google.adk.agents import LlmAgent
from google.adk.agents.callback_context import CallbackContext
from google.adk.apps import App
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import Runner
from google.adk.sessions import InMemorySessionService
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.function_tool import FunctionTool
from google.adk.tools.tool_context import ToolContext
from google.genai import types
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from databricks_rlm_agent.errors import Conflict, InvalidData, PlannerError, RemoteError, RlmError
from databricks_rlm_agent.planner.chain import ChainModel
from databricks_rlm_agent.planner.review import PendingDecision
from databricks_rlm_agent.planner.tools import MAX_CHARS
from databricks_rlm_agent.policy.judge import gate
from databricks_rlm_agent.ports import PlannerNote
from databricks_rlm_agent.values import clip, storable

MAX_CALLS = 16
"""Most tool calls of one reply that are looked at: their answers all go into the next prompt."""
_APP = "rlm"
_REASON_CHARS = 1_000
_ARGS_CHARS = 1_000
_NAME_CHARS = 80
_ERROR_CHARS = 500


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A model, its instruction and its tools, and the decision that is pending until the conversation ends.

    ``role`` names the agent, ``opening`` is the first message. ``before_call`` is called before each
    question; it may raise PlannerError (the model's failure) or Conflict (nobody's). In ``mode`` the tools of
    ``gated`` are refused, registered or not (policy/judge.py).
    """

    role: str
    model: ChainModel
    instruction: str
    opening: str
    tools: Sequence[FunctionTool]
    pending: PendingDecision[Any]
    before_call: Callable[[], None] = lambda: None
    mode: str = ""
    gated: Mapping[str, frozenset[str]] = field(default_factory=dict)

    async def converse(self) -> None:
        """Talk until a decision, a failure or a fault is pending. Raise nothing."""
        pending = self.pending
        try:
            await self._talk()
        except RemoteError as error:
            pending.stop(error)
        except RlmError as error:
            pending.fail(clip(pending.redact(str(error)), _REASON_CHARS))
        except Exception as error:  # noqa: BLE001 - recorded: a model's fault, of whatever class, ends no controller
            pending.fail(clip(pending.redact(f"{type(error).__name__}: {error}"), _REASON_CHARS))
        if pending.decided:
            pending.failure = None
        elif pending.failure is not None:
            pending.explain()

    async def _talk(self) -> None:
        agent = LlmAgent(
            name=self.role,
            model=self.model,
            # A function: in a plain text ADK would look for {state variables}, and ours holds braces.
            instruction=lambda _context: self.instruction,
            tools=list(self.tools),
        )
        sessions = InMemorySessionService()
        app = App(name=_APP, root_agent=agent, plugins=[_Plugin(self)])
        runner = Runner(app=app, session_service=sessions)
        session = await sessions.create_session(app_name=_APP, user_id=_APP)
        message: str | None = self.opening
        while message is not None:
            problem = await _exchange(runner, session.id, message)
            if problem is not None:  # a provider's text: of any length, with any key
                problem = clip(self.pending.redact(problem), _REASON_CHARS)
            message = self._next_message(problem)

    def _next_message(self, problem: str | None) -> str | None:
        """Return the message to a model that has stopped; None once the conversation is over."""
        if self.pending.closed:
            return None
        if problem is None:
            self.pending.no_action()
            endings = [tool.name for tool in self.tools if isinstance(tool, ActionTool)]
            message = f"You took no action. Call exactly one of: {', '.join(endings)}."
        else:
            self.pending.refuse(problem, tool="")
            message = f"Your last reply could not be used: {problem} Try again."
        return None if self.pending.closed else message


async def _exchange(runner: Runner, session_id: str, message: str) -> str | None:
    """Send a message and let the model work; return what was wrong with its last reply, if anything was."""
    problem = None
    content = types.Content(role="user", parts=[types.Part(text=message)])
    async for event in runner.run_async(user_id=_APP, session_id=session_id, new_message=content):
        problem = f"{event.error_code}: {event.error_message or 'no message'}" if event.error_code else None
    return problem


class _Plugin(BasePlugin):
    """Stands between ADK and the model: bounds, the lease, the policy on tools, and notes of all calls."""

    def __init__(self, conversation: Conversation) -> None:
        super().__init__(name="rlm")
        self._conversation, self._pending = conversation, conversation.pending
        self._names = [tool.name for tool in conversation.tools]
        self._unencodable: set[str] = set()

    async def before_model_callback(
        self, *, callback_context: CallbackContext, llm_request: LlmRequest
    ) -> LlmResponse | None:
        """End the conversation where the question may not be asked; else count it."""
        del callback_context, llm_request
        try:
            self._conversation.before_call()
            self._conversation.model.meter.begin()
        except Conflict as error:
            self._pending.stop(error)
        except PlannerError as error:
            self._pending.fail(str(error))
        else:
            return None
        return last_response()

    async def after_model_callback(
        self, *, callback_context: CallbackContext, llm_response: LlmResponse
    ) -> LlmResponse | None:
        """Leave out tool calls beyond the bound, and those without a name; note how many they were.

        What no request could hold is taken out of the history: a lone surrogate would end every later call.
        """
        del callback_context
        content = llm_response.content
        parts = [self._encodable(part) for part in (content.parts if content else None) or []]
        if content is not None and parts != content.parts:
            content = content.model_copy(update={"parts": parts})
            llm_response = llm_response.model_copy(update={"content": content})
        calls = [part for part in parts if part.function_call]
        kept = [part for part in calls if part.function_call and part.function_call.name][:MAX_CALLS]
        if content is None or len(kept) == len(calls):
            return llm_response
        self._pending.notes.append(
            PlannerNote(kind="tool_calls_left_out", payload={"count": len(calls) - len(kept)})
        )
        allowed = {id(part) for part in kept}
        left = [part for part in parts if not part.function_call or id(part) in allowed]
        return llm_response.model_copy(update={"content": content.model_copy(update={"parts": left})})

    async def before_tool_callback(
        self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: ToolContext
    ) -> dict[str, Any] | None:
        """Answer in the tool's place where it is gated, or was called with what cannot be encoded."""
        if (key := _key(tool.name, tool_args)) in self._unencodable:
            self._unencodable.discard(key)
            reason = (
                "The arguments hold half of a character (a lone surrogate). Write the call again without."
            )
            return self._refuse(reason, tool.name, tool_context)
        mode = self._conversation.mode
        finding = gate(tool.name, mode, self._conversation.gated)
        if finding is None:
            return None
        self._pending.note_finding(finding, tool=tool.name, mode=mode)
        return self._refuse(finding.reason, tool.name, tool_context)

    async def after_tool_callback(
        self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: ToolContext, result: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Note a call that was answered."""
        del tool_context
        self._note(tool, tool_args, str(result["error"]) if "error" in result else None)
        return None

    async def on_tool_error_callback(
        self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: ToolContext, error: Exception
    ) -> dict[str, Any] | None:
        """Turn an unknown tool's name, or a tool's own defect, into an answer that the model can act on."""
        if tool.name not in self._names:
            reason = f"There is no tool {tool.name[:_NAME_CHARS]!r}. The tools are: {', '.join(self._names)}."
        else:
            reason = self._pending.redact(f"{tool.name} failed: {type(error).__name__}: {error}")
        reason = clip(reason, _ERROR_CHARS)
        self._note(tool, tool_args, reason)
        return self._refuse(reason, clip(tool.name, _NAME_CHARS), tool_context)

    def _encodable(self, part: types.Part) -> types.Part:
        """A part of a reply as it can be sent again; a call that was changed for it is refused later."""
        if part.text is not None:
            return (
                part
                if storable(part.text) == part.text
                else part.model_copy(update={"text": storable(part.text)})
            )
        if part.function_call is None:
            return part
        call = part.function_call
        name, arguments = storable(call.name or ""), _as_json(call.args or {})
        if name == (call.name or "") and storable(arguments) == arguments:
            return part
        clean = call.model_copy(update={"name": name, "args": json.loads(storable(arguments))})
        self._unencodable.add(_key(name, clean.args or {}))
        return part.model_copy(update={"function_call": clean})

    def _refuse(self, reason: str, tool: str, tool_context: ToolContext) -> dict[str, Any]:
        self._pending.refuse(reason, tool=tool)
        if self._pending.closed:
            tool_context.actions.skip_summarization = True
        return {"error": reason}

    def _note(self, tool: BaseTool, arguments: dict[str, Any], error: str | None) -> None:
        shown = clip(json.dumps(arguments, ensure_ascii=False, default=str), _ARGS_CHARS)
        payload: dict[str, Any] = {"tool": clip(tool.name, _NAME_CHARS), "args": self._pending.redact(shown)}
        if error is not None:
            payload["error"] = self._pending.redact(clip(error, _ERROR_CHARS))
        self._pending.notes.append(PlannerNote(kind="tool_call", payload=payload))


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:  # refused by the tool
        return "{}"


def _key(tool: str, arguments: Mapping[str, Any]) -> str:
    return f"{tool} {_as_json(arguments)}"


def last_response() -> LlmResponse:
    """A response without a call, after which ADK asks nothing more."""
    text = types.Part(text="(The conversation is over.)")
    return LlmResponse(content=types.Content(role="model", parts=[text]))


Reviewer = Callable[[Any, str], Awaitable[Any]]
"""Returns a decision, made by the tool of that name, as it is to be carried out. Raises an RlmError with the
reason if it may not be, and RemoteError if that cannot be decided now."""
_ACCEPTED = {"status": "accepted"}


class ReadTool(FunctionTool):
    """A read-only tool. It runs on a thread of its own, since it waits for a workspace."""

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        """The tool's answer, or ``{"error": …}``."""
        del tool_context
        try:
            answer = await asyncio.to_thread(self.func, **_checked(self.func, args))
            return json.loads(storable(_as_json(answer)))  # what was read may hold anything
        except RlmError as error:
            return {"error": _reason(error)}


class ActionTool(FunctionTool):
    """A tool that ends the conversation: its function makes a decision of the arguments, or refuses them."""

    def __init__(
        self, func: Callable[..., Any], *, pending: PendingDecision[Any], review: Reviewer | None = None
    ) -> None:
        super().__init__(func)
        self._pending = pending
        self._review = review

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        """``{"status": "accepted"}``, or ``{"error": reason}``, after which the model may try again."""
        async with self._pending.lock:
            answer = await self._decide(args)
        if self._pending.closed:
            # Without this the model would be asked to comment on the answer.
            tool_context.actions.skip_summarization = True
        return answer

    async def _decide(self, args: dict[str, Any]) -> dict[str, str]:
        if self._pending.decided:  # not counted as a try: the conversation is over anyway
            return {"error": "Only one action is taken in an iteration, and one is taken already."}
        try:
            decision = self.func(**_checked(self.func, args))
            self._pending.accept(await self._review(decision, self.name) if self._review else decision)
        except RemoteError as error:
            self._pending.stop(error)
            return {"error": _reason(error)}
        except RlmError as error:
            self._pending.refuse(_reason(error), tool=self.name)
            return {"error": _reason(error)}
        return _ACCEPTED


def _reason(error: RlmError) -> str:
    return clip(str(error), MAX_CHARS // 2)


def _checked(func: Callable[..., Any], args: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the types that the function asks for; raise InvalidData otherwise."""
    try:
        values = _arguments(func).model_validate(args)
    except ValidationError as error:
        problems = [
            f"{_place(problem['loc'])}: {problem['msg']}" for problem in error.errors(include_url=False)
        ]
        expected = ", ".join(_arguments(func).model_fields)
        raise InvalidData(
            f"The arguments do not fit: {clip('; '.join(problems), 500)}.",
            fix=f"The arguments are: {expected}.",
        ) from None
    return {name: getattr(values, name) for name in type(values).model_fields}


@lru_cache(maxsize=64)
def _arguments(func: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(func)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(func).parameters.items()
    }
    return create_model(f"{func.__name__}_arguments", __config__=ConfigDict(extra="forbid"), **fields)


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)
