"""The `python_file` of the job. Finds the package that was published with it, and runs it.

On Databricks the file is executed by a notebook kernel, where `__file__` may be undefined.
"""

from __future__ import annotations

import sys
from pathlib import Path


def _package_parent() -> Path | None:
    """The folder that holds `executor_harness`: this file's own, the script's, or that of `--harness`."""
    named = [Path(__file__)] if "__file__" in globals() else []
    named += [Path(sys.argv[0])] if sys.argv and sys.argv[0] else []
    folders = [path.resolve().parent for path in named]
    if "--harness" in sys.argv[:-1]:
        folders.append(Path(sys.argv[sys.argv.index("--harness") + 1]))
    for folder in folders:
        for parent in (folder, folder.parent):
            if (parent / "executor_harness" / "protocol.py").is_file():
                return parent
    return None


def _start() -> int:
    parent = _package_parent()
    if parent is None:
        sys.stderr.write(
            "rlm: executor_harness was not found beside main.py; give its folder with --harness DIR\n"
        )
        return 2
    if sys.pycache_prefix is None:
        sys.dont_write_bytecode = True  # no __pycache__ folders in a Volume
    # The package's modules must not be importable by their bare names, as a script's own folder would make
    # them.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != parent / "executor_harness"]
    if str(parent) not in sys.path:
        sys.path.insert(0, str(parent))
    from executor_harness.job import main

    return main(sys.argv[1:], root=parent, kernel="IPython" in sys.modules)


if __name__ == "__main__":
    code = _start()
    if code:  # a clean return is what Databricks takes for success
        sys.exit(code)
