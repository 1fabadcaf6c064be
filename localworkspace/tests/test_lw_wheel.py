"""The wheel of the local workspace, and the workspace that serves from it without anything of the agent."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from local_workspace import WorkspaceInfo
from lw_support import sdk

FOLDER = Path(__file__).resolve().parents[1]

# `-S` leaves out site-packages with its .pth files, and so all editable installations; `-I` leaves out the
# working folder.
SERVE = """
import sys
sys.path[:0] = sys.argv[1:3]
import importlib.util
assert importlib.util.find_spec("databricks_rlm_agent") is None
assert importlib.util.find_spec("executor_harness") is None
from local_workspace import __main__
__file__ = "serve"  # pyspark takes a main module without one for its own doctests
assert __main__.__file__.startswith(sys.argv[1]), __main__.__file__
sys.exit(__main__.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(FOLDER), "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(folder)], check=True, capture_output=True, timeout=150)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_the_package_its_data_and_its_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        assert "local-workspace = local_workspace.__main__:main" in archive.read(entry_points).decode()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"local_workspace"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    source = FOLDER / "src"
    there = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("local_workspace/")} == there
    assert "local_workspace/py.typed" in there
    assert any(name.endswith(".scala") for name in there)


def test_it_serves_without_the_agent(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    command = [sys.executable, "-I", "-S", "-c", SERVE, str(installed), sysconfig.get_path("purelib")]
    with subprocess.Popen(
        [*command, "--root", str(tmp_path / "w"), "--json"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            info = WorkspaceInfo.from_json(process.stdout.readline())
            assert sdk(info).current_user.me().user_name
        finally:
            process.terminate()
        assert process.wait(120) == 0
