"""The entry of a workflow that runs as a job: joins its order to an engine.

The executor harness calls ``run`` from the zip that it was published with (``controller/bundle.py``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from databricks_rlm_agent.sqlflow.handover import Order
from databricks_rlm_agent.sqlflow.run.workflow import run_task


def run(rlm: Any, document: Mapping[str, Any]) -> str | None:
    """Run a workflow and report on ``rlm``; return why it did not succeed, None if it did.

    ``document`` has the ``order`` (``Order`` as JSON) and the ``engine``: its ``kind`` is spark, or warehouse
    with an ``http_path``.
    """
    order = Order.of(document["order"])
    engine = _engine(rlm, document["engine"], catalog=order.catalog, schema=order.schema)
    return run_task(rlm, order, engine, alone=getattr(engine, "alone", None))


def _engine(rlm: Any, chosen: Mapping[str, Any], *, catalog: str, schema: str) -> Any:
    if chosen["kind"] == "spark":
        from databricks_rlm_agent.sqlflow.run.spark import SparkEngine

        return SparkEngine(rlm.spark, remote=os.environ.get("SPARK_REMOTE"), catalog=catalog, schema=schema)
    from databricks_rlm_agent.databricks.sql import WarehouseEngine
    from databricks_rlm_agent.databricks.workspace import Workspace
    from databricks_rlm_agent.logs import keep_off_root

    keep_off_root("databricks.sql")  # its errors are reported by the workflow
    return WarehouseEngine(Workspace(), http_path=chosen["http_path"], catalog=catalog, schema=schema)
