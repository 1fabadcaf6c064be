"""The model setting (``RLM_MODEL``), the secrets that each model needs, and prices. Pure.

Prices are US dollars per million tokens, as the user configures them; none is built in.
"""

from __future__ import annotations

from dataclasses import dataclass

from databricks_rlm_agent.errors import ConfigError
from executor_harness import protocol

FORMS = "gemini-…, databricks/ENDPOINT, openai/MODEL, anthropic/MODEL, several with commas, or scripted:FILE"
# Secret keys of the scope, and the variables that libraries read (fixed by the design, section 10).
VARIABLES = {
    "google-api-key": "GOOGLE_API_KEY",
    "openai-api-key": "OPENAI_API_KEY",
    "anthropic-api-key": "ANTHROPIC_API_KEY",
    "databricks-host": "DATABRICKS_HOST",
    "databricks-token": "DATABRICKS_TOKEN",
}
# A Databricks endpoint needs none: where host and token are not given, LiteLLM takes the SDK's unified
# authentication, which inside a job is the job's own identity.
_REQUIRED = {
    "gemini": ("google-api-key",),
    "openai": ("openai-api-key",),
    "anthropic": ("anthropic-api-key",),
    "databricks": (),
    "scripted": (),
}
_LITELLM = ("databricks", "openai", "anthropic")
_SCRIPTED = "scripted:"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model: its provider, and its name as the provider's library knows it (a file for ``scripted``)."""

    provider: str
    name: str

    @property
    def needs_litellm(self) -> bool:
        """Return whether the model is reached through LiteLLM."""
        return self.provider in _LITELLM


def parse_models(setting: str) -> tuple[ModelSpec, ...]:
    """The fallback chain that a setting names, first choice first; raise ConfigError for an unknown form."""
    text = setting.strip()
    if text.startswith(_SCRIPTED):
        file = text.removeprefix(_SCRIPTED)
        if not file:
            raise ConfigError("scripted: names no file.", where="RLM_MODEL", fix="Write scripted:FILE.")
        return (ModelSpec(provider="scripted", name=file),)
    return tuple(_parse_one(part.strip()) for part in text.split(","))


def required_secrets(setting: str) -> tuple[str, ...]:
    """Keys of the secrets that a setting's models cannot do without, such as ``("google-api-key",)``."""
    keys = [key for spec in parse_models(setting) for key in _REQUIRED[spec.provider]]
    return tuple(dict.fromkeys(keys))


def sub_endpoint(setting: str) -> str | None:
    """The serving endpoint behind a model setting, which programs may ask too; None where there is none.

    A script answers for every endpoint's name.
    """
    for part in setting.split(","):
        provider, _, rest = part.strip().partition("/")
        if provider == "databricks" and rest:
            return rest
    return "scripted" if setting.startswith(_SCRIPTED) else None


def _parse_one(name: str) -> ModelSpec:
    if name.startswith("gemini-") and len(name) > len("gemini-"):
        return ModelSpec(provider="gemini", name=name)
    provider, _, rest = name.partition("/")
    if provider in _LITELLM and rest:
        return ModelSpec(provider=provider, name=name)
    raise ConfigError(
        f"{name[:120]!r} is not a model that can be used.", where="RLM_MODEL", fix=f"Use {FORMS}."
    )


_MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Price(protocol.Price):
    """A price on the wire, by which the planner's calls are counted too."""

    def cost(self, *, input_tokens: int, output_tokens: int) -> float:
        """Return the cost of so many tokens, in US dollars."""
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / _MILLION


FREE = Price(input_usd=0, output_usd=0)
