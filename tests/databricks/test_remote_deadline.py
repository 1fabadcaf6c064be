from __future__ import annotations

from contextlib import closing

import pytest
from remote_rig import Clients

from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.errors import Rejected

# Some ten seconds, no more: the embedded engine goes on with what is cancelled.
SLOW = "SELECT count(*) FROM range(100000) a CROSS JOIN range(30000) b WHERE a.id * b.id % 7 = 3"


def test_a_statement_that_takes_too_long_is_cancelled(clients: Clients) -> None:
    engine = WarehouseEngine(clients.workspace, http_path=clients.http_path, limit_s=1.0)
    with closing(engine.session()) as warehouse:
        with pytest.raises(Rejected, match="cancelled: it took longer than 1 seconds"):
            warehouse.fetch(SLOW)
        assert warehouse.fetch("SELECT 1 AS one") == [{"one": 1}]
        with pytest.raises(Rejected, match="nope"):
            warehouse.fetch("SELECT nope")
