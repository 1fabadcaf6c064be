"""What is published for Job B: the executor harness, and the zip that runs SQL workflows."""

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

from databricks_rlm_agent.errors import AlreadyExists
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.ports import Volume

_PACKAGE = "executor_harness"
_MAIN = "main.py"  # put last: where it is, everything is


@dataclass(frozen=True, kw_only=True)
class Harness:
    """The harness as files: path below its folder, and content."""

    files: tuple[tuple[str, bytes], ...]

    @property
    def content_hash(self) -> str:
        """The first 16 hex characters of the SHA-256 over all files."""
        whole = hashlib.sha256()
        for path, content in self.files:
            whole.update(f"{path}\0{len(content)}\0".encode())
            whole.update(content)
        return whole.hexdigest()[:16]

    def dir(self, namespace: Namespace) -> str:
        """The folder of this version."""
        return namespace.harness_dir(self.content_hash)

    def publish(self, volume: Volume, namespace: Namespace) -> str:
        """Put what is missing and return the folder. To do it twice, or at once, is harmless."""
        folder = self.dir(namespace)
        if volume.exists(f"{folder}/{_MAIN}"):
            return folder
        for path, content in self.files:
            try:
                volume.put(f"{folder}/{path}", content, overwrite=False)
            except AlreadyExists:
                continue  # the folder's name is the hash of its content: what is there is the same
        return folder


def load_harness() -> Harness:
    """The harness that is installed with this package."""
    package = resources.files(_PACKAGE)
    files = sorted(_modules(package, _PACKAGE))
    main = (package / _MAIN).read_bytes()
    return Harness(files=(*[file for file in files if file[0] != f"{_PACKAGE}/{_MAIN}"], (_MAIN, main)))


def _modules(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _modules(entry, f"{path}/{entry.name}")
        elif entry.name.endswith(".py"):
            yield f"{path}/{entry.name}", entry.read_bytes()


_SQL_PACKAGE = "databricks_rlm_agent"
_FILE = "sqlflow.zip"
_MODULES = (
    *("__init__.py", "errors.py", "retry.py", "logs.py", "secrets.py", "models.py", "values.py"),
    *("sqltext/", "sqlflow/"),
    *("databricks/__init__.py", "databricks/errors.py", "databricks/transport.py"),
    *("databricks/sql.py", "databricks/workspace.py"),
)
# Distributions by the names of their packages.
_LIBRARIES = {"sqlglot": "sqlglot", "tenacity": "tenacity", "PyYAML": "yaml"}
# Of sqlglot's dialects, those that Databricks' is made of.
_DIALECTS = {"__init__", "base", "dialect", "databricks", "spark", "spark2", "hive"}
_BY_DIALECT = {"dialects", "parsers", "generators", "typing"}
_LICENCES = ("LICENSE", "LICENCE", "COPYING", "NOTICE")
_DATE = (2020, 1, 1, 0, 0, 0)  # the same files give the same bytes


@dataclass(frozen=True, kw_only=True)
class SqlRunner:
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
def load_sql_runner() -> SqlRunner:
    """The pack of what is installed here; made once in a process."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in sorted([*_ours(), *_libraries()]):
            archive.writestr(zipfile.ZipInfo(path, _DATE), content, zipfile.ZIP_DEFLATED)
    content = buffer.getvalue()
    return SqlRunner(content=content, sha256=hashlib.sha256(content).hexdigest())


def _ours() -> Iterator[tuple[str, bytes]]:
    root = resources.files(_SQL_PACKAGE)
    for name in _MODULES:
        found = root.joinpath(name)
        files = _files_below(found) if name.endswith("/") else [(name.rpartition("/")[2], found)]
        folder = f"{_SQL_PACKAGE}/{name.rpartition('/')[0]}".rstrip("/")
        for file, entry in files:
            yield f"{folder}/{file}", entry.read_bytes()


def _files_below(folder: Traversable) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from ((f"{entry.name}/{name}", module) for name, module in _files_below(entry))
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
