"""The local workspace that a command starts for itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests

from databricks_rlm_agent.cli.workspace import workspace_in
from databricks_rlm_agent.errors import UsageError

SUB = {"rules": [{"match": r"row (\d+)", "text": r"it is \1"}]}


def test_a_command_with_a_root_serves_its_own_script(tmp_path: Path) -> None:
    script = tmp_path / "s.json"
    script.write_text(json.dumps({"planner": [[{"text": "x"}]], "sub": SUB}))
    with workspace_in(str(tmp_path / "w"), model=f"scripted:{script}", create=True) as info:
        answer = requests.post(
            f"{info.host}/serving-endpoints/m/invocations",
            json={"messages": [{"role": "user", "content": "row 8"}]},
            headers={"Authorization": f"Bearer {info.token}"},
            timeout=30,
        )
        assert answer.json()["choices"][0]["message"]["content"] == "it is 8"
    script.write_text('{"planner": [[{"text": "x"}]], "sub": 3}')
    with (
        pytest.raises(UsageError, match=r"\$\.sub"),
        workspace_in(str(tmp_path / "w"), model=f"scripted:{script}", create=True),
    ):
        pass
