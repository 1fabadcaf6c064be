"""Publish what a SQL workflow's job runs: a zip of the SQL executor and of the libraries that it imports.

Job B has pyspark and the standard library, and perhaps no way to a package index. So the executor goes along,
under the hash of its content, as it is installed here: pure Python, with the licences of what is not ours.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from databricks_rlm_agent.domain.layout import Namespace
from databricks_rlm_agent.errors import AlreadyExists
from databricks_rlm_agent.ports import Volume

_PACKAGE = "databricks_rlm_agent"
_FILE = "sqlflow.zip"
_MODULES = (
    *("__init__.py", "errors.py", "retries.py", "logs.py"),
    *(
        "domain/__init__.py",
        "domain/secret.py",
        "domain/types.py",
        "domain/conditions.py",
        "domain/workflow/",
        "sqlflow/",
    ),
    *("remote/__init__.py", "remote/deadline.py", "remote/errors.py", "remote/patience.py"),
    *("remote/sqlsessions.py", "remote/warehouse.py", "remote/workspace.py"),
)
# Distributions by the names of their packages.
_LIBRARIES = {"sqlglot": "sqlglot", "tenacity": "tenacity", "PyYAML": "yaml"}
# Of sqlglot's dialects, those that Databricks' is made of.
_DIALECTS = {"__init__", "base", "dialect", "databricks", "spark", "spark2", "hive"}
_BY_DIALECT = {"dialects", "parsers", "generators", "typing"}
_LICENCES = ("LICENSE", "LICENCE", "COPYING", "NOTICE")
_DATE = (2020, 1, 1, 0, 0, 0)  # the same files give the same bytes


@dataclass(frozen=True, kw_only=True)
class Pack:
    """The zip, and the SHA-256 (hex) of its bytes."""

    content: bytes
    sha256: str

    def path(self, namespace: Namespace) -> str:
        """Where it lies in the Volume."""
        return f"{namespace.harness_dir(self.sha256[:16])}/{_FILE}"

    def publish(self, volume: Volume, namespace: Namespace) -> str:
        """Put it where it is missing; return its path. To do it twice, or at once, is harmless."""
        path = self.path(namespace)
        if not volume.exists(path):
            try:
                volume.put(path, self.content, overwrite=False)
            except AlreadyExists:
                return path  # its folder's name is the hash of its content: what is there is the same
        return path


@cache
def load() -> Pack:
    """The pack of what is installed here; made once in a process."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in sorted([*_ours(), *_libraries()]):
            archive.writestr(zipfile.ZipInfo(path, _DATE), content, zipfile.ZIP_DEFLATED)
    content = buffer.getvalue()
    return Pack(content=content, sha256=hashlib.sha256(content).hexdigest())


def _ours() -> Iterator[tuple[str, bytes]]:
    root = resources.files(_PACKAGE)
    for name in _MODULES:
        found = root.joinpath(name)
        files = _modules(found) if name.endswith("/") else [(name.rpartition("/")[2], found)]
        folder = f"{_PACKAGE}/{name.rpartition('/')[0]}".rstrip("/")
        for file, entry in files:
            yield f"{folder}/{file}", entry.read_bytes()


def _modules(folder: Traversable) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from ((f"{entry.name}/{name}", module) for name, module in _modules(entry))
        elif entry.name.endswith(".py"):
            yield entry.name, entry


def _libraries() -> Iterator[tuple[str, bytes]]:
    for name, package in _LIBRARIES.items():
        for file in metadata.distribution(name).files or ():
            path = PurePosixPath(str(file))
            if path.parts[0] == package and path.suffix == ".py" and not _foreign(path):
                yield str(path), Path(str(file.locate())).read_bytes()
            elif ".dist-info" in path.parts[0] and path.name.upper().startswith(_LICENCES):
                yield f"licences/{name}/{path.name}", Path(str(file.locate())).read_bytes()


def _foreign(path: PurePosixPath) -> bool:
    """Whether it is of a dialect of SQL that is not ours."""
    return path.parts[0] == "sqlglot" and path.parent.name in _BY_DIALECT and path.stem not in _DIALECTS
