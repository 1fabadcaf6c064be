"""The examples as a user runs them, small: answers, tables, usage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(name: str, root: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", f"examples.{name}", "--latency", "0", "--json"),
            *("--root", str(root), *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-3000:]
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["problems"] == [], done.stderr[-3000:]
    assert done.returncode == 0
    assert document["state"] == "SUCCEEDED"
    assert document["as_expected"]
    return document


def rows(root: Path, table: str) -> list[dict[str, Any]]:
    from deltalake import DeltaTable

    folder = root / "workspace" / "tables" / "main" / "rlm" / table
    found: list[dict[str, Any]] = DeltaTable(str(folder)).to_pyarrow_table().to_pylist()
    return found


def test_needle(tmp_path: Path) -> None:
    from examples.needle.text import OTHERS, SAFE, SAFE_TALK, STOPS, write

    truth = write(tmp_path / "again.txt", 1)
    document = run("needle", tmp_path, "--megabytes", "1")
    assert SAFE in document["answer"]
    assert f"{sum(truth.hours.values())} hours" in document["answer"]
    assert {row["cause"]: row["hours"] for row in rows(tmp_path, "press_stops")} == truth.hours
    assert document["tables"] == ["main.rlm.press_stops"]
    asked = STOPS + OTHERS + SAFE_TALK + 1
    assert document["sub_usage"]["calls"] == asked
    assert len(rows(tmp_path, "model_calls")) == asked
    assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "chronicle.txt").read_bytes()


def test_classify(tmp_path: Path) -> None:
    from examples.classify.task import class_of

    document = run("classify", tmp_path)
    planes = rows(tmp_path, "planes_classified")
    assert len(planes) == 3_322
    assert [plane for plane in planes if plane["class"] != class_of(plane)] == []
    assert document["sub_usage"]["calls"] == len(rows(tmp_path, "model_calls"))
    assert document["iterations"] == 2  # the first answer, refused, cost none


def test_children(tmp_path: Path) -> None:
    document = run("children", tmp_path)
    assert document["answer"].startswith("EWR had the most bad months: 6,")
    assert len(document["children"]) == 3
    assert document["sub_usage"]["calls"] == 36
    assert sorted(row["airport"] for row in rows(tmp_path, "airport_months")) == ["EWR", "JFK", "LGA"]


@pytest.mark.parametrize("name", ["needle", "classify", "children"])
def test_a_readme_is_short_and_names_its_programs(name: str) -> None:
    folder = ROOT / "examples" / name
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 40
    assert f"-m examples.{name}" in text
    missing = [path.name for path in (folder / "programs").glob("*.py") if path.name not in text]
    assert missing == []
