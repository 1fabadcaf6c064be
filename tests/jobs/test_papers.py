"""What the documents name is there: settings, commands, options, files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from databricks_rlm_agent.cli.arguments import parser
from databricks_rlm_agent.settings import from_environment

PAPERS = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/deploy.md",
    "docs/operations.md",
    "docs/recovery.md",
    "docs/retries.md",
    "docs/work-tables.md",
    "docs/local-workspace.md",
    "docs/quick-engine.md",
    "docs/glossary.md",
    "docs/recursion.md",
    "docs/sql-workflows.md",
    "docs/sql-reports.md",
    "docs/sql-tasks.md",
    "docs/sql-resume.md",
    "docs/stub-model.md",
    "docs/data.md",
    "docs/model-calls.md",
    "docs/llm-map.md",
    "docs/checks.md",
    "docs/guardrails.md",
)
_VARIABLE = re.compile(r"\b(?:ADK|RLM)_[A-Z_]+\b")
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
# At the start of a line of code, or at that of inline code.
_COMMAND = re.compile(r"(?:^|`)rlm-agent ([a-z-]+)", re.MULTILINE)


@pytest.fixture(params=PAPERS)
def paper(request: pytest.FixtureRequest, root: Path) -> Path:
    return root / request.param


def test_it_is_short(paper: Path) -> None:
    assert len(paper.read_text().splitlines()) <= 100


def test_its_links_lead_somewhere(paper: Path) -> None:
    assert all((paper.parent / link).exists() for link in _LINK.findall(paper.read_text()))


def test_its_commands_exist(paper: Path) -> None:
    assert set(_COMMAND.findall(paper.read_text())) <= set(_commands(parser("0")))


def test_operations_lists_the_settings_that_are_read(root: Path) -> None:
    settings = (root / "docs/operations.md").read_text().partition("## Exit codes")[0]
    read = set(_VARIABLE.findall(from_environment.__doc__ or "")) | {"RLM_LOG_FORMAT"}  # by the commands
    assert set(_VARIABLE.findall(settings)) == read


def test_the_local_workspace_lists_the_options_of_its_command(root: Path) -> None:
    start = _commands(_commands(parser("0"))["workspace"])["start"]
    options = {option for action in start._actions for option in action.option_strings}
    text = (root / "docs/local-workspace.md").read_text()
    assert {option for option in options if f"`{option}" not in text} == {
        "-h",
        "--help",
        "--debug",
        "--verbose",
        "--log-format",
    }


def test_the_areas_of_tests_are_those_that_exist(root: Path) -> None:
    text = (root / "CONTRIBUTING.md").read_text()
    folders = {path.parent.name for path in (root / "tests").glob("*/test_*.py")}
    assert {folder for folder in folders if f"`{folder}`" not in text} == set()


def test_hooks_run_from_the_environment_of_make(root: Path) -> None:
    import yaml

    document = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())
    (repository,) = document["repos"]
    assert repository["repo"] == "local"
    assert all(hook["entry"].startswith(".venv/bin/") for hook in repository["hooks"])
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}


def _commands(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return dict(_choices(top))


def _choices(top: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()
