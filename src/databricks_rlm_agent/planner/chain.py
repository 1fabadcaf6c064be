"""A chain of models: the next is tried when one fails; every call is timed, bounded and recorded.

Errors of providers become ours here. Each provider's library has its own classes; all of them keep the HTTP
status where there is one, and most the response with its headers.

The scripted model is one as well: a fake for a language model, so that everything else can be real. Imports
google.adk at once: imported only by callers that are about to use it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from google.adk.models import BaseLlm, LlmCapabilities
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai import types
from pydantic import PrivateAttr

from databricks_rlm_agent.errors import (
    Forbidden,
    ModelOutage,
    ModelUnavailable,
    NotFound,
    PlannerError,
    Rejected,
    RemoteError,
    RlmError,
    Throttled,
    Unauthorized,
    Unreachable,
)
from databricks_rlm_agent.planner.script import Reply, Script
from databricks_rlm_agent.planner.spending import Allowance, Prices, tokens_of
from databricks_rlm_agent.ports import CallRecorder, ModelCall
from databricks_rlm_agent.retry import MODELS, is_transient
from databricks_rlm_agent.runs.budget import Usage
from databricks_rlm_agent.values import clip
from executor_harness.rlm.client import retry_after

log = logging.getLogger(__name__)

_REASON_CHARS = 400
COST = "rlm_cost_usd"
"""Key of a response's ``custom_metadata`` with its whole cost, from a model that sets its own."""


@dataclass(kw_only=True)
class Meter:
    """The bounds of one conversation with models, and the calls it made.

    ``max_calls`` bounds questions; ``allowance`` bounds tokens, cost and calls, of which a chain may make
    several for a question. Each call is given to ``recorder`` before it is made. ``redact`` hides keys in
    errors.
    """

    purpose: str
    max_calls: int
    timeout_s: float
    clock: Callable[[], float]
    redact: Callable[[str], str]
    allowance: Allowance
    prices: Prices
    recorder: CallRecorder = field(default_factory=CallRecorder)
    asked: int = 0
    calls: list[ModelCall] = field(default_factory=list)

    def begin(self) -> None:
        """Count one question; raise PlannerError if it is one too many."""
        if self.asked >= self.max_calls:
            raise PlannerError(f"The model was asked {self.max_calls} times and took no action.")
        self.asked += 1

    def admit(self, model: str, prompt_tokens: int) -> int | None:
        """The reply's limit in tokens, None for the model's own; raise PlannerError if nothing is left."""
        left = self.allowance
        for call in self.calls:
            left = left.less(call.usage)
        limit = left.reply_tokens(prompt_tokens, model=model, price=self.prices.of(model))
        return limit if limit < self.prices.reply_tokens(model) else None

    def at_least(self, model: str, prompt_tokens: int) -> Usage:
        """Return what a call uses if it is answered with nothing."""
        price = self.prices.of(model)
        cost = price.cost(input_tokens=prompt_tokens, output_tokens=0) if price else 0.0
        return Usage(calls=1, input_tokens=prompt_tokens, cost_usd=cost)

    def record(
        self, model: str, started: float, usage: Usage, error: str | None = None, *, cost: float | None = None
    ) -> None:
        """Record one model call, failed ones too; ``cost`` in US dollars if the model reports it."""
        price = self.prices.of(model)
        if cost is None and price is not None:
            cost = price.cost(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
        seconds = self.clock() - started
        usage = usage.model_copy(update={"cost_usd": cost or 0.0})
        error = None if error is None else clip(self.redact(error), _REASON_CHARS)
        self.calls.append(
            ModelCall(model=model, purpose=self.purpose, usage=usage, seconds=seconds, error=error)
        )
        spent = f"{usage.input_tokens} tokens in, {usage.output_tokens} out, ${usage.cost_usd:.6f}"
        log.info("%s: %s took %.1f s, %s", self.purpose, model, seconds, spent)


class ChainModel(BaseLlm):
    """Asks its models in order until one answers. The one that answered is asked first from then on.

    Raises ModelOutage if none does, also after a short wait, and one of them may later; ModelUnavailable if
    none ever will; both with each one's reason.
    """

    links: list[BaseLlm]
    meter: Meter
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep

    @property
    def capabilities(self) -> LlmCapabilities:
        """Nothing beyond text and tool calls is used."""
        return LlmCapabilities()

    async def generate_content_async(
        self,
        llm_request: LlmRequest,
        stream: bool = False,  # noqa: ARG002 - the base class has it; a planner has no use for fragments
    ) -> AsyncGenerator[LlmResponse, None]:
        """Yield one whole response."""
        yield await MODELS.retrying_async(self.wait)(self._round, llm_request, _prompt_tokens(llm_request))

    async def _round(self, request: LlmRequest, prompt_tokens: int) -> LlmResponse:
        """Ask every model once, until one answers."""
        errors: list[RemoteError] = []
        for link in self.links:
            answer = await self._asked(link, request, prompt_tokens)
            if isinstance(answer, LlmResponse):
                first = self.links.index(link)
                self.links = self.links[first:] + self.links[:first]
                return answer
            errors.append(answer)
        what = f"No model answered. {' | '.join(error.what for error in errors)}"
        if all(is_final(error) for error in errors):
            raise ModelUnavailable(what, fix=errors[0].fix)
        pauses = [getattr(error, "retry_after", None) for error in errors if not is_final(error)]
        # The one that may be asked first decides; one that does not say when may be asked at once.
        raise ModelOutage(what, retry_after=min(pause or 0.0 for pause in pauses) or None)

    async def _asked(
        self, link: BaseLlm, request: LlmRequest, prompt_tokens: int
    ) -> LlmResponse | RemoteError:
        """One model's response, or why there is none; recorded."""
        limit = self.meter.admit(link.model, prompt_tokens)
        await asyncio.to_thread(self.meter.recorder.asking, self.meter.at_least(link.model, prompt_tokens))
        started = self.meter.clock()
        try:
            async with asyncio.timeout(self.meter.timeout_s):
                response = await _ask(link, request, limit)
        except RlmError as error:  # our own: a script's end, which no other model can mend
            self.meter.record(link.model, started, Usage(calls=1), str(error))
            raise
        except Exception as error:  # noqa: BLE001 - each provider has its own classes; all are recorded
            usage, reason = Usage(), self._reason(error)
            if isinstance(error, TimeoutError):  # cut off, but read: it may have to be paid for
                usage = Usage(calls=1, input_tokens=prompt_tokens)
            else:
                self.meter.recorder.not_charged()
            self.meter.record(link.model, started, usage, reason)
            log.warning("model %s: %s; the next one of the chain is asked", link.model, reason)
            return model_error(error, f"{link.model}: {reason}")
        cost = (response.custom_metadata or {}).get(COST)
        self.meter.record(
            link.model, started, _usage(response, prompt_tokens), response.error_message, cost=cost
        )
        return response

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self.meter.timeout_s:g} s"
        # google-adk puts its advice before some; after the first line LiteLLM adds links and the request.
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
        line = str(error).strip().partition("\n")[0]
        return clip(self.meter.redact(f"{type(error).__name__}: {line}"), _REASON_CHARS)


