"""A SQL workflow as a program: what runs it is in the harness's zip, and is named by the program itself.

The harness knows nothing of SQL or of the control plane. The program, which the control plane wrote and whose
hash is verified, says which function is to be called and with what.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from executor_harness.run import WorkflowFailed

_PYTHON = (3, 11)  # the least that the runner needs; the harness itself runs on 3.10
_RUNNER = Path(__file__).parent.parent / "runner"  # in the zip


def run(rlm: Any, entry: str, document: Mapping[str, Any]) -> None:
    """Call `entry`, a `module:function` of the runner, with `rlm` and the document.

    The function returns None, or why the workflow has not succeeded. Raises WorkflowFailed then, and where
    the runner cannot run here.
    """
    if sys.version_info < _PYTHON:
        raise WorkflowFailed(
            f"A SQL workflow needs Python {'.'.join(map(str, _PYTHON))} or later in its job; this is "
            f"{sys.version.split()[0]}. Choose a newer runtime (RLM_COMPUTE)."
        )
    sys.path.insert(0, str(_RUNNER))
    module, _, function = entry.partition(":")
    try:
        called = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise WorkflowFailed(
            f"This harness holds no runner of SQL workflows ({error}). Start the job with --harness and the "
            "folder of a published harness."
        ) from None
    problem = called(rlm, document)
    if problem:
        raise WorkflowFailed(problem)
