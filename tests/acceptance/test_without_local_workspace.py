"""The agent where the local workspace, a distribution of its own, is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from acceptance_support import finish, program

# Python imports this module at its start, before anything of ours.
HIDE = """
import sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "local_workspace":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture
def hidden(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing can import the local workspace."""
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(HIDE)
    return {"PYTHONPATH": str(tmp_path / "hide")}


def test_commands_on_a_workspace_work(agent, script, serving, hidden, tmp_path: Path) -> None:
    env = {**serving.environment, **hidden}
    assert agent("--help", env=env).code == 0
    assert agent("init", "--json", env=env).code == 0
    model = script([program("rlm.finish({'total': 42})")], [finish("It is {{value.total}}.")])
    done = agent("run", "Count it", "--model", model, "--json", env=env)
    assert (done.code, done.document["answer"]) == (0, "It is 42."), done.err
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "01_one.sql").write_text(
        "CREATE OR REPLACE TABLE main.default.alone AS SELECT 1 AS n"
    )
    done = agent("sql", "run", str(tmp_path / "sql"), "--json", env=env)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "--json"),
        ("workspace", "start"),
        ("workspace", "start", "--root", "w", "--port", "1", "--json"),
        ("status", "--root", "w", "--json"),
        ("sql", "run", "files", "--root", "w"),
    ],
    ids=" ".join,
)
def test_what_needs_it_says_what_to_install(
    agent, hidden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "work" / "files").mkdir(parents=True)
    (tmp_path / "work" / "files" / "01.sql").write_text("SELECT 1")
    monkeypatch.chdir(tmp_path / "work")
    done = agent(*arguments, env=hidden)
    assert done.code == 2
    assert "pip install 'rlm-local-workspace[sail]'" in done.err
    assert "Traceback" not in done.err
    if "--json" in arguments and arguments[0] != "workspace":
        assert done.document["exit_code"] == 2
    assert not (tmp_path / "work" / "w").exists()
