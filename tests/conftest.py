"""For all tests: one local workspace for each worker, and which tests need more than this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
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
    from local_workspace.options import installed_engine

    root = tmp_path_factory.mktemp("shared") / "workspace"
    options = WorkspaceOptions(root=root, allow_faults=True)
    if installed_engine() == "spark":  # the harness's tests are on it, too, and read files beside it
        beside = (tmp_path_factory.getbasetemp().resolve(),)
        options = replace(options, catalogs=("main", "lake"), allow_paths=beside)
    with spawn(options) as spawned:
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


# Of the tests that take the most time: make test keeps every so-manyth of a file, 0 none. The others are
# marked `long`, and run in make test-all and in CI (`python -m tools.ci test-long`).
KEPT = {
    "test_abbreviate.py": 2,
    "test_bench_runner.py": 0,
    "test_bundle_runs.py": 3,
    "test_canaries.py": 3,
    "test_chaos_smoke.py": 0,
    "test_children.py": 6,
    "test_compaction.py": 3,
    "test_crash_smoke.py": 3,
    "test_crashes.py": 6,
    "test_crashes_in_flight.py": 8,
    "test_demo.py": 3,
    "test_endings.py": 2,
    "test_engine_loss.py": 3,
    "test_examples.py": 0,
    "test_harness_endings.py": 4,
    "test_harness_faults.py": 2,
    "test_harness_secrets.py": 2,
    "test_inputs_and_checks.py": 2,
    "test_intake_crashes.py": 6,
    "test_intake_table.py": 2,
    "test_lw_cancel.py": 3,
    "test_lw_job_runtime.py": 2,
    "test_lw_jobs.py": 2,
    "test_lw_server.py": 3,
    "test_lw_supervision.py": 3,
    "test_lw_tls.py": 2,
    "test_lw_wheel.py": 0,
    "test_machine_families.py": 0,
    "test_machine_faults.py": 0,
    "test_malformed.py": 3,
    "test_map_spark.py": 3,
    "test_models_down.py": 2,
    "test_operating.py": 2,
    "test_recursion.py": 2,
    "test_sqlflow_exactly_once.py": 8,
    "test_sqlflow_on_workspace.py": 2,
    "test_stopping.py": 2,
    "test_variables_processes.py": 4,
    "test_without_local_workspace.py": 3,
    "test_work.py": 2,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the shared workspace, and the files and tests that take long."""
    seen: Counter[str] = Counter()
    for item in items:
        every = KEPT.get(item.path.name, 1)
        if every == 0 or seen[item.path.name] % every:
            item.add_marker("long")
        seen[item.path.name] += 1
    skip_reference_engine(items)
    for item in items:
        if "shared_workspace" in getattr(item, "fixturenames", ()):
            item.add_marker("workspace")
        if item.path.name in SLOW:
            item.add_marker("slow")
