"""One attempt on a temporary Volume, and the real process of the harness to run it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_workspace.options import installed_engine

from executor_harness import protocol

PACKAGE = Path(protocol.__file__).parent
VOLUME = "/Volumes/main/rlm/work"


def request_of(**changes: Any) -> protocol.Request:
    """A whole request, with some fields changed."""
    fields: dict[str, Any] = {
        "run_id": "r1",
        "iter_n": 1,
        "attempt": 1,
        "purpose": "test",
        "artifact": {
            "path": f"{VOLUME}/scratchpad/run_r1/iter_1/entrypoint.py",
            "sha256": "0" * 64,
            "size": 0,
        },
        "output_dir": f"{VOLUME}/scratchpad/run_r1/iter_1",
        "timeout_s": 60,
        "results_table": "main.rlm.execution_results",
        "catalog": "main",
        "schema": "rlm",
    }
    return protocol.read(protocol.Request, fields | changes)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A process that ended, and what it left."""

    code: int
    out: str
    err: str
    folder: Path
    result: dict[str, Any] | None

    @property
    def report(self) -> dict[str, Any]:
        assert self.result is not None, self.err
        return self.result


@dataclass(kw_only=True)
class Bench:
    """One attempt on a Volume of its own."""

    root: Path
    cache: Path
    python: str = sys.executable
    env: dict[str, str] = field(default_factory=dict)
    run_id: str = "r1"
    iter_n: int = 1
    attempt: int = 1
    request: dict[str, Any] = field(default_factory=dict)

    @property
    def output_dir(self) -> str:
        return f"{VOLUME}/scratchpad/{protocol.folder_of(self.run_id, self.iter_n, self.attempt)}"

    @property
    def folder(self) -> Path:
        return self.local(self.output_dir)

    def local(self, path: str) -> Path:
        return Path(str(self.root) + path.removeprefix("/Volumes"))

    def publish(self, program: str | bytes, **changes: Any) -> dict[str, Any]:
        source = program.encode() if isinstance(program, str) else program
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "entrypoint.py").write_bytes(source)
        self.request = {
            "run_id": self.run_id,
            "iter_n": self.iter_n,
            "attempt": self.attempt,
            "task_type": "python",
            "purpose": "test",
            "artifact": {
                "path": f"{self.output_dir}/entrypoint.py",
                "sha256": hashlib.sha256(source).hexdigest(),
                "size": len(source),
            },
            "output_dir": self.output_dir,
            "codebase_dir": f"{VOLUME}/company_codebase",
            "inputs": {},
            "parameters": {},
            "timeout_s": 60,
            "results_table": "main.rlm.execution_results",
            "catalog": "main",
            "schema": "rlm",
            "limits": {"grace_s": 1},
            **changes,
        }
        self.write_manifest({"schema_version": 1, "request": self.request, "submit_payload": {}})
        return self.request

    def write_manifest(self, document: object) -> None:
        (self.folder / "manifest.json").write_text(json.dumps(document))

    def arguments(self, **changes: str) -> list[str]:
        named = {
            "run-id": self.run_id,
            "iter": str(self.iter_n),
            "attempt": str(self.attempt),
            "manifest": f"{self.output_dir}/manifest.json",
            "request-sha256": protocol.digest(self.request),
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        return [part for name, value in named.items() for part in (f"--{name}", value)]

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return subprocess.Popen(
            [self.python, str(self.root / "harness" / "main.py"), *(arguments or self.arguments())],
            env={
                **keep,
                "RLM_VOLUMES_ROOT": str(self.root),
                "TMPDIR": str(self.root / "tmp"),
                "PYTHONPYCACHEPREFIX": str(self.cache),
                **self.env,
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def wait(self, process: subprocess.Popen[bytes]) -> Ended:
        try:
            out, err = process.communicate(timeout=300)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return Ended(
            code=process.returncode,
            out=out.decode("utf-8", "replace"),
            err=err.decode("utf-8", "replace"),
            folder=self.folder,
            result=self.read_result(),
        )

    def read_result(self) -> dict[str, Any] | None:
        path = self.folder / "result.json"
        found: dict[str, Any] | None = json.loads(path.read_bytes()) if path.exists() else None
        return found

    def run(self, program: str | bytes, **changes: Any) -> Ended:
        self.publish(program, **changes)
        return self.wait(self.start())

    def again(self) -> Ended:
        return self.wait(self.start())

    def await_file(self, name: str) -> Path:
        return eventually(lambda: (found := self.root / name).exists() and found)


def keep_session(bench: Bench) -> None:
    """Run the harness from the source tree, with one change: its end must not end the Spark session that the
    tests look through.
    """
    harness = bench.root / "harness"
    shutil.copytree(PACKAGE, harness / "executor_harness", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PACKAGE / "main.py", harness / "main.py")
    session = harness / "executor_harness" / "spark.py"
    kept = session.read_text().replace("self._ours and is_connect(spark)", "False")
    assert kept != session.read_text()
    session.write_text(kept)


def eventually(look: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def create_schema(spark: Any, name: str, folder: Path) -> None:
    """Create an empty schema: in `folder` on Sail; on Spark in the workspace's tree, where one may be."""
    if installed_engine() == "spark":
        spark.sql(f"DROP SCHEMA IF EXISTS {name} CASCADE").collect()
        spark.sql(f"CREATE SCHEMA {name}").collect()
    else:
        spark.sql(f"CREATE SCHEMA {name} LOCATION '{folder}'").collect()
