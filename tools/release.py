"""Make a release: ``python -m tools.release VERSION`` or ``python -m tools.release --check``.

With a version: writes it into both distributions, closes the changelog's ``[Unreleased]`` section under it,
and goes on as ``--check``, which changes only ``dist/`` in the checkout: builds wheel and sdist of both
distributions, and installs wheels, then sdists, into empty environments and tries them there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = {"databricks-rlm-agent": ROOT, "rlm-local-workspace": ROOT / "localworkspace"}
DIST = ROOT / "dist"
VERSION = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")
_UNRELEASED = "## [Unreleased]"
_PIP = ("-m", "pip", "--disable-pip-version-check", "--no-cache-dir")


class ReleaseError(Exception):
    """What keeps a release from being made."""


def released(changelog: str, version: str, today: date) -> str:
    """Return the changelog with its unreleased section under a version; ReleaseError if it is empty."""
    head, found, rest = changelog.partition(_UNRELEASED)
    section, following, older = rest.partition("\n## [")
    if not found or not section.strip():
        raise ReleaseError(f"CHANGELOG.md has nothing under {_UNRELEASED}")
    if f"## [{version}]" in changelog:
        raise ReleaseError(f"CHANGELOG.md has a section of {version} already")
    return f"{head}{_UNRELEASED}\n\n## [{version}] - {today.isoformat()}{section}{following}{older}"


def write_version(version: str) -> None:
    """Write a version into both pyproject.toml, the package and the changelog."""
    if not VERSION.fullmatch(version):
        raise ReleaseError(f"{version!r} is not a version like 1.2.3 or 1.2.3rc1")
    changelog = ROOT / "CHANGELOG.md"
    text = released(changelog.read_text(encoding="utf-8"), version, datetime.now(UTC).date())
    changelog.write_text(text, encoding="utf-8")
    places = {project / "pyproject.toml": r'(?m)^version = "[^"]+"$' for project in PROJECTS.values()}
    places[ROOT / "src" / "databricks_rlm_agent" / "__init__.py"] = r'(?m)^__version__ = "[^"]+"$'
    for path, pattern in places.items():
        name = "__version__" if path.suffix == ".py" else "version"
        text, count = re.subn(pattern, f'{name} = "{version}"', path.read_text(encoding="utf-8"))
        if count != 1:
            raise ReleaseError(f"{path}: {count} lines with a version")
        path.write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    """Return the version that each place states."""
    found = {
        name: tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        for name, project in PROJECTS.items()
    }
    init = (ROOT / "src" / "databricks_rlm_agent" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', init, re.MULTILINE)
    return found | {"databricks_rlm_agent.__version__": match[1] if match else ""}


def build() -> tuple[list[Path], list[Path]]:
    """Build both distributions into ``dist/``; return the wheels and the sdists."""
    shutil.rmtree(DIST, ignore_errors=True)
    for project in PROJECTS.values():
        run(sys.executable, "-m", "hatchling", "build", "-d", str(DIST), cwd=project)
    return sorted(DIST.glob("*.whl")), sorted(DIST.glob("*.tar.gz"))


def check_contents(wheels: Sequence[Path], sdists: Sequence[Path]) -> None:
    """Raise ReleaseError if a wheel holds another's packages, or an sdist what no build needs."""
    allowed = {
        "databricks_rlm_agent": {"databricks_rlm_agent", "executor_harness"},
        "rlm_local_workspace": {"local_workspace"},
    }
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            top = {name.partition("/")[0] for name in archive.namelist()}
        packages = {name for name in top if not name.endswith((".dist-info", ".data"))}
        if packages != allowed[wheel.name.partition("-")[0]]:
            raise ReleaseError(f"{wheel.name} holds {sorted(packages)}")
    for sdist in sdists:
        with tarfile.open(sdist) as archive:
            names = archive.getnames()
        hidden = [name for name in names if "/.venv" in name or "/.cache" in name or "/__pycache__" in name]
        if hidden or not any(name.endswith("/pyproject.toml") for name in names):
            raise ReleaseError(f"{sdist.name} holds {hidden[:3]}")


def try_installed(archives: Sequence[Path], folder: Path) -> None:
    """Install archives and their pinned dependencies into an empty environment; try the commands there."""
    python = str(folder / "bin" / "python")
    run(sys.executable, "-m", "venv", str(folder))
    for constraints in ("constraints-build.txt", "constraints.txt"):
        pinned = ("--require-hashes", "--no-deps", "--no-build-isolation", "-r", str(ROOT / constraints))
        run(python, *_PIP, "install", "--quiet", *pinned)
    run(python, *_PIP, "install", "--quiet", "--no-deps", "--no-build-isolation", *map(str, archives))
    run(python, *_PIP, "check")
    (version,) = set(versions().values())
    shown = run(str(folder / "bin" / "rlm-agent"), "--version")
    if version not in shown:
        raise ReleaseError(f"rlm-agent --version says {shown!r}, not {version}")
    run(str(folder / "bin" / "rlm-agent"), "demo", "--help")
    run(python, "-c", "import local_workspace, executor_harness")
    run(str(folder / "bin" / "rlm-agent"), "demo", "--root", str(folder / "demo"))


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command outside of the checkout's environment; return its output, ReleaseError if it fails."""
    print(f"   {' '.join(Path(part).name if '/' in part else part for part in command)[:100]}", flush=True)
    environ = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        command, cwd=cwd or ROOT.parent, env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def check() -> None:
    """Build and try everything; raise ReleaseError for what is wrong."""
    if len(set(versions().values())) != 1:
        raise ReleaseError(f"versions differ: {versions()}")
    wheels, sdists = build()
    check_contents(wheels, sdists)
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        for kind, archives in (("wheels", wheels), ("sdists", sdists)):
            print(f"{kind} in an empty environment", flush=True)
            try_installed(archives, Path(folder) / kind)
    print(
        "\n".join(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes" for path in (*wheels, *sdists))
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Make or check a release; return 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    parser.add_argument("version", nargs="?", help="write this version first")
    parser.add_argument("--check", action="store_true", help="build and try the version that is there")
    options = parser.parse_args(argv)
    if bool(options.version) == options.check:
        parser.error("give either a version or --check")
    try:
        if options.version:
            write_version(options.version)
        check()
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    if options.version:
        print(f"Next: commit, then git tag v{options.version}, and upload dist/*.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
