"""What the REST side needs of the embedded engine, so that it can be tested without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Column(Protocol):
    """A column of a table."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def type(self) -> str:
        """Its SQL type."""

    @property
    def nullable(self) -> bool:
        """Whether it may hold NULL."""

    @property
    def comment(self) -> str | None:
        """Its comment."""


class Table(Protocol):
    """A table or view."""

    @property
    def kind(self) -> str:
        """MANAGED, EXTERNAL or VIEW."""

    @property
    def columns(self) -> Sequence[Column]:
        """Its columns in order."""

    @property
    def location(self) -> str:
        """The folder of its files."""

    @property
    def created_at_ms(self) -> int:
        """When it was made, in Unix milliseconds."""

    @property
    def comment(self) -> str | None:
        """Its comment."""

    @property
    def properties(self) -> Mapping[str, str]:
        """Its table properties."""

    @property
    def view_definition(self) -> str | None:
        """The query of a view."""


class Catalog(Protocol):
    """The tree of catalogs, schemas and tables. Names are case-insensitive."""

    def catalogs(self) -> list[str]:
        """All catalogs."""

    def has_catalog(self, catalog: str) -> bool:
        """Whether there is such a catalog."""

    def schemas(self, catalog: str) -> list[str]:
        """Schemas of a catalog that exists."""

    def has_schema(self, catalog: str, schema: str) -> bool:
        """Whether there is such a schema."""

    def create_schema(self, catalog: str, schema: str) -> bool:
        """Make a schema; False when it was there."""

    def drop_schema(self, catalog: str, schema: str, *, cascade: bool = False) -> None:
        """Drop a schema; raises EngineError when it is not empty."""

    def tables(self, catalog: str, schema: str) -> list[str]:
        """Tables and views of a schema that exists."""

    def table(self, catalog: str, schema: str, name: str) -> Table | None:
        """One of them, or None."""


class Session(Protocol):
    """One SQL session."""

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Run a statement: an object with `table` (pyarrow) and `affected_rows`. Raises EngineError."""

    def cancel(self) -> None:
        """Interrupt it."""

    def close(self) -> None:
        """End it."""


class SqlEngine(Protocol):
    """The embedded engine."""

    connect_url: str

    @property
    def catalog(self) -> Any:
        """The tree; see Catalog."""

    def start(self) -> None:
        """Start it."""

    def stop(self) -> None:
        """Stop it."""

    def connect_url_of(self, job: str) -> str:
        """The Spark Connect URL for one job."""

    def end_job(self, job: str) -> None:
        """End the Spark sessions of a job."""

    def session(self, *, catalog: str | None = None, schema: str | None = None) -> Any:
        """A new session; see Session."""
