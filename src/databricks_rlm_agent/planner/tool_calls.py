"""Functions as ADK tools: arguments checked by type, errors answered instead of raised.

Imports google.adk at once: it is imported by those who are about to use it.
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
from databricks_rlm_agent.planner.tool_answers import MAX_CHARS
from databricks_rlm_agent.values import clip

Review = Callable[[Any, str], Awaitable[Any]]
"""A decision, made by the tool of that name, as it is to be carried out. Raises an RlmError with the reason
where it may not be, and RemoteError where that cannot be told now."""
_ACCEPTED = {"status": "accepted"}


class ReadTool(FunctionTool):
    """A read-only tool. It runs on a thread of its own, since it waits for a workspace."""

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        """The tool's answer, or ``{"error": …}``."""
        del tool_context
        try:
            return await asyncio.to_thread(self.func, **_checked(self.func, args))
        except RlmError as error:
            return {"error": _told(error)}


class ActionTool(FunctionTool):
    """A tool that ends the invocation: its function makes a decision of the arguments, or refuses them."""

    def __init__(
        self, func: Callable[..., Any], *, pending: PendingDecision[Any], review: Review | None = None
    ) -> None:
        super().__init__(func)
        self._desk = pending
        self._review = review

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        """``{"status": "accepted"}``, or ``{"error": reason}``, after which the model may try again."""
        async with self._desk.taking:
            answer = await self._taken(args)
        if self._desk.closed:
            # Without this the model would be asked to comment on what the tool said.
            tool_context.actions.skip_summarization = True
        return answer

    async def _taken(self, args: dict[str, Any]) -> dict[str, str]:
        if self._desk.decided:  # counted as no try: the invocation is over anyway
            return {"error": "Only one action is taken in an iteration, and one is taken already."}
        try:
            decision = self.func(**_checked(self.func, args))
            self._desk.accept(await self._review(decision, self.name) if self._review else decision)
        except RemoteError as error:
            self._desk.stop(error)
            return {"error": _told(error)}
        except RlmError as error:
            self._desk.refuse(_told(error), tool=self.name)
            return {"error": _told(error)}
        return _ACCEPTED


def _told(error: RlmError) -> str:
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
