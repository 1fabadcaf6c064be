"""The JSON schemas of ``manifest.json`` and ``result.json``, generated from ``executor_harness.protocol``.

``python -m tools.schemas docs/schemas`` writes them; a test holds the files in step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from databricks_rlm_agent.attempts.manifest import Manifest
from executor_harness import protocol

_DOCUMENTS: dict[str, TypeAdapter[Any]] = {
    "manifest": TypeAdapter(Manifest),
    "result": TypeAdapter(protocol.Result),
}


def schemas() -> dict[str, dict[str, Any]]:
    """File name to JSON schema (draft 2020-12), with the names that the files use."""
    return {
        f"{name}.schema.json": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **document.json_schema(mode="validation"),
        }
        for name, document in _DOCUMENTS.items()
    }


def text(schema: dict[str, Any]) -> str:
    """A schema as it is checked in."""
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    """Write every schema into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (folder / name).write_text(text(schema), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
