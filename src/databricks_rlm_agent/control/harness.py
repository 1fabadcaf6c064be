"""Publish the executor harness into the Volume, under the hash of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from databricks_rlm_agent.domain.layout import Namespace
from databricks_rlm_agent.errors import AlreadyExists
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


def load() -> Harness:
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
