"""The harness runs on Python 3.10, whatever the tests run on."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path

import pytest
from harness_support import PACKAGE, Bench


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_syntax_is_of_python_3_10(path: Path) -> None:
    ast.parse(path.read_text("utf-8"), feature_version=(3, 10))


def others() -> list[str]:
    pyenv = [str(path) for path in Path.home().glob(".pyenv/versions/3.1*/bin/python3")]
    named = [found for name in ("python3.10", "python3.12", "python3.13") if (found := shutil.which(name))]
    versions: dict[str, str] = {}
    for python in pyenv + named:
        ran = subprocess.run(
            [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True
        )
        if ran.returncode == 0:
            versions.setdefault(ran.stdout.decode().strip(), python)
    return [versions[version] for version in ("3.10", "3.12", "3.13") if version in versions]


def test_runs_on_other_pythons(bench: Bench) -> None:
    for number, python in enumerate(others(), 1):
        bench.python, bench.iter_n = python, number
        ended = bench.run("print('hello')\nrlm.finish(1)\nraise ValueError('x')\n")
        assert (ended.code, ended.report["error_type"], ended.out) == (1, "ValueError", "hello\n"), ended.err
        bench.iter_n += 100
        ended = bench.run("while True: pass\n", timeout_s=0.3)
        assert (ended.code, ended.report["status"]) == (124, "TIMEOUT"), ended.err
