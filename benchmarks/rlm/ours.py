"""This project as a contender: ``rlm-agent run`` on a local workspace whose models are the stub's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from local_workspace import WorkspaceInfo

from benchmarks.rlm.programs import OURS, TASK, Dialect, context, our_messages
from benchmarks.rlm.rivals import TIMEOUT_S
from benchmarks.rlm.run import Done
from benchmarks.rlm.stub import ROOT, SUB, Scenario
from benchmarks.rlm.stubclient import StubClient

_LIMITS = {"max-iterations": 1_000, "max-model-calls": 10_000, "max-tokens": 1_000_000_000}


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A run of the command line for each run; the workspace stays up, as a Databricks workspace does."""

    workspace: WorkspaceInfo
    folder: Path
    name: str = "ours"
    dialect: Dialect = field(default=OURS)

    def __post_init__(self) -> None:
        self._command("init")

    def run(
        self, programs: Sequence[str], *, context: int, sub_latency_s: float = 0.0, children: int = 0
    ) -> Done:
        """Have it carry out programs, one an iteration, with an input of so many characters."""
        stub = StubClient(host=self.workspace.host)
        messages, aside = our_messages(programs, children)
        stub.play(Scenario(root=messages, turn_tool="run_python", aside=aside, sub_latency_s=sub_latency_s))
        self._requests("DELETE")
        limits = [part for name, value in _LIMITS.items() for part in (f"--{name}", str(value))]
        document = self._command("run", TASK, "--input", f"context=@{self._file(context)}", *limits)
        log = stub.log()
        used, sub_used = document["usage"], document["sub_usage"]
        return Done(
            answer=document["answer"],
            usage={key: used[key] + sub_used[key] for key in ("calls", "input_tokens", "output_tokens")},
            log=log,
            hops=[] if children else self._hops(document["run_id"]),
        )

    def _hops(self, run_id: str) -> list[float]:
        """From each submission, as the workspace received it, to the moment its result was taken in."""
        submitted = [
            entry["time"] / 1000
            for entry in self._requests("GET")["requests"]
            if entry["path"].endswith("/runs/submit")
        ]
        taken_in = [
            datetime.fromisoformat(event["at"]).timestamp()
            for event in self._command("show", run_id)["events"]
            if event["kind"] == "transition" and event["payload"]["from_state"] == "INGESTING"
        ]
        return [end - begin for begin, end in zip(submitted, sorted(taken_in), strict=True)]

    def _file(self, size: int) -> Path:
        path = self.folder / f"context_{size}.txt"
        if not path.exists():
            path.write_text(context(size))
        return path

    def _command(self, *arguments: str) -> Any:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        model = {
            "RLM_MODEL": f"openai/{ROOT}",
            "RLM_SUB_MODEL": SUB,
            "OPENAI_API_KEY": "none",
            "OPENAI_API_BASE": f"{self.workspace.host}/v1",
        }
        done = subprocess.run(
            [
                *(sys.executable, "-m", "databricks_rlm_agent.cli.main", *arguments),
                *("--root", self.workspace.root, "--json"),
            ],
            env=kept | model,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rlm-agent {arguments[0]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return json.loads(done.stdout)

    def _requests(self, method: str) -> Any:
        headers = {"Authorization": f"Bearer {self.workspace.token}"}
        request = urllib.request.Request(
            f"{self.workspace.host}/_local/requests", method=method, headers=headers
        )
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)
