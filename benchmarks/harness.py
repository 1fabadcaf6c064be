"""The harness over the bare program: extra seconds and extra peak memory, without Spark and with it."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from local_workspace import WorkspaceOptions, spawn

from benchmarks.measure import Line, Report, in_turn, median
from benchmarks.places import connect
from benchmarks.processes import Spent, spend
from databricks_rlm_agent.attempts.manifest import Manifest, Request
from databricks_rlm_agent.attempts.records import ResultRow
from databricks_rlm_agent.controller.bundle import MAIN, published
from databricks_rlm_agent.layout import ENTRYPOINT, MANIFEST, Namespace
from databricks_rlm_agent.storage.schema import create_table
from executor_harness.protocol import Artifact

TARGET_S, TARGET_MB = 0.3, 50.0
ROUNDS, LOOKS, SPARK_ROUNDS = 10, 2, 4
_NAMESPACE = Namespace(catalog="main", schema="rlm", volume="artifacts")

_PLAIN = "total = sum(range(1_000_000))\nfor n in range(100):\n    print(n, total)\n"
_SPARK = "print(spark.sql('SELECT 1').collect())\n"
_OWN_SESSION = (
    "import os\nfrom pyspark.sql import SparkSession\n"
    "spark = SparkSession.builder.remote(os.environ['SPARK_REMOTE']).getOrCreate()\n"
)
_OWN_END = "spark.stop()\n"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A folder that stands for ``/Volumes``, with the harness published in it."""

    root: Path
    environment: Mapping[str, str]
    numbers: itertools.count[int]

    def ours(self, program: str, *, look: bool) -> Spent:
        """A program under the harness. Each time a new attempt: a program is never run twice."""
        request = self._publish(program.encode())
        arguments = [
            *("--run-id", request.run_id, "--iter", "1", "--attempt", "1"),
            *("--manifest", f"{request.output_dir}/{MANIFEST}", "--request-sha256", request.sha256()),
        ]
        spent = self._spend(self.root / "harness" / MAIN, *arguments, look=look)
        assert (self._local(request.output_dir) / "result.json").exists()
        return spent

    def bare(self, program: str, *, look: bool) -> Spent:
        """The same program by itself."""
        path = self.root / f"bare{next(self.numbers)}.py"
        path.write_text(program)
        return self._spend(path, look=look)

    def _spend(self, *arguments: str | Path, look: bool) -> Spent:
        return spend([sys.executable, "-u", *map(str, arguments)], self.environment, look=look)

    def _publish(self, program: bytes) -> Request:
        run_id = f"bench{next(self.numbers)}"
        folder = _NAMESPACE.attempt_dir(run_id, 1, 1)
        artifact = Artifact(
            path=f"{folder}/{ENTRYPOINT}", sha256=hashlib.sha256(program).hexdigest(), size=len(program)
        )
        request = Request(
            run_id=run_id,
            iter_n=1,
            attempt=1,
            purpose="bench",
            artifact=artifact,
            output_dir=folder,
            codebase_dir=_NAMESPACE.codebase_dir,
            timeout_s=60,
            results_table=_NAMESPACE.table("execution_results"),
            catalog=_NAMESPACE.catalog,
            schema=_NAMESPACE.schema,
        )
        local = self._local(folder)
        local.mkdir(parents=True)
        (local / ENTRYPOINT).write_bytes(program)
        (local / MANIFEST).write_bytes(Manifest(request=request, submit_payload={}).to_bytes())
        return request

    def _local(self, path: str) -> Path:
        return self.root / path.removeprefix("/Volumes/")


def harness(root: Path, repeat: int) -> Report:
    """Without Spark, pyspark cannot be imported on either side; with it, the result's row is appended."""
    without = root / "nothing" / "pyspark"
    without.mkdir(parents=True)
    (without / "__init__.py").write_text("raise ImportError('left out by the benchmark')\n")
    plain = _stage(root / "plain", PYTHONPATH=str(without.parent))
    lines = _compared("a plain program", plain, (_PLAIN, _PLAIN), ROUNDS * repeat, targets=True)
    with spawn(WorkspaceOptions(root=root / "workspace")) as workspace:
        with connect(workspace.info) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA main.rlm")
            cursor.execute(create_table(_NAMESPACE, ResultRow))
        spark = _stage(root / "spark", SPARK_REMOTE=workspace.info.spark_connect)
        bare = _OWN_SESSION + _SPARK + _OWN_END
        lines += _compared("a Spark program", spark, (_SPARK, bare), SPARK_ROUNDS * repeat, targets=False)
        lines += _compared("a plain program, row appended", spark, (_PLAIN, _PLAIN), SPARK_ROUNDS * repeat)
    return Report(
        lines=lines,
        notes=[
            "Memory adds the peaks of the harness and of its watcher process, shared pages counted twice.",
            "'row appended': the program needs no Spark, so loading it for the row is all ours.",
        ],
    )


def _stage(root: Path, **variables: str) -> Stage:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    places = {
        "TMPDIR": root / "tmp",
        "RLM_VOLUMES_ROOT": root,
        "PYTHONPYCACHEPREFIX": root / "pycache",
    }
    (root / "tmp").mkdir(parents=True)
    (root / "harness").mkdir()
    (root / "harness" / MAIN).write_bytes(published())
    return Stage(
        root=root,
        environment=kept | {name: str(place) for name, place in places.items()} | variables,
        numbers=itertools.count(),
    )


def _compared(
    what: str, stage: Stage, programs: tuple[str, str], rounds: int, *, targets: bool = False
) -> list[Line]:
    def pair(rounds: int, *, look: bool, warm_up: int) -> list[list[Spent]]:
        ours, bare = partial(stage.ours, programs[0]), partial(stage.bare, programs[1])
        return in_turn(rounds, partial(ours, look=look), partial(bare, look=look), warm_up=warm_up)

    def line(kind: str, sides: list[list[Spent]], take: Callable[[Spent], float], **rest: Any) -> Line:
        ours, floor = (median([take(spent) for spent in side]) for side in sides)
        name = f"{what}, {kind}"
        return Line(
            bench="harness", what=name, ours=ours, floor=floor, compare="extra", samples=len(sides[0]), **rest
        )

    timed, looked_at = pair(rounds, look=False, warm_up=1), pair(LOOKS, look=True, warm_up=0)
    goals = (TARGET_S, TARGET_MB) if targets else (None, None)
    return [
        line("time", timed, lambda spent: spent.seconds, unit="s", target=goals[0]),
        line("CPU time", timed, lambda spent: spent.cpu_seconds, unit="s"),
        line("peak memory", looked_at, lambda spent: spent.peak_mb, unit="MB", target=goals[1]),
    ]
