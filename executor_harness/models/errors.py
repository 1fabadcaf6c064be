"""What can go wrong with a model call.

    ModelError                something about model calls; catches all of the below
    ├── NoModel               the run has no model to ask, or no way to reach it
    ├── BudgetExhausted       nothing could be asked: what is left of the budget is too small
    └── CallFailed            `rlm.llm_query` got no answer; `.error` is the CallError

In a batch a failed prompt is no exception: its slot holds a `CallError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["refused", "throttled", "unavailable", "timeout", "reply", "schema", "budget", "stopped"]


class ModelError(Exception):
    """Something about model calls."""


class NoModel(ModelError):  # noqa: N818 -- an error tree reads better by what happened
    """The run has no model to ask, or no way to reach it."""


class BudgetExhausted(ModelError):  # noqa: N818 -- as above
    """What is left for model calls is too small for this one. The message says how much is left."""


@dataclass(frozen=True, kw_only=True)
class CallError:
    """A prompt that got no answer, in the place where the answer would be. It is falsy.

    `kind` is one of `refused` (the request itself is at fault, or may not be made), `throttled`,
    `unavailable` and `timeout` (tried again in vain), `reply` (nothing that can be read), `schema` (not of
    the shape asked for), `budget` (not asked: too little is left) and `stopped` (not asked: at the end).
    """

    prompt_index: int
    kind: Kind
    message: str

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"prompt {self.prompt_index}: {self.kind}: {self.message}"


class CallFailed(ModelError):  # noqa: N818 -- as above
    """A single call without an answer."""

    def __init__(self, error: CallError) -> None:
        super().__init__(f"{error.kind}: {error.message}")
        self.error = error
