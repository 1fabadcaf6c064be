"""For all tests: one local workspace for each worker, and which tests need more than this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import __main__
from tools.faults import skip_reference_engine

if TYPE_CHECKING:
    from local_workspace import WorkspaceInfo

# A worker of pytest-xdist is started with `python -c`, and pyspark takes a main module without a file for
# its own doctests, which need a whole Spark.
if not hasattr(__main__, "__file__"):
    __main__.__file__ = __file__


@pytest.fixture(scope="session")
def shared_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceInfo]:
    """One local workspace with fault control for all files that a worker runs.

    It takes seconds to start. Each file keeps to schemas, Volumes and run ids of its own, and clears the
    fault rules that it has set.
    """
    from local_workspace import WorkspaceOptions, spawn

    root = tmp_path_factory.mktemp("shared") / "workspace"
    with spawn(WorkspaceOptions(root=root, allow_faults=True)) as spawned:
        yield spawned.info


# Thousands of examples or fault points in one process: make check leaves these files out too.
SLOW = {
    "test_children.py",
    "test_crashes.py",
    "test_crashes_in_flight.py",
    "test_machine.py",
    "test_machine_families.py",
    "test_machine_faults.py",
    "test_malformed.py",
    "test_sqlflow_exactly_once.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the shared workspace, and the files that take long."""
    skip_reference_engine(items)
    for item in items:
        if "shared_workspace" in getattr(item, "fixturenames", ()):
            item.add_marker("workspace")
        if item.path.name in SLOW:
            item.add_marker("slow")
