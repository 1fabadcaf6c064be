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
    """``sql plan`` over the import of its parser, ``sql run --dry-run`` over that of the connector too."""
    folder = flow.write(root / "flow")
    place = ("--root", str(stage.root), "--catalog", "main", "--schema", stage.schema())
    contenders = {
        "sql plan": _ours("sql", "plan", str(folder)),
        "import sqlglot": _python("import sqlglot; sqlglot.parse('SELECT 1', read='databricks')"),
        "sql run --dry-run": _ours("sql", "run", str(folder), *place, "--dry-run"),
        "import sqlglot, connector": _python("import sqlglot, databricks.sql"),
    }
    rounds = _ROUNDS * repeat
    plan, parser, dry, both = (
        median([spent.seconds for spent in side])
        for side in in_turn(rounds, *(partial(spend, argv, os.environ) for argv in contenders.values()))
    )
    return Report(
        lines=[
            Line(bench="cold", what=what, ours=ours, floor=floor, unit="s", compare="extra", samples=rounds)
            for what, ours, floor in (
                ("sql plan, over importing sqlglot", plan, parser),
                ("sql run --dry-run, over importing sqlglot and the connector", dry, both),
            )
        ]
    )


def _ours(*arguments: str) -> Sequence[str]:
    return [sys.executable, "-c", _COMMAND, *arguments]


def _python(text: str) -> Sequence[str]:
    return [sys.executable, "-c", text]
