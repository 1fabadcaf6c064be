"""Documents that are stored as JSON: frozen, and read with one kind of error. Pure."""

from __future__ import annotations

import re
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from databricks_rlm_agent.errors import InvalidData

M = TypeVar("M", bound=BaseModel)


class Document(BaseModel):
    """A part of what is stored as JSON. What a later version has added to it is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def parse(cls, content: bytes | str, *, where: str | None = None) -> Self:
        """Read a stored document; raise InvalidData, which calls it by the name of its class."""
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__).lower()
        return parse(cls, content, what=f"The {name}", where=where)


def parse(kind: type[M], content: bytes | str, *, what: str, where: str | None = None) -> M:
    """The value of a JSON document; raise InvalidData that names its first problem, never its content."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise InvalidData(
            f"{what} does not parse: {problem['msg']} at {problem['loc']}.", where=where
        ) from None
