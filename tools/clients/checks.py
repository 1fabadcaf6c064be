"""Checks of one client, in its own environment: standard library only. The result is one line."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

HOST, TOKEN = os.environ["DATABRICKS_HOST"], os.environ["DATABRICKS_TOKEN"]
HTTP_PATH, WAREHOUSE = os.environ["CLIENT_HTTP_PATH"], "local"
VOLUME = "/Volumes/main/default/clients"


class Checks:
    """Runs functions one after another; one that fails does not keep the others from running."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []

    def __call__(self, function: Callable[[], object]) -> Callable[[], object]:
        """Run a function now, as a check that is called like it."""
        self.record(function.__name__.replace("_", " "), function)
        return function

    def record(self, name: str, function: Callable[[], object]) -> None:
        """Run a check."""
        problem = ""
        try:
            function()
        except Exception as error:
            traceback.print_exc()
            problem = f"{type(error).__name__}: {error}"
        self.add(name, problem)

    def add(self, name: str, problem: str) -> None:
        """Note a check that was made elsewhere; `problem` is empty where it is right."""
        self.results.append({"check": name, "problem": " ".join(problem.split())[:300]})

    def finish(self) -> None:
        """Print the results."""
        sys.stdout.flush()
        print(json.dumps(self.results))