async def _ask(link: BaseLlm, request: LlmRequest, limit: int | None) -> LlmResponse:
    # A copy, because models write into the request; and each must see its own name, not the chain's.
    limited = {} if limit is None else {"max_output_tokens": limit}
    own = request.model_copy(
        update={
            "model": link.model,
            "config": request.config.model_copy(update=limited),
            "contents": list(request.contents),
        }
    )
    responses = [response async for response in link.generate_content_async(own, stream=False)]
    if not responses:
        raise PlannerError("The model sent no response.")
    return responses[-1]


def _prompt_tokens(request: LlmRequest) -> int:
    """An upper estimate of what a request holds: instruction, conversation and the tools' declarations."""
    config = request.config.model_dump(exclude_none=True, include={"system_instruction", "tools"})
    return tokens_of([config, [content.model_dump(exclude_none=True) for content in request.contents]])


def _usage(response: LlmResponse, prompt_tokens: int) -> Usage:
    """Return the reported usage; an upper estimate of what is not reported, so that budgets hold.

    Gemini counts reasoning beside the answer, and prompts of its tools beside the prompt; providers behind
    LiteLLM count reasoning within the answer, and some leave cached tokens out of the prompt. Their total
    tells.
    """
    found = response.usage_metadata or types.GenerateContentResponseUsageMetadata()
    read = max(0, found.prompt_token_count or 0) + max(0, found.tool_use_prompt_token_count or 0)
    written, thought = max(0, found.candidates_token_count or 0), max(0, found.thoughts_token_count or 0)
    total = found.total_token_count or 0
    if not written + thought:
        reply = response.content.model_dump(exclude_none=True) if response.content else ""
        written = max(total - read, 0) if read and total > read else tokens_of(reply)
    read = read or prompt_tokens
    beside = min(max(total - read - written, 0), thought) if total else thought
    cached = max(total - read - written - beside, 0)
    return Usage(calls=1, input_tokens=read + cached, output_tokens=written + beside)


