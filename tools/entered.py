"""Print the modules whose functions one ordinary run (``rlm-agent demo``) calls in the agent's process.

Usage: ``python tools/entered.py [--json]``. A profile hook, put on the path as ``sitecustomize``, notes the
file of each function when it is first called. Class bodies and module bodies do not count: importing is not
entering. The local workspace and the job processes, which have an environment of their own, are not counted
either.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_HOOK = """
import os, sys, threading
OPTIMIZED = 1  # of code flags: set for functions, not for the bodies of classes and modules
seen, target = set(), os.environ.get("ENTERED_FOLDER")
def note(frame, event, _argument):
    name = frame.f_code.co_filename
    if event == "call" and frame.f_code.co_flags & OPTIMIZED and name not in seen:
        seen.add(name)
        with open(f"{target}/{os.getpid()}", "a") as file:
            file.write(name + "\\n")
if target:
    sys.setprofile(note)
    threading.setprofile(note)
"""


def entered() -> list[str]:
    """Run the demo once; return the agent's modules that were entered, as paths below the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        hook, notes = Path(folder, "hook"), Path(folder, "notes")
        hook.mkdir()
        notes.mkdir()
        (hook / "sitecustomize.py").write_text(_HOOK, encoding="utf-8")
        module = "databricks_rlm_agent.cli.main"
        demo = ("-m", module, "demo", "--root", f"{folder}/workspace")
        environ = os.environ | {"PYTHONPATH": str(hook), "ENTERED_FOLDER": str(notes)}
        subprocess.run([sys.executable, *demo], env=environ, check=True, stdout=subprocess.DEVNULL, timeout=300)
        files = {line for file in notes.iterdir() for line in file.read_text(encoding="utf-8").splitlines()}
    packages = (ROOT / "src" / "databricks_rlm_agent", ROOT / "executor_harness")
    ours = [Path(file) for file in files if any(Path(file).is_relative_to(package) for package in packages)]
    return sorted(file.relative_to(ROOT).as_posix() for file in ours)


def main() -> None:
    """Print the modules, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    as_json = parser.parse_args().json
    modules = entered()
    if as_json:
        print(json.dumps({"entered": len(modules), "modules": modules}))
    else:
        print(*modules, f"{len(modules)} modules", sep="\n")


if __name__ == "__main__":
    main()
