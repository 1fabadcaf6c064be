"""``rlms`` and ``dspy`` as contenders: each run is a process of their own environment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rlm.programs import DSPY, LINE, RLMS, TASK, Dialect, Message, dspy_messages, rlms_messages
from benchmarks.rlm.run import Done
from benchmarks.rlm.stub import Scenario
from benchmarks.rlm.stubclient import StubClient

PROJECT = Path(__file__).parents[2]
PYTHON = PROJECT / ".venv-bench-rlm" / "bin" / "python"
TIMEOUT_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A contender that runs in one process from begin to end."""

    name: str
    dialect: Dialect
    stub: StubClient
    script: Path
    messages: Callable[[Sequence[str], int], list[Message]]

    def run(
        self, programs: Sequence[str], *, context: int, sub_latency_s: float = 0.0, children: int = 0
    ) -> Done:
        """Have it carry out programs, one a turn, with a context of so many characters."""
        said = self.messages(programs, children)
        self.stub.play(Scenario(root=said, sub_latency_s=sub_latency_s))
        spec = {
            "host": self.stub.host,
            "task": TASK,
            "line": LINE,
            "context_chars": context,
            "max_turns": len(said) + 1,
            "max_sub_calls": 1_000_000,
            "depth": 1 if children else 0,
        }
        document = self._ask(spec)
        return Done(answer=document["answer"], usage=document["usage"], log=self.stub.log())

    def _ask(self, spec: dict[str, Any]) -> dict[str, Any]:
        done = subprocess.run(
            [PYTHON, self.script],
            input=json.dumps(spec),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name} failed: {done.stderr[-2000:]}")
        document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return document


def rivals(stub: StubClient) -> list[Rival]:
    """Both of them; raises FileNotFoundError where their environment has not been made."""
    if not PYTHON.exists():
        raise FileNotFoundError(f"{PYTHON} is missing: run make setup-bench-rlm")
    here = Path(__file__).parent
    return [
        Rival(name="rlms", dialect=RLMS, stub=stub, script=here / "rival_rlms.py", messages=rlms_messages),
        Rival(name="dspy", dialect=DSPY, stub=stub, script=here / "rival_dspy.py", messages=dspy_messages),
    ]
