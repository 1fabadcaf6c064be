from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_rlm_agent.attempts.excerpts import TextPattern, find_lines
from databricks_rlm_agent.attempts.manifest import Manifest, Request
from databricks_rlm_agent.attempts.result import Result
from databricks_rlm_agent.errors import NotFound, UsageError
from databricks_rlm_agent.planner.tools import MAX_CHARS, Results
from databricks_rlm_agent.ports import FileEntry, Planner
from executor_harness.protocol import Artifact, ProducedTable

ROOT = "/Volumes/main/rlm/files"


class MemoryLedger:
    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def append(self, rows: Any) -> None:
        raise AssertionError("the planner's tools only read")

    def results(self, run_id: str) -> Sequence[dict[str, Any]]:
        return [row for row in self.rows if row["run_id"] == run_id]


def put_result(world: dict[str, Any], run_id: str, iter_n: int, attempt: int = 1, **fields: Any) -> None:
    folder = world["namespace"].attempt_dir(run_id, iter_n, attempt)
    streams = {name: fields.pop(name, b"") for name in ("stdout", "stderr")}
    result = Result(run_id=run_id, iter_n=iter_n, attempt=attempt, **{"status": "SUCCESS"} | fields)
    request = Request(
        run_id=run_id,
        iter_n=iter_n,
        attempt=attempt,
        purpose="p",
        artifact=Artifact(path=f"{folder}/entrypoint_2.py", sha256="0" * 64, size=3),
        output_dir=folder,
        codebase_dir=f"{ROOT}/company_codebase",
        timeout_s=60,
        results_table="a.b.c",
        catalog="main",
        schema="rlm",
    )
    world["volume"].files |= {
        f"{folder}/result.json": result.model_dump_json().encode(),
        f"{folder}/manifest.json": Manifest(request=request, submit_payload={"tasks": []}).to_bytes(),
        f"{folder}/entrypoint_2.py": b"print('program of %d')" % iter_n,
        f"{folder}/stdout.txt": streams["stdout"],
        f"{folder}/stderr.txt": streams["stderr"],
    }


def with_folders(world: dict[str, Any]) -> None:
    """A volume whose listings show one level, as a workspace's do."""
    volume = world["volume"]

    def listed(path: str) -> Sequence[FileEntry]:
        below = [name[len(path) + 1 :] for name in volume.files if name.startswith(path + "/")]
        if not below:
            raise NotFound("There is no such folder.", where=path)
        folders = {name.partition("/")[0] for name in below if "/" in name}
        files = [name for name in below if "/" not in name]
        return [
            *(FileEntry(path=f"{path}/{name}", is_directory=True) for name in sorted(folders)),
            *(
                FileEntry(path=f"{path}/{name}", is_directory=False, size=len(volume.files[f"{path}/{name}"]))
                for name in files
            ),
        ]

    volume.list = listed


@pytest.fixture
def results(world: dict[str, Any]) -> Results:
    with_folders(world)
    put_result(
        world, "r1", 1, value={"rows": 7}, metrics={"seconds": 2.0}, stdout=b"first line\nNeedle 41 here\n"
    )
    put_result(
        world,
        "r1",
        2,
        status="FAILED",
        error_type="KeyError",
        error_summary="'dep_tme'",
        traceback="File x, line 3",
    )
    put_result(
        world, "r1", 2, attempt=2, value="second try", produced_tables=[ProducedTable(name="main.rlm.t9")]
    )
    put_result(world, "r2", 1, value="another run's needle 99")
    return Results(run_id="r1", iter_n=4, volume=world["volume"], namespace=world["namespace"])


def test_parts_of_a_result(results: Results) -> None:
    assert results.read_result(1)["text"] == '{\n "rows": 7\n}'
    assert results.read_result(1, "stdout", offset=11, length=6)["text"] == "Needle"
    assert results.read_result(1, "stdout", offset=11, length=6)["next_offset"] == 17
    assert results.read_result(1, "metrics")["text"] == '{\n "seconds": 2.0\n}'
    assert results.read_result(1, "code")["text"] == "print('program of 1')"
    assert results.read_result(1, "error") == {
        "iteration": 1,
        "part": "error",
        "text": "",
        "next_offset": None,
    }


def test_the_last_attempt_counts(results: Results) -> None:
    assert results.read_result(2)["text"] == '"second try"'
    assert results.read_result(2, "produced")["text"] == "table main.rlm.t9 "


def test_only_earlier_iterations_of_this_run_exist(results: Results) -> None:
    for iteration in (0, -1, 4, 99):
        with pytest.raises(UsageError, match="There are 1 to 3"):
            results.read_result(iteration)
    with pytest.raises(NotFound):
        results.read_result(3)  # it ran no program
    with pytest.raises(NotFound):
        results.read_result(3, "code")


