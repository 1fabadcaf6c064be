"""The scripted model: a fake for a language model, so that everything else can be real.

Imports google.adk at once: it is imported by those who are about to use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai import types
from pydantic import PrivateAttr

from databricks_rlm_agent.planner.chain import COST
from databricks_rlm_agent.planner.script import Reply, Script


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
            content=types.Content(role="model", parts=[_part(reply)]),
            usage_metadata=_usage(llm_request, reply),
            custom_metadata={COST: reply.usage.cost_usd},
        )


def _part(reply: Reply) -> types.Part:
    if reply.call is not None:
        return types.Part(function_call=types.FunctionCall(name=reply.call, args=reply.args))
    return types.Part(text=reply.text)


def _usage(request: LlmRequest, reply: Reply) -> types.GenerateContentResponseUsageMetadata:
    asked = str(request.config.system_instruction or "")
    told = len(asked) + sum(len(str(part)) for content in request.contents for part in content.parts or [])
    said = len(reply.text or "") + len(str(reply.args or ""))
    # Where the script does not say: characters / 4.
    read = told // 4 if reply.usage.input_tokens is None else reply.usage.input_tokens
    written = said // 4 if reply.usage.output_tokens is None else reply.usage.output_tokens
    return types.GenerateContentResponseUsageMetadata(
        prompt_token_count=read, candidates_token_count=written, total_token_count=read + written
    )
