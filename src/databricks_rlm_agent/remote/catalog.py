"""Unity Catalog: what the planner may look up, and what ``rlm-agent init`` has to create."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from databricks_rlm_agent.domain.layout import Namespace
from databricks_rlm_agent.errors import AlreadyExists, NotFound
from databricks_rlm_agent.remote.workspace import Workspace

_HIDDEN_SCHEMAS = frozenset({"information_schema"})


class WorkspaceCatalog:
    """Implements ports.Catalog for one catalog, and creates our schema and Volume in it."""

    def __init__(self, workspace: Workspace, *, catalog: str) -> None:
        self._workspace, self._catalog = workspace, catalog

    def search(self, text: str, *, limit: int) -> Sequence[str]:
        """Full names of tables whose name contains ``text``, without regard to case."""
        found: list[str] = []
        with self._workspace.calling(f"catalog {self._catalog}"):
            for name in self._tables():
                if text.lower() in name.lower():
                    found.append(name)
                if len(found) >= limit:
                    break
        return found

    def describe(self, table: str) -> Sequence[tuple[str, str]]:
        """The columns of a table: name and type."""
        with self._workspace.calling(f"table {table}"):
            info = self._workspace.client.tables.get(table)
        return [(column.name or "", column.type_text or "") for column in info.columns or ()]

    def ensure(self, namespace: Namespace) -> list[str]:
        """Create the schema and the Volume where they are missing; return what was created.

        Raise NotFound if there is no such catalog: to create one takes rights that we should not have.
        """
        client, created = self._workspace.client, []
        try:
            with self._workspace.calling(f"catalog {namespace.catalog}"):
                client.catalogs.get(namespace.catalog)
        except NotFound:
            raise NotFound(
                f"There is no catalog {namespace.catalog!r}, or it is not visible to you.",
                where=self._workspace.host,
                fix="Set ADK_DELTA_CATALOG to one that exists (local workspace: start with --catalog NAME).",
            ) from None
        try:
            with self._workspace.calling(f"schema {namespace.catalog}.{namespace.schema}"):
                client.schemas.create(name=namespace.schema, catalog_name=namespace.catalog)
            created.append(f"schema {namespace.catalog}.{namespace.schema}")
        except AlreadyExists:
            pass
        try:
            with self._workspace.calling(f"volume {namespace.volume_root}"):
                from databricks.sdk.service.catalog import VolumeType

                client.volumes.create(
                    catalog_name=namespace.catalog,
                    schema_name=namespace.schema,
                    name=namespace.volume,
                    volume_type=VolumeType.MANAGED,
                )
            created.append(f"volume {namespace.volume_root}")
        except AlreadyExists:
            pass
        return created

    def _tables(self) -> Iterator[str]:
        client = self._workspace.client
        for schema in client.schemas.list(catalog_name=self._catalog):
            if schema.name and schema.name not in _HIDDEN_SCHEMAS:
                for table in client.tables.list(catalog_name=self._catalog, schema_name=schema.name):
                    yield table.full_name or ""
