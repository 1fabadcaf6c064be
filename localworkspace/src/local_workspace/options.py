"""What a local workspace is started with, and the command-line arguments that say it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Engine = Literal["sail", "spark"]

DEFAULT_MAX_PROCESSES = 4
_CATALOG = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, kw_only=True)
class WorkspaceOptions:
    """Settings of one local workspace.

    `port` 0 means any free port. `model` is `scripted:FILE` or None (no serving endpoint answers).
    `max_processes` bounds the job processes running at once; further tasks queue.
    Raises ValueError for a catalog name that could not be a folder, or an unknown kind of model.
    """

    root: Path
    port: int = 0
    allow_faults: bool = False
    engine: Engine = "sail"
    catalogs: tuple[str, ...] = ("main",)
    model: str | None = None
    max_processes: int = DEFAULT_MAX_PROCESSES

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
        return arguments + (["--model", self.model] if self.model else [])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `workspace start` (all but `--json`) to a parser."""
    parser.add_argument(
        "--root", type=Path, required=True, metavar="DIR", help="folder that holds everything"
    )
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1 (default: any free one)")
    parser.add_argument("--allow-faults", action="store_true", help="serve the fault control at /_local/")
    parser.add_argument(
        "--engine", choices=("sail", "spark"), default="sail", help="the embedded Spark engine"
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
    )
