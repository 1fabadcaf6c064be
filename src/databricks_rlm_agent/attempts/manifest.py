"""The manifest: the intent record of one attempt. Who finds one adopts it and never plans again.

It is put without overwriting, so the first decision about an attempt is the only one: a program to run
(``Manifest``) or, where another controller might be about to publish one, the end of it (``Closing``).
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag, field_validator
from pydantic.dataclasses import dataclass

from databricks_rlm_agent.runs.budget import Usage
from databricks_rlm_agent.runs.fsm import Event
from databricks_rlm_agent.runs.parsing import parse
from databricks_rlm_agent.runs.run import AttemptKey, RunOutcome
from databricks_rlm_agent.values import ID_PATTERN
from executor_harness import protocol
from executor_harness.protocol import ChildTask


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


@dataclass(frozen=True, kw_only=True)
class Request(protocol.Request):
    """The request of the wire, with its fields validated."""

    def to_dict(self) -> dict[str, Any]:
        """The request as it is hashed and stored."""
        document = asdict(self)
        if not self.packages:
            del document["packages"]  # so that requests without any keep the digests that they always had
        return document

    def sha256(self) -> str:
        """SHA-256 (hex) of the request's canonical JSON."""
        return protocol.digest(self.to_dict())


ClosingEvent = Literal[Event.FINISH, Event.ASK, Event.GIVE_UP, Event.CANCEL, Event.SPAWN]


class PlanRecord(_Frozen):
    """The epoch of the lease under which a decision was made, and the models' usage for it."""

    epoch: int = Field(ge=0)
    usage: Usage = Usage()


class Manifest(_Frozen):
    """``manifest.json``: the frozen request and the exact payload of its submit."""

    kind: Literal["program"] = "program"
    schema_version: Literal[1] = 1  # protocol.SCHEMA_VERSION; a test holds them in step
    request: Request
    submit_payload: dict[str, Any]
    plan: PlanRecord | None = None

    @property
    def key(self) -> AttemptKey:
        """The attempt that this is the manifest of."""
        return AttemptKey(
            run_id=self.request.run_id, iter_n=self.request.iter_n, attempt=self.request.attempt
        )

    def to_bytes(self) -> bytes:
        """The file's content."""
        document = {
            "kind": self.kind,
            "schema_version": self.schema_version,
            "request": self.request.to_dict(),
            "submit_payload": self.submit_payload,
            "plan": self.plan.model_dump(mode="json") if self.plan else None,
        }
        return _dump(document)

    @classmethod
    def parse(cls, content: bytes, *, where: str) -> Self:
        """Read a stored manifest; raise InvalidData if it is not one."""
        return parse(cls, content, what="The manifest", where=where)


class Closing(_Frozen):
    """``manifest.json`` of an attempt that runs no program: the decision that was taken in its place, and the
    ``tasks`` of the child runs if it was to spawn some.

    With it, a controller that was held up for longer than its lease can no longer publish a program for a
    run that has ended or asks its person.
    """

    kind: Literal["closing"] = "closing"
    schema_version: Literal[1] = 1
    closing: ClosingEvent
    run_id: str = Field(pattern=f"^{ID_PATTERN.pattern}$")
    iter_n: int = Field(ge=1)
    attempt: int = Field(ge=1)
    outcome: dict[str, str]
    tasks: list[ChildTask] = Field(default_factory=list, max_length=protocol.CHILDREN)
    plan: PlanRecord

    @field_validator("outcome")
    @classmethod
    def _of_an_outcome(cls, outcome: dict[str, str]) -> dict[str, str]:
        if unknown := outcome.keys() - {field.name for field in fields(RunOutcome)}:
            raise ValueError(f"an outcome has no {sorted(unknown)[0]!r}")
        return outcome

    @property
    def key(self) -> AttemptKey:
        """The attempt that this closes."""
        return AttemptKey(run_id=self.run_id, iter_n=self.iter_n, attempt=self.attempt)

    def to_bytes(self) -> bytes:
        """The file's content."""
        return _dump(self.model_dump(mode="json"))


def _kind(document: Any) -> str:
    """The kind of an intent. Older versions wrote no ``kind``: only a program has a payload to submit."""
    if not isinstance(document, dict):
        return "program"
    return str(document.get("kind", "program" if "submit_payload" in document else "closing"))


class _Intent(
    RootModel[
        Annotated[
            Annotated[Manifest, Tag("program")] | Annotated[Closing, Tag("closing")], Discriminator(_kind)
        ]
    ]
):
    pass


def parse_intent(content: bytes, *, where: str) -> Manifest | Closing:
    """Read a stored intent record; raise InvalidData if it is not one."""
    return parse(_Intent, content, what="The manifest", where=where).root


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False).encode()
