"""Parse stored JSON documents, with one kind of error. Pure."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from databricks_rlm_agent.errors import InvalidData

M = TypeVar("M", bound=BaseModel)


def parse(kind: type[M], content: bytes | str, *, what: str, where: str | None = None) -> M:
    """The value of a JSON document; raise InvalidData that names its first problem, never its content."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise InvalidData(
            f"{what} does not parse: {problem['msg']} at {problem['loc']}.", where=where
        ) from None
