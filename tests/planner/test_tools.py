from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_rlm_agent.errors import NotFound, UsageError
from databricks_rlm_agent.planner.tools import MAX_CHARS, Toolbox, fit_text

ROOT = "/Volumes/main/rlm/files"


@pytest.fixture
def toolbox(world: dict[str, Any]) -> Toolbox:
    return Toolbox(**world)


def chars(answer: Any) -> int:
    return len(json.dumps(answer, ensure_ascii=False))


def test_catalog(toolbox: Toolbox, world: dict[str, Any]) -> None:
    assert toolbox.search_catalog("fl") == {"tables": ["main.rlm.flights"], "left_out": 0}
    assert toolbox.describe_table("main.rlm.flights")["columns"] == ["origin string", "dep_delay double"]
    world["catalog"].tables.update({f"main.rlm.t{n}_{'x' * 200}": [] for n in range(90)})
    answer = toolbox.search_catalog("")
    assert answer["left_out"] > 0
    assert chars(answer) <= MAX_CHARS
    with pytest.raises(NotFound):
        toolbox.describe_table("main.rlm.none")


@pytest.mark.parametrize(
    "name", ["flights", "a.b", "a.b.c; DROP TABLE x", "a.b.`c`", "a.b.c d", "", "a.b.c.d"]
)
def test_names_are_checked_before_any_statement(toolbox: Toolbox, world: dict[str, Any], name: str) -> None:
    for tool in (toolbox.sample_table, toolbox.describe_table):
        with pytest.raises(UsageError):
            tool(name)
    assert world["sql"].statements == []


def test_sample(toolbox: Toolbox, world: dict[str, Any]) -> None:
    answer = toolbox.sample_table("main.rlm.flights", rows=1000)
    assert answer["rows"] == [{"origin": "JFK", "dep_delay": 2.0}]
    assert world["sql"].statements == ["SELECT * FROM `main`.`rlm`.`flights` LIMIT 20"]
    toolbox.sample_table("main.rlm.flights", rows=-5)
    assert world["sql"].statements[1].endswith("LIMIT 1")


def test_wide_rows_are_clipped(toolbox: Toolbox, world: dict[str, Any]) -> None:
    world["sql"].rows = [{"a": "x" * 10_000, "b": b"\xff" * 1000, "c": None, "d": {"k": [1] * 1000}}] * 20
    answer = toolbox.sample_table("main.rlm.flights", rows=20)
    assert answer["rows"]
    assert len(answer["rows"]) + answer["left_out"] == 20
    assert chars(answer) <= MAX_CHARS
    world["sql"].rows = [{f"column_{n}": "x" * 300 for n in range(500)}]
    assert toolbox.sample_table("main.rlm.flights")["left_out"] == 1


BAD_PATHS = [
    *("/etc/passwd", "notes.txt", "/Volumes", "//Volumes/a", "/Volumes/\0"),
    *("/Volumes/../etc/passwd", "/Volumes/a/b/c/../../x", "/Volumes/" + "x" * 2000),
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_only_volumes_are_read(toolbox: Toolbox, path: str) -> None:
    with pytest.raises(UsageError):
        toolbox.read_file(path)
    with pytest.raises(UsageError):
        toolbox.list_files(path)


def test_files(toolbox: Toolbox) -> None:
    listed = toolbox.list_files("")
    assert listed["entries"] == [{"path": f"{ROOT}/notes.txt", "size": 5}]
    assert toolbox.read_file(f"{ROOT}/notes.txt") == {
        "path": f"{ROOT}/notes.txt",
        "text": "hello",
        "next_offset": None,
    }
    with pytest.raises(NotFound):
        toolbox.read_file(f"{ROOT}/none.txt")


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=9_000) | st.text(max_size=4_000).map(lambda text: text.encode()))
def test_a_text_is_taken_in_bounded_pieces(content: bytes) -> None:
    pieces, offset = [], 0
    while offset < len(content):
        text, used = fit_text(content[offset:])
        assert used > 0
        assert chars(text) <= MAX_CHARS
        pieces.append(text)
        offset += used
    assert "".join(pieces) == content.decode("utf-8", "replace")


def test_a_long_file_is_read_to_its_end_by_following_offsets(toolbox: Toolbox, world: dict[str, Any]) -> None:
    text = "".join(f'Zeile {n}: "ü\\€"\n' for n in range(2_000))
    world["volume"].files[f"{ROOT}/long.txt"] = text.encode()
    read, offset = "", 0
    while offset is not None:
        answer = toolbox.read_file(f"{ROOT}/long.txt", offset=offset)
        assert chars(answer) <= MAX_CHARS
        read, offset = read + answer["text"], answer["next_offset"]
    assert read == text
