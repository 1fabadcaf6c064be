"""A controller that ticks without a pause and says how much memory it holds: child of ``control_memory``.

``python -m benchmarks.control_soak HOST TOKEN HTTP_PATH SCHEMA MODEL RUN_EVERY MARK …``: a line of JSON at
each MARK, a number of ticks. A new run comes in before every RUN_EVERY-th tick (0: never).
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from databricks_rlm_agent.app import App
from databricks_rlm_agent.controller.tick import TickReport
from databricks_rlm_agent.runs.run import new_run
from databricks_rlm_agent.settings import from_environment


def main(arguments: Sequence[str]) -> int:
    """The product's own loop around the product's own tick; only the waits are left out."""
    host, token, http_path, schema, model, run_every, *marks = arguments
    environ = {"RLM_WAREHOUSE_HTTP_PATH": http_path, "ADK_DELTA_SCHEMA": schema}
    app = App(settings=from_environment(environ, model=model), environ={}, host=host, token=token)
    every, wanted, ticks = int(run_every), {int(mark) for mark in marks}, 0

    def over(_: TickReport) -> bool:
        nonlocal ticks
        ticks += 1
        if ticks in wanted:
            gc.collect()  # what is left is held on to, and not merely not yet collected
            print(json.dumps({"ticks": ticks, "rss_mb": _rss_mb()}), flush=True)
        if every and ticks % every == 0:
            app.store.insert([new_run("Bench", run_id=f"bench{ticks}", clock=app.clock)])
        return ticks >= max(wanted)

    replace(app.loop(max_wait_s=5.0), sleep=lambda _: None).run(done=over)
    app.close()
    return 0


def _rss_mb() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
