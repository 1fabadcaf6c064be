"""Models that answer with whatever a test hands them, below the chain and with google-adk above it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai import types
from pydantic import ConfigDict, Field

from databricks_rlm_agent.models import Price
from databricks_rlm_agent.planner.chain import ChainModel, Meter
from databricks_rlm_agent.planner.models import Models, configure_adk_logging
from databricks_rlm_agent.planner.planner import AdkPlanner
from databricks_rlm_agent.planner.review import Policy
from databricks_rlm_agent.planner.tools import Toolbox
from databricks_rlm_agent.policy.judge import GATED
from databricks_rlm_agent.secrets import Secret


class FakeModel(BaseLlm):
    """Answers with the next of ``replies``: a response, or an exception to raise; keeps the requests."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    replies: Any
    requests: list[LlmRequest] = Field(default_factory=list)

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        self.requests.append(llm_request)
        reply = next(self.replies)
        if isinstance(reply, BaseException):
            raise reply
        yield reply


class FakeModels(Models):
    """A chain of fake models: ``replies`` by model name."""

    def __init__(self, replies: dict[str, Iterator[Any]], *, prices: dict[str, Price] | None = None) -> None:
        super().__init__(",".join(replies), secrets=_Anything(), prices=prices)
        self.links = [FakeModel(model=name, replies=iter(each)) for name, each in replies.items()]

    def open(self, *, role: str, iter_n: int, meter: Meter, objective: str) -> ChainModel:
        configure_adk_logging()
        return ChainModel(model=self.name, links=list(self.links), meter=meter, wait=_at_once)


async def _at_once(_seconds: float) -> None:
    pass


class _Anything(dict[str, Any]):
    def __contains__(self, key: object) -> bool:
        return True

    def get(self, key: str, default: Any = None) -> Any:
        return default

    def __getitem__(self, key: str) -> Any:
        from databricks_rlm_agent.secrets import Secret

        return Secret("")


def call(name: str, **args: Any) -> types.Part:
    return types.Part(function_call=types.FunctionCall(name=name, args=args))


def reply(*parts: types.Part, tokens: tuple[int, int] | None = None) -> LlmResponse:
    """A response; ``tokens`` are those read and written, None where the model does not say."""
    usage = tokens and types.GenerateContentResponseUsageMetadata(
        prompt_token_count=tokens[0], candidates_token_count=tokens[1]
    )
    return LlmResponse(content=types.Content(role="model", parts=list(parts)), usage_metadata=usage)


def create_planner(
    setting: str,
    *,
    secrets: Mapping[str, Secret] | None = None,
    prices: Mapping[str, Price] | None = None,
    policy: Policy | None = None,
    gated: Mapping[str, frozenset[str]] = GATED,
    **world: Any,
) -> AdkPlanner:
    """A planner of those models with the tools of a world."""
    models = Models(setting, secrets=secrets or {}, prices=prices)
    return AdkPlanner(models=models, toolbox=Toolbox(**world), policy=policy, gated=gated)