class ScriptedModel(BaseLlm):
    """Replays one role's replies of one iteration, for the run with that objective.

    Made anew for each invocation: it counts its calls.
    """

    script: Script
    role: str
    iter_n: int
    objective: str = ""
    _calls: int = PrivateAttr(default=0)

    async def generate_content_async(
        self,
        llm_request: LlmRequest,
        stream: bool = False,  # noqa: ARG002 - the base class has it
    ) -> AsyncGenerator[LlmResponse, None]:
        """Yield the next reply; raise ScriptExhausted past the end."""
        self._calls += 1
        if self.script.latency_s:
            await asyncio.sleep(self.script.latency_s)
        reply = self.script.reply(self.role, self.iter_n, self._calls, objective=self.objective)
        yield LlmResponse(
            content=types.Content(role="model", parts=[_scripted_part(reply)]),
            usage_metadata=_scripted_usage(llm_request, reply),
            custom_metadata={COST: reply.usage.cost_usd},
        )


def _scripted_part(reply: Reply) -> types.Part:
    if reply.call is not None:
        return types.Part(function_call=types.FunctionCall(name=reply.call, args=reply.args))
    return types.Part(text=reply.text)


def _scripted_usage(request: LlmRequest, reply: Reply) -> types.GenerateContentResponseUsageMetadata:
    parts = [part for content in request.contents for part in content.parts or []]
    prompt_chars = len(str(request.config.system_instruction or "")) + sum(len(str(part)) for part in parts)
    reply_chars = len(reply.text or "") + len(str(reply.args or ""))
    given = reply.usage  # what the script leaves out is characters / 4
    read = prompt_chars // 4 if given.input_tokens is None else given.input_tokens
    written = reply_chars // 4 if given.output_tokens is None else given.output_tokens
    return types.GenerateContentResponseUsageMetadata(
        prompt_token_count=read, candidates_token_count=written, total_token_count=read + written
    )


# Request time-out, conflict (a model that is being loaded), too early, too many requests.
_LATER = frozenset({408, 409, 425, 429})
# What HTTP libraries raise where there was no answer, or one that is not what was asked for.
_LIBRARIES = ("google", "httpx", "httpcore", "aiohttp", "openai", "json", "urllib3", "requests")


def model_error(error: Exception, reason: str) -> RemoteError:
    """Return our error for one that a provider's library has raised, with ``reason`` as its text."""
    status = _status(error)
    if status in _LATER or (status == 503 and _retry_after_s(error) is not None):
        return Throttled(reason, retry_after=_retry_after_s(error))
    if status == 401:
        return Unauthorized(reason, fix="Check the key: rlm-agent secrets check.")
    if status == 403:
        return Forbidden(reason, fix="Ask for access to the model, or use a key that has it.")
    if status == 404:
        return NotFound(reason, fix="Check the model's name (RLM_MODEL).")
    if status is not None and 400 <= status < 500:
        return Rejected(reason, fix="The provider refuses the request; name another model in RLM_MODEL.")
    if status is not None or isinstance(error, OSError) or _of_a_library(error):
        return Unreachable(reason)
    return Rejected(reason, fix="This is no error of a provider's; name another model in RLM_MODEL.")


def is_final(error: RemoteError) -> bool:
    """Return whether asking the model again is no use. A key that was refused is not read anew."""
    return isinstance(error, Unauthorized) or not is_transient(error)


def _status(error: Exception) -> int | None:
    for name in ("status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None


def _retry_after_s(error: Exception) -> float | None:
    """Seconds of the header ``Retry-After``; None where there is none."""
    # LiteLLM makes a response of its own, and keeps the headers beside it.
    headers: Any = getattr(error, "litellm_response_headers", None)
    headers = headers or getattr(getattr(error, "response", None), "headers", None) or {}
    return retry_after(headers.get("retry-after") or headers.get("Retry-After"), time.time())


def _of_a_library(error: Exception) -> bool:
    return any(kind.__module__.partition(".")[0] in _LIBRARIES for kind in type(error).__mro__)
