from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from remote_rig import Clients

from databricks_rlm_agent.app import App
from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.errors import Rejected
from databricks_rlm_agent.planner.planner import AdkPlanner
from databricks_rlm_agent.settings import from_environment

# Some ten seconds, no more: the embedded engine goes on with what is cancelled.
SLOW = "SELECT count(*) FROM range(100000) a CROSS JOIN range(30000) b WHERE a.id * b.id % 7 = 3"


@pytest.mark.fault("A22")
def test_a_planners_tools_read_in_a_session_of_their_own_with_a_limit(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "model.json"
    script.write_text('{"planner": [[{"text": "x"}]]}')
    monkeypatch.setattr("databricks_rlm_agent.app.TOOL_LIMIT_S", 1.0)
    settings = from_environment({"RLM_WAREHOUSE_HTTP_PATH": clients.http_path})
    app = App(settings, {}, host=clients.workspace.host, token=clients.workspace.bearer())
    with closing(app):
        planner = app.planner_for(f"scripted:{script}")
        assert isinstance(planner, AdkPlanner)
        with pytest.raises(Rejected, match="cancelled: it took longer than 1 seconds"):
            planner.toolbox.sql.fetch(SLOW)
        assert app.warehouse.fetch("SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.fault("A22")
def test_a_statement_that_takes_too_long_is_cancelled(clients: Clients) -> None:
    engine = WarehouseEngine(clients.workspace, http_path=clients.http_path, limit_s=1.0)
    with closing(engine.session()) as warehouse:
        with pytest.raises(Rejected, match="cancelled: it took longer than 1 seconds"):
            warehouse.fetch(SLOW)
        assert warehouse.fetch("SELECT 1 AS one") == [{"one": 1}]
        with pytest.raises(Rejected, match="nope"):
            warehouse.fetch("SELECT nope")
