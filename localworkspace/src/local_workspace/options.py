"""The options of a local workspace, their command-line arguments, and the address of a running one."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

EngineKind = Literal["sail", "spark"]

DEFAULT_MAX_PROCESSES = 4
WAREHOUSE_ID = "local"
WORKSPACE_ID = "1"
ACCOUNT_ID = "00000000-0000-4000-8000-000000000001"
CLUSTER_ID = "local"
# All of the environment that the server, and what it starts, has: no key of whoever starts it is in these.
_KEPT = re.compile(
    "PATH|HOME|LANG|LC_.*|TZ|TMPDIR|USER|LOGNAME|SHELL|TERM|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|VIRTUAL_ENV|PYTHON.*|"
    "SSL_CERT_FILE|REQUESTS_CA_BUNDLE|PIP_.*|(?i:(HTTPS?|ALL|NO)_PROXY)|"
    "JAVA_HOME|JAVA_TOOL_OPTIONS|_JAVA_OPTIONS|RUST_LOG|COVERAGE_.*"
)
_CLEAN = "RLM_LOCAL_CLEAN"
# The one user, of REST and SQL alike.
USER = "local@workspace.localhost"
HTTP_PATH = f"/sql/1.0/warehouses/{WAREHOUSE_ID}"
_CATALOG = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def installed_engine() -> EngineKind:
    """The engine that this environment has (it cannot have both): Spark where there is no pysail."""
    spark = importlib.util.find_spec("pysail") is None and importlib.util.find_spec("pyspark") is not None
    return "spark" if spark else "sail"


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that a server is started with, marked as such."""
    return {name: value for name, value in environ.items() if _KEPT.fullmatch(name)} | {_CLEAN: "1"}


def is_clean(environ: Mapping[str, str]) -> bool:
    """Tell whether a process was started with a clean environment."""
    return _CLEAN in environ


@dataclass(frozen=True, kw_only=True)
class WorkspaceOptions:
    """Settings of one local workspace.

    `engine` is by default the one that is installed. `port` 0 means any free port. `model` is
    `scripted:FILE` or None (no serving endpoint answers). `max_processes` bounds the job processes running at
    once; further tasks queue.
    Raises ValueError for a catalog name that could not be a folder, or an unknown kind of model.
    """

    root: Path
    port: int = 0
    allow_faults: bool = False
    engine: EngineKind = field(default_factory=installed_engine)
    catalogs: tuple[str, ...] = ("main",)
    model: str | None = None
    max_processes: int = DEFAULT_MAX_PROCESSES
    tls: bool = False
    allow_paths: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name in self.catalogs:
            if not _CATALOG.fullmatch(name):
                raise ValueError(f"--catalog {name!r}: use letters, digits and underscores only")
        if not self.catalogs:
            raise ValueError("--catalog: at least one catalog is needed")
        if self.model is not None and not self.model.startswith("scripted:"):
            raise ValueError(f"--model {self.model!r}: the local workspace serves scripted:FILE only")

    def to_arguments(self) -> list[str]:
        """The command-line arguments that stand for these options."""
        arguments = ["--root", str(self.root), "--port", str(self.port), "--engine", self.engine]
        arguments += ["--max-processes", str(self.max_processes)]
        arguments += [part for name in self.catalogs for part in ("--catalog", name)]
        arguments += ["--allow-faults"] if self.allow_faults else []
        arguments += ["--tls"] if self.tls else []
        arguments += [part for folder in self.allow_paths for part in ("--allow-path", str(folder))]
        return arguments + (["--model", self.model] if self.model else [])


@dataclass(frozen=True, kw_only=True)
class WorkspaceInfo:
    """Address and identity of one running server.

    `host` is a URL (`http://127.0.0.1:PORT`), `http_path` the warehouse's path for the SQL connector,
    `spark_connect` the engine's Spark Connect URL, `pid` the server's process. `ca_file` is the certificate
    of a server with TLS, whose `host` begins with https.
    """

    host: str
    token: str
    http_path: str
    root: str
    pid: int
    warehouse_id: str = WAREHOUSE_ID
    spark_connect: str = ""
    ca_file: str = ""

    def __repr__(self) -> str:
        return f"WorkspaceInfo(host={self.host!r}, token='***', root={self.root!r}, pid={self.pid})"

    def to_json(self) -> str:
        """One line of JSON with every field, the token included."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> WorkspaceInfo:
        """The inverse of `to_json`. Raises ValueError when the text is not such a document."""
        try:
            fields: dict[str, Any] = json.loads(text)
            return WorkspaceInfo(**fields)
        except TypeError as error:
            raise ValueError(f"not a description of a local workspace: {error}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `workspace start` (all but `--json`) to a parser."""
    parser.add_argument(
        "--root", type=Path, required=True, metavar="DIR", help="folder that holds everything"
    )
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1 (default: any free one)")
    parser.add_argument(
        "--allow-path", type=Path, action="append", metavar="DIR", help="a folder that SQL may read and write"
    )
    parser.add_argument("--tls", action="store_true", help="https, by a certificate that is printed")
    parser.add_argument("--allow-faults", action="store_true", help="serve the fault control at /_local/")
    parser.add_argument(
        "--engine",
        choices=("sail", "spark"),
        default=installed_engine(),
        help="the embedded Spark engine (default: the one that is installed)",
    )
    parser.add_argument(
        "--catalog", action="append", metavar="NAME", help="a catalog besides main (repeatable)"
    )
    parser.add_argument("--model", metavar="scripted:FILE", help="what serving endpoints answer from")
    parser.add_argument(
        "--max-processes",
        type=int,
        default=DEFAULT_MAX_PROCESSES,
        metavar="N",
        help=f"job processes running at once (default {DEFAULT_MAX_PROCESSES}); more are queued",
    )
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when standard input closes")


def options_from(namespace: argparse.Namespace) -> WorkspaceOptions:
    """The options that parsed arguments stand for. Raises ValueError as WorkspaceOptions does."""
    catalogs: Sequence[str] = ("main", *(namespace.catalog or ()))
    return WorkspaceOptions(
        root=namespace.root.resolve(),
        port=namespace.port,
        allow_faults=namespace.allow_faults,
        engine=namespace.engine,
        catalogs=tuple(dict.fromkeys(catalogs)),
        model=namespace.model,
        max_processes=namespace.max_processes,
        tls=namespace.tls,
        allow_paths=tuple(folder.resolve() for folder in namespace.allow_path or ()),
    )
