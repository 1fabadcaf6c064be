"""Publish the executor harness into the Volume, under the hash of its content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

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
    modules = sorted(
        entry.name for entry in package.iterdir() if entry.name.endswith(".py") and entry.name != _MAIN
    )
    files = [(f"{_PACKAGE}/{name}", (package / name).read_bytes()) for name in modules]
    return Harness(files=(*files, (_MAIN, (package / _MAIN).read_bytes())))
