"""What other people's clients can do is compared with what is on paper."""

from __future__ import annotations

import pytest

from tools import clients
from tools.clients import __main__ as tool


def results(**right: tuple[int, int]) -> dict[str, tool.Result]:
    return {
        name: tool.Result(problems={f"check {n}": "" if n < good else "wrong" for n in range(total)})
        for name, (good, total) in right.items()
    }


def test_the_paper_says_what_the_comparison_reads() -> None:
    before = tool.paper(results(lsql=(2, 3), dagster=(0, 1)), "")
    text = tool.paper(results(dagster=(1, 1)), before)
    assert "- lsql, check 2: wrong" in text
    assert "- dagster" not in text
    found = {match["name"]: (match["right"], match["all"]) for match in tool._ROW.finditer(text)}
    assert found == {"lsql": ("2", "3"), "dagster": ("1", "1")}


@pytest.mark.parametrize(("right", "said"), [(1, True), (2, False), (3, False)])
def test_a_lower_figure_is_said(right: int, said: bool) -> None:
    found = tool.lower(results(lsql=(right, 3), dbt=(0, 1)), {"lsql": (2, 3)})
    assert bool(found) == said
    assert all("lsql: 1 of 3 are right, 2 in docs/coverage.md" in line for line in found)


def test_every_client_has_its_pins_its_script_and_its_row_on_paper() -> None:
    folder = tool.ROOT / "tools" / "clients"
    assert clients.__doc__
    for name in tool.CLIENTS:
        pins = (tool.ROOT / f"constraints-clients-{name}.txt").read_text()
        assert "--hash=sha256:" in pins
        assert "://" not in pins
        assert (folder / f"use_{name}.py").exists()
    assert set(tool.known()) == set(tool.CLIENTS)
