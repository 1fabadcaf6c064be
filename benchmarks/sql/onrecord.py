"""Earlier runs, put into the tables of the record by hand: running them would take hours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from databricks_rlm_agent.sqlflow.run.delta_record import RUNS, STEPS


def commits(schema: Path) -> int:
    """How many commits the tables of the record have, beyond those that made them."""
    return sum(len(list((schema / name / "_delta_log").glob("*.json"))) - 1 for name in (RUNS, STEPS))


def grow(schema: Path, runs: int) -> None:
    """Add copies of what is on record there under other ids, with as many commits and files for each."""
    from deltalake import DeltaTable

    for name in (RUNS, STEPS):
        table = schema / name
        delta = DeltaTable(str(table))
        rows, version = delta.to_pyarrow_table(), delta.version()
        each = version  # commits of the run that is there
        size = -(-rows.num_rows // each)
        for number in range(runs):
            copy = _renamed(rows, f"w{number:016d}")
            for part in range(0, rows.num_rows, size):
                version += 1
                _commit(table, version, copy.slice(part, size))
        if runs:
            DeltaTable(str(table)).create_checkpoint()


def _renamed(rows: Any, run: str) -> Any:
    import pyarrow as pa

    index = rows.schema.get_field_index("workflow_run_id")
    return rows.set_column(index, "workflow_run_id", pa.array([run] * rows.num_rows))


def _commit(table: Path, version: int, rows: Any) -> None:
    import pyarrow.parquet

    file = table / f"past{version}.parquet"
    pyarrow.parquet.write_table(rows, file)
    run = rows["workflow_run_id"][0].as_py()
    stats = {"numRecords": rows.num_rows, "nullCount": {"workflow_run_id": 0}}
    bounds = {"minValues": {"workflow_run_id": run}, "maxValues": {"workflow_run_id": run}}
    add = {
        "path": file.name,
        "partitionValues": {},
        "size": file.stat().st_size,
        "modificationTime": int(file.stat().st_mtime * 1000),
        "dataChange": True,
        "stats": json.dumps(stats | bounds),
    }
    (table / "_delta_log" / f"{version:020d}.json").write_text(json.dumps({"add": add}) + "\n")
