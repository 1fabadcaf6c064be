"""The bundle as the Databricks CLI would read it: includes merged, a target chosen, variables resolved."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
_REFERENCE = re.compile(r"\$\{([^}]+)\}")
_VARIABLE = re.compile(r"\$\{(var\.[^}]+)\}")
# What only a workspace knows.
_KNOWN_THERE = {
    "workspace.file_path": "/Workspace/files",
    "workspace.current_user.short_name": "jane_doe",
}

Bundle = dict[str, Any]


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the tree. Takes some seconds."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(folder)], check=True, capture_output=True, timeout=500)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def source() -> Bundle:
    """databricks.yml with its includes merged, before any target or variable."""
    return _merged()


@pytest.fixture
def bundle() -> Callable[..., Bundle]:
    """``bundle("prod", catalog="c")``: a target's resolved bundle, with variables as ``--var`` gives them."""
    return _resolved


def _resolved(target: str, **given: str) -> Bundle:
    whole = _merged()
    chosen = whole["targets"][target]
    values = {name: variable.get("default") for name, variable in whole["variables"].items()}
    values |= chosen.get("variables", {}) | given
    _overlay(whole, {key: value for key, value in chosen.items() if key not in {"variables", "default"}})
    whole["bundle"]["target"] = target
    del whole["targets"]
    with_variables: Bundle = _filled(whole, {"var": values}, _VARIABLE)
    if chosen["mode"] == "development":
        _prefix(with_variables)
    resolved: Bundle = _filled(with_variables, with_variables, _REFERENCE)
    return resolved


def _prefix(whole: Bundle) -> None:
    """Prefix names as development mode does: after variables, before references to other resources."""
    for schema in whole["resources"]["schemas"].values():
        schema["name"] = f"dev_jane_doe_{schema['name']}"
    for job in whole["resources"]["jobs"].values():
        job["name"] = f"[dev jane_doe] {job['name']}"


def _merged() -> Bundle:
    whole: Bundle = yaml.safe_load((ROOT / "databricks.yml").read_text())
    for pattern in whole.pop("include"):
        for path in sorted(ROOT.glob(pattern)):
            _overlay(whole, yaml.safe_load(path.read_text()))
    return whole


def _overlay(base: Bundle, over: Bundle) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _overlay(base[key], value)
        else:
            base[key] = copy.deepcopy(value)


def _filled(value: Any, context: Bundle, pattern: re.Pattern[str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, context, pattern) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, context, pattern) for item in value]
    while isinstance(value, str) and pattern.search(value):
        value = pattern.sub(lambda match: _looked_up(match[1], context), value)
    return value


def _looked_up(reference: str, context: Bundle) -> str:
    if reference in _KNOWN_THERE:
        return _KNOWN_THERE[reference]
    found: Any = context
    for part in reference.split("."):
        assert part in found, f"${{{reference}}} names nothing"
        found = found[part]
    assert found is not None, f"${{{reference}}} has no value"
    return str(found)
