"""`/Volumes` and `/Workspace` for Python's own file functions, where the system allows no mounts (keeper.py).

Libraries that open files by other means (pyarrow, DuckDB) need the real path there: `$RLM_VOLUMES_ROOT`.
"""

from __future__ import annotations

import builtins
import functools
import importlib.machinery
import importlib.util
import io
import os
import sys
from collections.abc import Callable
from typing import Any

_ONE_PATH = (
    "access", "chdir", "chmod", "chown", "listdir", "lstat", "mkdir", "open", "readlink", "remove", "rmdir",
    "scandir", "stat", "statvfs", "truncate", "unlink", "utime",
)  # fmt: skip
_TWO_PATHS = ("link", "rename", "replace", "symlink")


def _mapped(path: Any, folders: dict[str, str]) -> Any:
    """The path on this machine; anything else as it is."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if isinstance(text, str):
        for prefix, folder in folders.items():
            if text == prefix or text.startswith(f"{prefix}/"):
                return folder + text[len(prefix) :]
    return path


def _wrapped(function: Callable[..., Any], paths: int, folders: dict[str, str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def mapping(*arguments: Any, **options: Any) -> Any:
        mapped = tuple(_mapped(item, folders) for item in arguments[:paths])
        return function(*mapped, *arguments[paths:], **options)

    return mapping


def install(folders: dict[str, str]) -> None:
    """Wrap the functions that take paths; `folders` has the real folder of each."""
    for name in (*_ONE_PATH, *_TWO_PATHS):
        original = getattr(os, name)
        function = _wrapped(original, 1 if name in _ONE_PATH else 2, folders)
        # The capabilities that shutil and others look up are those of the wrapped functions.
        for able in (
            os.supports_dir_fd,
            os.supports_fd,
            os.supports_follow_symlinks,
            os.supports_effective_ids,
        ):
            if original in able:
                able.add(function)
        setattr(os, name, function)
    builtins.open = io.open = _wrapped(builtins.open, 1, folders)


def _load_next() -> None:
    """Load another sitecustomize of the environment, which this one hides."""
    path = [item for item in sys.path if not __file__.startswith(f"{item}/")]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _install_here() -> None:
    names = ("Volumes", "Workspace", "dbfs")
    install({f"/{name}": os.environ[f"RLM_{name.upper()}_ROOT"] for name in names})


_install_here()
_load_next()
