"""What Databricks' runtime gives to programs, for jobs of the local workspace.

Its folder is on the path of job processes only. `databricks.sdk.runtime` and `WorkspaceClient().dbutils` look
for this package and take `spark`, `dbutils` and the others from it (databricks-sdk 0.156).
"""

from __future__ import annotations

import functools
from typing import Any

from .dbutils import DbUtils

__all__ = ["UserNamespaceInitializer"]


# What Databricks sets in a cluster's sessions, and programs read. No logs are delivered anywhere.
_TAGS = {"clusterId": "local", "clusterName": "This machine", "clusterLogDeliveryEnabled": ""}


def _connect() -> Any:
    from pyspark.sql import SparkSession

    session = SparkSession.builder.getOrCreate()
    for name, value in _TAGS.items():
        session.conf.set(f"spark.databricks.clusterUsageTags.{name}", value)
    return session


class _LaterSession:
    """The Spark session, connected when it is first used: importing the runtime should cost nothing."""

    @functools.cached_property
    def _session(self) -> Any:
        return _connect()

    @property  # type: ignore[misc] # it is read only: for isinstance(spark, SparkSession)
    def __class__(self) -> Any:
        return type(self._session)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __repr__(self) -> str:
        return repr(self._session)


def _display(value: Any = None, *_arguments: Any, **_options: Any) -> None:
    """Print a table or any other value: a job has no notebook to show it in."""
    if hasattr(value, "show"):
        value.show()
    else:
        print(value)  # noqa: T201 - the purpose


def _udf(*arguments: Any, **options: Any) -> Any:
    from pyspark.sql.functions import udf

    return udf(*arguments, **options)


@functools.cache
def _globals() -> dict[str, Any]:
    spark, dbutils = _LaterSession(), DbUtils()
    return {
        "spark": spark,
        "dbutils": dbutils,
        "sql": lambda *arguments, **options: spark.sql(*arguments, **options),
        "table": lambda name: spark.table(name),
        "udf": _udf,
        "display": _display,
        "displayHTML": _display,
        "getArgument": dbutils.widgets.getArgument,
        # Spark Connect has neither, as on serverless compute.
        "sc": None,
        "sqlContext": None,
    }


class UserNamespaceInitializer:
    """Where the SDK asks for the names of the runtime."""

    @classmethod
    def getOrCreate(cls) -> UserNamespaceInitializer:  # noqa: N802 - Databricks' name
        """Return the one initializer."""
        return cls()

    def get_namespace_globals(self) -> dict[str, Any]:
        """Return the names that a notebook would have."""
        return _globals()
