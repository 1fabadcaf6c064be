"""Answers of models are on record before more is asked: a kill costs no more than what is on its way."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from harness_support import eventually
from llm_support import calls_of, serving

from executor_harness.volumes import Volumes

AT_ONCE, PROMPTS = 3, 12


def test_nothing_more_is_asked_while_answers_are_not_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gate = Volumes.put, threading.Event()

    def slow(self: Volumes, path: str, data: bytes) -> None:
        assert "/calls/" not in path or gate.wait(120)
        real(self, path, data)

    monkeypatch.setattr(Volumes, "put", slow)
    with serving() as stub:
        calls = calls_of(tmp_path, stub, concurrency=AT_ONCE)
        prompts = [f"p{n}" for n in range(PROMPTS)]
        found: list[Any] = []
        asking = threading.Thread(target=lambda: found.extend(calls.query_batched(prompts)))
        asking.start()
        eventually(lambda: len(stub.asked) >= AT_ONCE)
        time.sleep(0.1)  # time enough for more to be asked
        asked = len(stub.asked)
        gate.set()
        asking.join(120)
        assert asked == AT_ONCE
        assert found == [f"re: {prompt}" for prompt in prompts]
        calls.close()
