"""Modules of the harness for Spark's Python workers, which have none of them installed.

The sources travel within the function that is sent, and are imported there under a name made of their
content: workers outlive jobs, and may have met another version of the harness, or have one installed.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from executor_harness import protocol

PACKAGE = "executor_harness"


def sources(modules: Sequence[str]) -> dict[str, str]:
    """The sources of modules of the harness, by name (`models.chat`), under a package name of their own."""
    found = {name: _source(name) for name in modules}
    alias = f"_rlm_{protocol.digest(found)[:16]}"
    packages = {alias, *(f"{alias}.{name.rpartition('.')[0]}" for name in modules if "." in name)}
    named = {f"{alias}.{name}": text.replace(PACKAGE, alias) for name, text in found.items()}
    return {**dict.fromkeys(sorted(packages), ""), **named}


def _source(name: str) -> str:
    data = pkgutil.get_data(PACKAGE, f"{name.replace('.', '/')}.py")  # from a folder or a zip
    assert data is not None
    return data.decode("utf-8")


def shipped(
    modules: Sequence[str], module: str, function: str, argument: Any
) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """`function(argument, batches)` of a module of the harness, as a function of batches for `mapInArrow`.

    `modules` are all that it needs; they may import the standard library, and inside of functions what the
    workers have. `argument` must be picklable without the harness.
    """
    from pyspark.cloudpickle import register_pickle_by_value

    register_pickle_by_value(sys.modules[__name__])
    texts = sources(modules)
    name = f"{min(texts)}.{module}"

    def run(batches: Iterator[Any]) -> Iterator[Any]:
        yield from getattr(_imported(name, texts), function)(argument, batches)

    return run


def _imported(name: str, texts: dict[str, str]) -> Any:
    """A module of the bundle. Runs in the worker, where this module is a copy without a file."""
    import importlib
    import importlib.abc
    import importlib.util
    import sys

    class Bundle(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
        """Finds and loads the modules of the bundle; the import system sees to threads."""

        def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002
            if fullname not in texts:
                return None
            return importlib.util.spec_from_loader(fullname, self, is_package=not texts[fullname])

        def get_source(self, fullname: str) -> str:
            return texts[fullname]

        def is_package(self, fullname: str) -> bool:
            return not texts[fullname]

    if name not in sys.modules:
        sys.meta_path.append(Bundle())  # perhaps twice, by two threads: the first one is asked
    return importlib.import_module(name)
