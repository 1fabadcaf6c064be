"""Publish the executor harness: one file in the Volume that holds all that a job needs.

The file is ``executor_harness/main.py`` with a zip in it, as base64. A job's ``python_file`` has to be a file
anyway; a zip beside it would be a second PUT, and a version of which one half is there and the other is not.
That Databricks runs a file with a string of a megabyte is to be verified on a live workspace.

In the zip are the package ``executor_harness`` and, below ``runner/``, what runs SQL workflows: the modules
of this package that ``databricks.workflow_job`` imports, and the pure Python libraries that they need.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from databricks_rlm_agent.errors import InvalidData, NotFound
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.ports import Volume

WORKFLOW_ENTRY = "databricks_rlm_agent.databricks.workflow_job:run"
"""The entry point of a workflow's program in the zip: module and function."""
MAIN = "main.py"
_HARNESS, _AGENT, _RUNNER = "executor_harness", "databricks_rlm_agent", "runner"
# Distributions by the names of their packages.
_LIBRARIES = {"sqlglot": "sqlglot", "tenacity": "tenacity", "PyYAML": "yaml"}
# Of sqlglot's dialects, those that Databricks' is made of.
_DIALECTS = {"__init__", "base", "dialect", "databricks", "spark", "spark2", "hive"}
_BY_DIALECT = {"dialects", "parsers", "generators", "typing"}
_LICENCES = ("LICENSE", "LICENCE", "COPYING", "NOTICE")
_DATE = (2020, 1, 1, 0, 0, 0)  # the same files give the same bytes


def folder(namespace: Namespace) -> str:
    """The folder of the installed version: its name is a hash of the published file."""
    return namespace.harness_dir(hashlib.sha256(published()).hexdigest()[:16])


def publish(volume: Volume, namespace: Namespace) -> str:
    """Put the file unless it is there with these very bytes; return its folder. Harmless when repeated."""
    try:
        return verify(volume, namespace)
    except (NotFound, InvalidData):
        volume.put(f"{folder(namespace)}/{MAIN}", published(), overwrite=True)
        return folder(namespace)


def verify(volume: Volume, namespace: Namespace) -> str:
    """Return the folder of the published file; raise NotFound, and InvalidData where its bytes are others."""
    path, fix = f"{folder(namespace)}/{MAIN}", "Run `rlm-agent init`."
    try:
        content = volume.get(path)
    except NotFound:
        raise NotFound("The executor harness is not published.", where=path, fix=fix) from None
    if content != published():
        raise InvalidData(
            f"The published executor harness is damaged ({len(content):,} of {len(published()):,} bytes).",
            where=path,
            fix=fix,
        )
    return folder(namespace)


@cache
def published() -> bytes:
    """The content of the file; made once in a process, the same for the same sources."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in sorted([*_harness(resources.files(_HARNESS), _HARNESS), *_runner()]):
            archive.writestr(zipfile.ZipInfo(path, _DATE), content, zipfile.ZIP_DEFLATED)
    text = (resources.files(_HARNESS) / MAIN).read_text("utf-8")
    values = {
        "_ZIP": base64.b64encode(buffer.getvalue()).decode("ascii"),
        "_SHA256": hashlib.sha256(buffer.getvalue()).hexdigest(),
    }
    for name, value in values.items():
        before, empty, after = text.partition(f'\n{name} = ""')
        if not empty:
            raise RuntimeError(f"{MAIN} has no line that {name} can be put into")
        text = f'{before}\n{name} = "{value}"{after}'
    return text.encode()


def _harness(package: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for entry in package.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _harness(entry, f"{path}/{entry.name}")
        elif entry.name.endswith(".py") and path + entry.name != _HARNESS + MAIN:
            yield f"{path}/{entry.name}", entry.read_bytes()


def _runner() -> Iterator[tuple[str, bytes]]:
    for path, content in [*_modules(WORKFLOW_ENTRY.partition(":")[0]), *_libraries()]:
        yield f"{_RUNNER}/{path}", content


def _modules(entry: str) -> Iterator[tuple[str, bytes]]:
    """The modules of this package that ``entry`` imports, directly or not, inside of functions too."""
    root, waiting, seen = resources.files(_AGENT), [entry], set()
    while waiting:
        module = waiting.pop()
        path = "/".join(module.split(".")[1:])
        found = root.joinpath(f"{path}.py") if path else root
        if not found.is_file():
            found, path = root.joinpath(path, "__init__.py"), f"{path}/__init__".lstrip("/")
        if module in seen or not found.is_file():
            continue  # a name in a module, not a module
        seen.add(module)
        content = found.read_bytes()
        yield f"{_AGENT}/{path}.py", content
        waiting += [module.rpartition(".")[0] or module, *_imports(content)]


def _imports(content: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == _AGENT:
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == _AGENT)


def _libraries() -> Iterator[tuple[str, bytes]]:
    for name, package in _LIBRARIES.items():
        for file in metadata.distribution(name).files or ():
            path = PurePosixPath(str(file))
            if path.parts[0] == package and path.suffix == ".py" and not _is_other_dialect(path):
                yield str(path), Path(str(file.locate())).read_bytes()
            elif ".dist-info" in path.parts[0] and path.name.upper().startswith(_LICENCES):
                yield f"licences/{name}/{path.name}", Path(str(file.locate())).read_bytes()


def _is_other_dialect(path: PurePosixPath) -> bool:
    return path.parts[0] == "sqlglot" and path.parent.name in _BY_DIALECT and path.stem not in _DIALECTS
