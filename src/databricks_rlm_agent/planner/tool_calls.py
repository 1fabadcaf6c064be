"""Functions as ADK tools: arguments checked by type, errors answered instead of raised.

Imports google.adk at once: imported only by callers that are about to use it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, get_type_hints

from google.adk.tools.function_tool import FunctionTool
from google.adk.tools.tool_context import ToolContext
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from databricks_rlm_agent.errors import InvalidData, RemoteError, RlmError
from databricks_rlm_agent.planner.decision import PendingDecision
from databricks_rlm_agent.planner.tools import MAX_CHARS
from databricks_rlm_agent.values import clip

Review = Callable[[Any, str], Awaitable[Any]]
"""Returns a decision, made by the tool of that name, as it is to be carried out. Raises an RlmError with the
reason if it may not be, and RemoteError if that cannot be decided now."""
_ACCEPTED = {"status": "accepted"}


class ReadTool(FunctionTool):
    """A read-only tool. It runs on a thread of its own, since it waits for a workspace."""

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        """The tool's answer, or ``{"error": …}``."""
        del tool_context
        try:
            return await asyncio.to_thread(self.func, **_checked(self.func, args))
        except RlmError as error:
            return {"error": _reason(error)}


class ActionTool(FunctionTool):
    """A tool that ends the conversation: its function makes a decision of the arguments, or refuses them."""

    def __init__(
        self, func: Callable[..., Any], *, pending: PendingDecision[Any], review: Review | None = None
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