def test_an_error_without_a_result_file_comes_from_the_ledger(world: dict[str, Any]) -> None:
    with_folders(world)
    row = {"run_id": "r1", "iter_n": 1, "attempt": 1, "error_type": "LOST", "error_summary": "no result"}
    row |= {"metrics": "{}", "produced_tables": "[]", "produced_artifacts": "[]"}
    ledger = MemoryLedger([row])
    results = Results(
        run_id="r1", iter_n=2, volume=world["volume"], namespace=world["namespace"], ledger=ledger
    )
    assert results.read_result(1, "error")["text"] == "LOST: no result"
    assert results.search_results("no RESULT")["matches"][0]["part"] == "error"


def test_search_finds_in_all_parts_of_this_run_only(results: Results) -> None:
    (match,) = results.search_results("needle")["matches"]
    assert match == {"iteration": 1, "part": "stdout", "offset": 11, "line": "Needle 41 here"}
    # What was found can be read from where it stands.
    assert results.read_result(1, "stdout", offset=match["offset"])["text"].startswith("Needle 41")
    parts = {
        (m["iteration"], m["part"]) for m in results.search_results("second.*TRY|program of|t9")["matches"]
    }
    assert parts == {(2, "value"), (2, "produced"), (2, "code"), (1, "code")}
    assert results.search_results("needle", iteration=2)["matches"] == []
    for nothing in ("", "|", ".*", "a|", "x" * 500):
        with pytest.raises(UsageError):
            results.search_results(nothing)


def test_a_search_ends_in_time_and_says_how_far_it_came(world: dict[str, Any]) -> None:
    with_folders(world)
    for n in range(1, 30):
        put_result(world, "r1", n, value="needle", stdout=b"needle\n" * 50_000)
    options = {"run_id": "r1", "iter_n": 30, "volume": world["volume"], "namespace": world["namespace"]}
    answer = Results(**options).search_results("needle")
    assert answer["not_searched"] == "iterations 1 to 28"
    assert len(json.dumps(answer)) <= MAX_CHARS
    ticks = iter(range(0, 1_000, 4))
    slow = Results(**options, clock=lambda: float(next(ticks))).search_results("nowhere")
    assert slow == {"matches": [], "left_out": 0, "not_searched": "iterations 1 to 26"}


def test_a_large_file_is_searched_at_its_ends(world: dict[str, Any]) -> None:
    with_folders(world)
    text = b"begin needle\n" + b"x" * 79 + b"\n" * 1 + b"y" * 5_000_000 + b"\nend needle\n"
    put_result(world, "r1", 1, stdout=text)
    results = Results(run_id="r1", iter_n=2, volume=world["volume"], namespace=world["namespace"])
    found = results.search_results("needle")["matches"]
    assert [(m["offset"], m["line"]) for m in found] == [(0, "begin needle"), (len(text) - 11, "end needle")]


@settings(max_examples=60)
@given(
    lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=60), max_size=12),
    word=st.text("abé. ", min_size=1, max_size=2).filter(lambda word: word.strip()),
)
def test_a_found_line_is_where_its_offset_says(lines: list[str], word: str) -> None:
    content = "\n".join(lines).encode()
    found = list(find_lines(content, TextPattern.parse(word)))
    assert len(found) == sum(word.lower() in line.lower() for line in lines)
    for match in found:
        assert content[match.offset :].decode().startswith(match.line)


def test_a_line_without_end_is_searched_in_bounded_pieces() -> None:
    content = b"z" * 30_000 + b"needle" + b"z" * 30_000
    found = list(find_lines(content, TextPattern.parse("needle")))
    assert found
    assert all("needle" in match.line and len(match.line) <= 160 for match in found)


def test_the_planner_offers_them_from_the_second_iteration_on(
    scripted: Any, make_context: Any, world: Any
) -> None:
    with_folders(world)
    put_result(world, "r1", 1, value={"rows": 7})
    look = {"call": "read_result", "args": {"iteration": 1, "part": "value"}}
    find = {"call": "search_results", "args": {"text": "rows"}}
    planner: Planner = scripted(
        script={"planner": [[{"text": "x"}], [look, find, {"call": "finish", "args": {"answer": "7"}}]]}
    )
    planned = planner.plan(make_context(iter_n=2))
    assert planned.action is not None
    tools = [note.payload for note in planned.notes if note.kind == "tool_call"]
    assert [tool["tool"] for tool in tools] == ["read_result", "search_results", "finish"]
    assert not any("error" in tool for tool in tools)
