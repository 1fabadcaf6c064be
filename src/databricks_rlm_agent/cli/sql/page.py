"""``sql run --page FILE``: the report as a page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from databricks_rlm_agent.domain.workflow.pictures.page import as_page
from databricks_rlm_agent.errors import UsageError


def check_page(file: str) -> None:
    """Raise UsageError if no page can be written there: better before the run than after it."""
    path = Path(file)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(
            "No page can be written there.",
            where=f"--page {file}",
            fix="Name a file in a folder that exists.",
        )


def write_page(file: str, report: Mapping[str, Any]) -> str:
    """Write it, whole or not at all, and say so. That it cannot be does not change how the run has ended."""
    path = Path(file)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(as_page(report), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        return f"The page could not be written: {error}."
    return f"The report as a page: {path}"
