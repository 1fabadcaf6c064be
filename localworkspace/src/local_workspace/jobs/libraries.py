"""Libraries of jobs: an environment for each set of requirements, on top of the server's own packages.

`python libraries.py FOLDER` makes the environment in FOLDER out of its `requirements.txt`, with pip, unless
that was done before. It uses the standard library only and runs as a step of the job: with its log, its
time limit and its end.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import site
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_COMPLETE, _REQUIREMENTS = "complete", "requirements.txt"
_ARCHIVES = (".whl", ".tar.gz", ".zip")
# What of the server's environment pip may need to find packages.
PIP_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE")


class LibraryError(Exception):
    """A library that cannot be had here; the message says what to do."""


def requirements(libraries: Any, environment: Mapping[str, Any]) -> list[str]:
    """The lines of a requirements file for a task's `libraries` and its environment's `spec`.

    Raises LibraryError for kinds that the local workspace does not install.
    """
    lines = [line for library in libraries or [] for line in _of_library(library)]
    for name in ("java_dependencies", "base_environment", "project_environment"):
        if environment.get(name):
            raise LibraryError(f"{name} of an environment is not supported: use dependencies")
    lines += [str(item).removeprefix("dbfs:").strip() for item in environment.get("dependencies") or []]
    return list(dict.fromkeys(line for line in lines if line))


def _of_library(library: Any) -> list[str]:
    kind, value = next(iter(library.items())) if isinstance(library, dict) and library else ("", None)
    if kind == "pypi" and isinstance(value, dict) and value.get("package"):
        index = [f"--extra-index-url {value['repo']}"] if value.get("repo") else []
        return [*index, str(value["package"])]
    if kind == "whl":
        return [str(value).removeprefix("dbfs:").removeprefix("file:")]
    if kind == "requirements":
        return [f"-r {str(value).removeprefix('dbfs:')}"]
    raise LibraryError(f"Libraries of the kind {kind!r} cannot be installed: use whl, pypi or requirements")


def folder_name(lines: Sequence[str], resolve: Callable[[str], Path]) -> str:
    """A name for the environment of these lines, by their text and the content of the files they name.

    Raises LibraryError where a file is not there.
    """
    digest = hashlib.sha256(f"{sys.version}\n{sys.prefix}".encode())
    for line in lines:
        digest.update(f"\n{line}".encode())
        path = line.removeprefix("-r ").strip()
        if path.startswith(("/Volumes/", "/Workspace/")):
            found = resolve(path)
            if not found.is_file():
                raise LibraryError(f"Library {path} does not exist")
            digest.update(found.read_bytes())
    return digest.hexdigest()[:16]


def python_of(folder: Path) -> str:
    """The interpreter of an environment."""
    return str(folder / "bin" / "python")


def is_complete(folder: Path) -> bool:
    """Return whether the environment was made."""
    return (folder / _COMPLETE).exists()


def write_requirements(folder: Path, lines: Sequence[str]) -> None:
    """Note what the environment is to have."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{threading.get_ident()}"  # tasks of one run begin at the same time
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(folder / _REQUIREMENTS)


def failure(log: str, lines: Sequence[str]) -> str:
    """Return the message for a failure of pip: its last errors, and the way out."""
    errors = [line.removeprefix("ERROR: ").strip() for line in log.splitlines() if line.startswith("ERROR: ")]
    reason = "; ".join(errors[-2:]) or log.strip().rpartition("\n")[2] or "pip ended without a word"
    return (
        f"Library installation failed for {', '.join(lines)}: {reason}. Where there is no package index, "
        "install it into the server's own environment, or put wheels into a Volume and name those"
    )


def make(folder: Path) -> int:
    """Make the environment in a folder, alone; return pip's exit code."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_complete(folder):
            return 0
        shutil.rmtree(folder / "lib", ignore_errors=True)
        venv.EnvBuilder(symlinks=True).create(folder)
        (packages,) = (folder / "lib").glob("python*/site-packages")
        # As site folders, with their .pth files: packages installed as editable are found by those.
        own = "".join(f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages())
        (packages / "_server.pth").write_text(own)
        code = _install(folder)
        if code == 0:
            (folder / _COMPLETE).touch()
        return code


def _install(folder: Path) -> int:
    python, lines = python_of(folder), (folder / _REQUIREMENTS).read_text().splitlines()
    command = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    # Named archives are installed even where the server has the same version; what they need only if missing.
    archives = [line for line in lines if line.endswith(_ARCHIVES) and not line.startswith("-")]
    if archives:
        first = subprocess.run([*command, "--no-deps", "--ignore-installed", *archives], check=False)  # noqa: S603 - pip
        if first.returncode:
            return first.returncode
    return subprocess.run([*command, "-r", str(folder / _REQUIREMENTS)], check=False).returncode  # noqa: S603 - pip


if __name__ == "__main__":
    sys.exit(make(Path(sys.argv[1])))
