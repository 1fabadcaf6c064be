"""``workspace start``: serve a local workspace."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from databricks_rlm_agent.errors import RlmError

if TYPE_CHECKING:
    from databricks_rlm_agent.localworkspace.info import WorkspaceInfo


def start(options: argparse.Namespace) -> int:
    """Serve until interrupted; print how to reach it when ready."""
    from databricks_rlm_agent.localworkspace.options import WorkspaceOptions
    from databricks_rlm_agent.localworkspace.server import serve

    def ready(info: WorkspaceInfo) -> None:
        print(info.to_json() if options.json else _text(info), flush=True)

    try:
        serve(
            WorkspaceOptions(
                root=Path(options.root).absolute(),
                port=options.port,
                allow_faults=options.allow_faults,
                engine=options.engine,
                catalogs=tuple(dict.fromkeys(("main", *options.catalog))),
                model=options.model,
            ),
            ready,
        )
    except (OSError, RuntimeError) as error:
        raise RlmError(f"The local workspace did not start: {error}", where=options.root) from None
    return 0


def _text(info: WorkspaceInfo) -> str:
    return (
        f"Local workspace at {info.root}, ready. Point any Databricks client at it:\n"
        f"  export DATABRICKS_HOST={info.host}\n"
        f"  export DATABRICKS_TOKEN={info.token}\n"
        f"  export RLM_WAREHOUSE_HTTP_PATH={info.http_path}\n"
        "Stop it with Ctrl-C."
    )
