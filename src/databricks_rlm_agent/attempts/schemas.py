"""The JSON schemas of ``manifest.json`` and ``result.json``, generated from the models.

``python -m databricks_rlm_agent.attempts.schemas docs/schemas`` writes them; a test holds the files in step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from databricks_rlm_agent.attempts.manifest import Manifest
from databricks_rlm_agent.attempts.result import Result

_MODELS: dict[str, type[BaseModel]] = {"manifest": Manifest, "result": Result}


def schemas() -> dict[str, dict[str, Any]]:
    """File name to JSON schema (draft 2020-12), with the names that the files use."""
    return {
        f"{name}.schema.json": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **model.model_json_schema(by_alias=True, mode="validation"),
        }
        for name, model in _MODELS.items()
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
