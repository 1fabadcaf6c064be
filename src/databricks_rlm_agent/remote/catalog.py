"""Unity Catalog: what the planner may look up, and what ``rlm-agent init`` has to create."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from databricks_rlm_agent.domain.layout import Namespace
from databricks_rlm_agent.errors import AlreadyExists, NotFound
from databricks_rlm_agent.remote.workspace import Workspace

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

_HIDDEN_SCHEMAS = frozenset({"information_schema"})


class WorkspaceCatalog:
    """Implements ports.Catalog for one catalog, and creates our schema and Volume in it."""

    def __init__(self, workspace: Workspace, *, catalog: str) -> None:
        self._workspace, self._catalog = workspace, catalog

    def search(self, text: str, *, limit: int) -> Sequence[str]:
        """Full names of tables whose name contains ``text``, without regard to case."""

        def matching(client: WorkspaceClient) -> list[str]:
            names = self._tables(client, self._catalog)
            return list(islice((name for name in names if text.lower() in name.lower()), limit))

        return self._workspace.call(f"catalog {self._catalog}", matching)

    def describe(self, table: str) -> Sequence[tuple[str, str]]:
        """The columns of a table: name and type."""
        info = self._workspace.call(f"table {table}", lambda client: client.tables.get(table))
        return [(column.name or "", column.type_text or "") for column in info.columns or ()]

    def ensure(self, namespace: Namespace) -> list[str]:
        """Create the schemas and the Volume where they are missing; return what was created.

        Raise NotFound if there is no such catalog: to create one takes rights that we should not have.
        """
        from databricks.sdk.service.catalog import VolumeType

        call, catalog, schema, volume = (
            self._workspace.call,
            namespace.catalog,
            namespace.schema,
            namespace.volume,
        )
        try:
            call(f"catalog {catalog}", lambda client: client.catalogs.get(catalog))
        except NotFound:
            raise NotFound(
                f"There is no catalog {catalog!r}, or it is not visible to you.",
                where=self._workspace.host,
                fix="Set ADK_DELTA_CATALOG to one that exists (local workspace: start with --catalog NAME).",
            ) from None
        makers: dict[str, Callable[[WorkspaceClient], object]] = {
            f"schema {catalog}.{schema}": lambda client: client.schemas.create(
                name=schema, catalog_name=catalog
            ),
            f"schema {namespace.scratch_schema}": lambda client: client.schemas.create(
                name=f"{schema}_scratch", catalog_name=catalog
            ),
            f"volume {namespace.volume_root}": lambda client: client.volumes.create(
                catalog_name=catalog, schema_name=schema, name=volume, volume_type=VolumeType.MANAGED
            ),
        }
        created = []
        for what, make in makers.items():
            with suppress(AlreadyExists):
                call(what, make)
                created.append(what)
        return created

    @staticmethod
    def _tables(client: WorkspaceClient, catalog: str) -> Iterator[str]:
        for schema in client.schemas.list(catalog_name=catalog):
            if schema.name and schema.name not in _HIDDEN_SCHEMAS:
                for table in client.tables.list(catalog_name=catalog, schema_name=schema.name):
                    yield table.full_name or ""
