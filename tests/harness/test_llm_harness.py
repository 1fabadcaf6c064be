"""The real harness with a program that asks models: killed in the midst of a batch, and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_support import Bench, eventually
from llm_support import Said, Stub, access, echo, serving

_PROGRAM = """
answers = rlm.llm_query_batched([f"p{n}" for n in range(%d)])
assert all(answers), answers
rlm.finish(len(answers))
"""


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(echo, latency_s=0.2) as found:
        yield found


def asking(bench: Bench, stub: Stub, prompts: int, **changes: Any) -> Bench:
    bench.env = {"DATABRICKS_HOST": stub.url, "DATABRICKS_TOKEN": "dapi-very-secret"}
    bench.publish(_PROGRAM % prompts, models=access(**changes))
    return bench


@pytest.mark.parametrize("waves", [1, 3])
def test_killed_in_the_midst_no_answered_prompt_is_asked_again(bench: Bench, stub: Stub, waves: int) -> None:
    process = asking(bench, stub, 64, concurrency=8).start()
    folder = bench.folder.parent / "calls"
    # The kill comes while a wave is being asked: what was answered before is on record.
    eventually(lambda: len(stub.asked) > 8 * waves and folder.is_dir() and lines(folder) >= 8 * waves)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    eventually(lambda: stub.busy == 0)
    before, kept = stub.prompts, lines(folder)

    dead = eventually(bench.read_result)
    assert dead["error_type"] == "ProcessDied"
    # What was answered counts as it was, at most what was under way and a block beyond it at its bound.
    counted, (asked, read, _) = dead["usage"], stub.billed
    assert asked <= counted["calls"] <= min(64, asked + 3 * 8)
    assert read <= counted["input_tokens"] <= read + 4 * 8 * (64 + 16 + 3)

    bench.attempt = 2
    asking(bench, stub, 64, concurrency=8)
    ended = bench.again()
    assert ended.code == 0, ended.err
    again = stub.prompts[len(before) :]
    assert len(again) == 64 - kept
    assert len(set(again) & set(before)) <= 8, "only what was on its way"
    usage = ended.report["usage"]
    assert (ended.report["value"], usage["calls"], usage["cached"]) == (64, len(again), kept)


def lines(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*.jsonl"))


def test_cancelled_in_the_midst(bench: Bench, stub: Stub) -> None:
    process = asking(bench, stub, 200, concurrency=8).start()
    folder = bench.folder.parent / "calls"
    eventually(lambda: folder.is_dir() and lines(folder) >= 8)
    process.send_signal(signal.SIGTERM)
    ended = bench.wait(process)
    assert ended.report["status"] == "CANCELLED", ended.report
    eventually(lambda: stub.busy == 0)
    asked, kept = len(stub.asked), lines(folder)
    assert 8 <= kept <= asked < 200
    assert ended.report["usage"]["calls"] >= asked
    bench.attempt = 2
    asking(bench, stub, 200)
    assert bench.again().code == 0
    assert len(stub.asked) - asked == 200 - kept


def test_the_token_is_nowhere(bench: Bench) -> None:
    with serving(lambda prompt, before: Said(status=403, text="denied", tokens=None)) as stub:
        ended = bench.wait(asking(bench, stub, 3).start())
        assert ended.code == 1
        assert "CAN QUERY" in ended.report["error_summary"]
    texts = [path.read_bytes() for path in bench.root.rglob("*") if path.is_file()]
    assert not any(b"dapi-very-secret" in text for text in texts)
