"""The floor, a script of bare connector calls: one session, file after file, split at semicolons."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.sql.flow import LOOP

_ITERATION = re.compile(r"_loop_iteration_(\d+)\.sql$")
_CHANGED = "SELECT count(*) FROM {now} n JOIN {before} b ON n.id = b.id WHERE n.v <> b.v"


def run_script(connection: Any, folder: Path, schema: str) -> int:
    """Run the files by name, and the loop until a join finds no changed row; how many statements it took."""
    statements = 0
    with connection.cursor() as cursor:

        def run(text: str) -> None:
            nonlocal statements
            cursor.execute(text)
            statements += 1

        run("USE CATALOG main")
        run(f"USE SCHEMA {schema}")
        converged = 0
        for file in sorted(folder.glob("*.sql")):
            number = _ITERATION.search(file.name)
            if number and converged:
                continue
            for text in file.read_text().split(";"):
                if text.strip():
                    run(text)
            if number and _changed(cursor, run, int(number[1])) == 0:
                converged = int(number[1])
                run(f"CREATE OR REPLACE TABLE {LOOP}_final AS SELECT * FROM {LOOP}_{converged}")
    return statements


def _changed(cursor: Any, run: Callable[[str], None], number: int) -> int:
    if number == 1:
        return -1
    run(_CHANGED.format(now=f"{LOOP}_{number}", before=f"{LOOP}_{number - 1}"))
    return int(cursor.fetchall()[0][0])
