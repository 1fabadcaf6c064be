"""The `python_file` of the job: finds the package of the harness, and runs it.

As it is published, this file holds the package itself: `_ZIP` is a zip in base64, `_SHA256` its hash (to look
into it: `unzip -l` of what `base64.b64decode(_ZIP)` gives). In the source tree both are empty, and the
package lies beside this file.

On Databricks a notebook kernel executes the file, where `__file__` may be undefined.
"""

from __future__ import annotations

import base64
import hashlib
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

_SHA256 = ""
_ZIP = ""


def _unpacked() -> Path | None:
    """Put the zip into a new temporary folder and return its path; None if it is not whole."""
    content = base64.b64decode(_ZIP)
    if hashlib.sha256(content).hexdigest() != _SHA256:
        sys.stderr.write("rlm: the published harness is damaged; `rlm-agent init` repairs it\n")
        return None
    path = Path(tempfile.mkdtemp(prefix="rlm-harness-"), "harness.zip")
    path.write_bytes(content)
    return path


def _package_parent() -> Path | None:
    """The folder that holds `executor_harness`: this file's own, its parent, or that of `--harness`."""
    named = [__file__] if "__file__" in globals() else []
    named += sys.argv[:1]
    for folder in [*(Path(path).resolve().parent for path in named if path), *_option()]:
        for parent in (folder, folder.parent):
            if (parent / "executor_harness" / "protocol.py").is_file():
                return parent
    sys.stderr.write("rlm: executor_harness is not beside main.py; give its folder with --harness DIR\n")
    return None


def _option() -> list[Path]:
    return [Path(sys.argv[sys.argv.index("--harness") + 1])] if "--harness" in sys.argv[:-1] else []


def _start() -> int:
    root = _unpacked() if _ZIP else _package_parent()
    if root is None:
        return 2
    if sys.pycache_prefix is None:
        sys.dont_write_bytecode = True  # no __pycache__ folders in a Volume
    # The folder of a script is importable by default; a program must not find our files by their bare names.
    hidden = {root, root / "executor_harness", Path(sys.argv[0] or ".").resolve().parent}
    sys.path[:] = [str(root), *(entry for entry in sys.path if Path(entry or ".").resolve() not in hidden)]
    from executor_harness.job import main

    code = main(sys.argv[1:], root=root, kernel="IPython" in sys.modules)
    if _ZIP:
        sys.path.remove(str(root))
        shutil.rmtree(root.parent, ignore_errors=True)  # its watcher does it where this process is killed
    return code


if __name__ == "__main__":
    # By hand, from the source tree: a published harness is run in place of this one where it is named.
    other = [] if _ZIP else [folder / "main.py" for folder in _option() if (folder / "main.py").is_file()]
    if other:
        runpy.run_path(str(other[0]), run_name="__main__")
    elif code := _start():  # a clean return is what Databricks takes for success
        sys.exit(code)
