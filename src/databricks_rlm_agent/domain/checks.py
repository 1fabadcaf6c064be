"""Acceptance checks of a task: what must hold before ``finish`` is believed. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Check(BaseModel):
    """One check. ``sql`` must return true, or ``equals``; a ``table`` must exist with these columns and at
    least so many rows; a ``file`` must exist with at least so many bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sql", "table", "file"]
    sql: str = ""
    equals: str | None = None
    table: str = ""
    columns: tuple[str, ...] = ()
    min_rows: int = Field(default=0, ge=0)
    path: str = ""
    min_bytes: int = Field(default=1, ge=0)
