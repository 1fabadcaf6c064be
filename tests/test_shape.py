"""The shape of the code, held by tests: sizes, the error tree, and who may read the environment."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from databricks_rlm_agent import errors

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "databricks_rlm_agent"
FILES = sorted(
    path
    for folder in (PACKAGE, ROOT / "executor_harness", ROOT / "localworkspace" / "src")
    for path in folder.rglob("*.py")
)
MAX_FUNCTION_LINES = 50
# Who may look at the environment: those who start a process, and those who are started in one.
MAY_READ_THE_ENVIRONMENT = ("settings.py", "secrets.py", "cli")
# It asks which keys stand where the model libraries look for them, to say so and to redact them.
# A workflow's job has no settings: the address of its Spark Connect server is in its environment.
EXCEPTIONS = {"planner/models.py", "databricks/workflow_job.py"}
# Setting a variable for a library that looks there is not reading.
_READ = re.compile(r"\bos\.environ(?!\.setdefault|\[[^\]]*\] = )|\bos\.getenv|from os import .*environ")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """All modules, parsed, by their path."""
    found = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    assert len(found) > 50
    return found


def test_functions_are_short(trees: dict[str, ast.Module]) -> None:
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in trees.items()
        for node in functions(tree)
        if (node.end_lineno or node.lineno) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn: dict[str, tuple[int, str | None]] = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│├└─ ]*)(\w+) +(?:exit code )?(\d)\b", line)
        if found:
            depth = len(found[1]) // 4
            above[depth] = found[2]
            drawn[found[2]] = (int(found[3]), above.get(depth - 1))
    real = {
        kind.__name__: (kind.exit_code, kind.__base__.__name__ if kind is not errors.RlmError else None)
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.RlmError) and kind.__base__
    }
    assert drawn == real


def test_every_error_of_ours_is_in_the_tree() -> None:
    outside = [
        f"{name_of(path)}: {node.name}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in vars(errors) for base in node.bases)
    ]
    assert outside == []


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = errors.NotFound("There is no table x.", where="main.rlm", fix="Run rlm-agent init.")
    assert str(error) == "There is no table x. (main.rlm) Run rlm-agent init."
    assert str(errors.RlmError("It broke.")) == "It broke."
    assert errors.Throttled("Slow down.", retry_after=3).retry_after == 3


def test_the_environment_is_read_where_it_may_be() -> None:
    readers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in MAY_READ_THE_ENVIRONMENT
        and _READ.search(path.read_text(encoding="utf-8"))
    }
    assert readers <= EXCEPTIONS


def test_nothing_reads_the_environment_at_import(trees: dict[str, ast.Module]) -> None:
    early = []
    for path, tree in trees.items():
        inside = {id(node) for function in functions(tree) for node in ast.walk(function)}
        early += [
            f"{path}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr in {"environ", "getenv"}
            and id(node) not in inside
        ]
    assert early == []
