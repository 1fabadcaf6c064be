"""A chain of models: the next is tried when one fails; every call is timed, bounded and recorded.

Imports google.adk at once: it is imported by those who are about to use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from google.adk.models import BaseLlm, LlmCapabilities
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse

from databricks_rlm_agent.domain.budget import Usage
from databricks_rlm_agent.domain.text import clip
from databricks_rlm_agent.errors import ModelUnavailable, PlannerError, RlmError
from databricks_rlm_agent.ports import ModelCall

_REASON_CHARS = 400


@dataclass(kw_only=True)
class Meter:
    """What one invocation may ask of its models, and the calls it made. ``redact`` hides keys in errors."""

    purpose: str
    max_calls: int
    timeout_s: float
    clock: Callable[[], float]
    redact: Callable[[str], str]
    asked: int = 0
    calls: list[ModelCall] = field(default_factory=list)

    def begin(self) -> None:
        """Count one question; raise PlannerError if it is one too many."""
        if self.asked >= self.max_calls:
            raise PlannerError(f"The model was asked {self.max_calls} times and took no action.")
        self.asked += 1

    def record(self, model: str, started: float, usage: Usage, error: str | None = None) -> None:
        """Keep one model call, failed ones too."""
        seconds = self.clock() - started
        self.calls.append(
            ModelCall(model=model, purpose=self.purpose, usage=usage, seconds=seconds, error=error)
        )


class ChainModel(BaseLlm):
    """Asks its models in order until one answers; raises ModelUnavailable with each one's reason."""

    links: list[BaseLlm]
    meter: Meter

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
        self.meter.begin()
        reasons: list[str] = []
        for link in self.links:
            started = self.meter.clock()
            try:
                async with asyncio.timeout(self.meter.timeout_s):
                    response = await _ask(link, llm_request)
            except RlmError as error:  # our own: a script's end, which no other model can mend
                self.meter.record(link.model, started, Usage(calls=1), self.meter.redact(str(error)))
                raise
            except Exception as error:  # noqa: BLE001 - each provider has its own classes; all are recorded
                reason = self._reason(error)
                self.meter.record(link.model, started, Usage(calls=1), reason)
                reasons.append(f"{link.model}: {reason}")
                continue
            self.meter.record(link.model, started, _usage(response), response.error_message)
            yield response
            return
        raise ModelUnavailable(
            f"No model answered. {' | '.join(reasons)}",
            fix="Check its name and key (rlm-agent secrets check), or name a fallback in RLM_MODEL.",
        )

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self.meter.timeout_s:g} s"
        # The first line says it; LiteLLM adds pages of links and of the request.
        said = str(error).strip().partition("\n")[0]
        return clip(self.meter.redact(f"{type(error).__name__}: {said}"), _REASON_CHARS)


async def _ask(link: BaseLlm, request: LlmRequest) -> LlmResponse:
    # A copy, because models write into the request; and each must hear its own name, not the chain's.
    own = request.model_copy(
        update={
            "model": link.model,
            "config": request.config.model_copy(),
            "contents": list(request.contents),
        }
    )
    responses = [response async for response in link.generate_content_async(own, stream=False)]
    if not responses:
        raise PlannerError("The model sent no response.")
    return responses[-1]


def _usage(response: LlmResponse) -> Usage:
    told = response.usage_metadata
    if told is None:
        return Usage(calls=1)
    return Usage(
        calls=1,
        input_tokens=told.prompt_token_count or 0,
        output_tokens=(told.candidates_token_count or 0) + (told.thoughts_token_count or 0),
    )
