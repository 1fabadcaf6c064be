"""What the commands take before they do anything: a process, its imports, a first look at the warehouse."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.measure import Line, Report, in_turn, median
from benchmarks.processes import spend
from benchmarks.sql import flow
from benchmarks.sql.stage import Stage

_ROUNDS = 3
_COMMAND = "from databricks_rlm_agent.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"


def cold(stage: Stage, root: Path, repeat: int) -> Report:
    """``sql plan`` over importing its parser, ``sql run --dry-run`` over importing connector and SDK too."""
    folder = flow.write(root / "flow")
    place = ("--root", str(stage.root), "--catalog", "main", "--schema", stage.schema())
    contenders = (
        _ours("sql", "plan", str(folder)),
        _python("import sqlglot; sqlglot.parse('SELECT 1', read='databricks')"),
        _ours("sql", "run", str(folder), *place, "--dry-run"),
        _python("import sqlglot, databricks.sql.client, databricks.sdk"),
        _python("import sqlglot, databricks.sql.client"),
    )
    rounds = _ROUNDS * repeat
    spent = in_turn(rounds, *(partial(spend, argv, os.environ) for argv in contenders))
    took = [median([each.seconds for each in side]) for side in spent]
    cpu = [median([each.cpu_seconds for each in side]) for side in spent]
    compared = (
        ("sql plan, over importing sqlglot", 0, 1),
        ("sql run --dry-run, over importing sqlglot, connector, SDK", 2, 3),
        ("the same, over importing sqlglot, connector", 2, 4),
    )
    return Report(
        lines=[
            Line(
                bench="cold",
                what=f"{what}{kind}",
                ours=values[ours],
                floor=values[floor],
                unit="s",
                compare="extra",
                samples=rounds,
            )
            for what, ours, floor in compared
            for kind, values in (("", took), (", CPU time", cpu))
        ],
        notes=["The dry run asks a running workspace: five statements or less in a session of its own."],
    )


def _ours(*arguments: str) -> Sequence[str]:
    return [sys.executable, "-c", _COMMAND, *arguments]


def _python(text: str) -> Sequence[str]:
    return [sys.executable, "-c", text]
