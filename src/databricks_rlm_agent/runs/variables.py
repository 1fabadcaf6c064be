"""Variables that survive between programs: what the control plane knows of them. It never reads values."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from executor_harness import protocol


class _Loose(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class VariablesRef(_Loose):
    """Where the index of a run's variables lies, its SHA-256 (hex), and the iteration that left it."""

    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    iter_n: int = Field(ge=1)


class VariableNote(_Loose):
    """A variable in few words."""

    name: str
    type: str
    size: str = ""


class Variables(_Loose):
    """The variables that a program left: the index of all, how many they are, and the first of them."""

    ref: VariablesRef
    count: int = Field(ge=0)
    shown: list[VariableNote] = Field(default_factory=list, max_length=protocol.VARIABLES_SHOWN)
