"""The argument contract of the job: ids, numbers, hashes and Volume paths, all ASCII. Nothing else gets
in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from executor_harness import protocol
from executor_harness.volumes import check

USAGE = (
    "usage: main.py --run-id ID --iter N --attempt K --manifest /Volumes/.../manifest.json"
    " --request-sha256 HEX [--databricks-run-id N] [--harness DIR]"
)
_REQUIRED = ("--run-id", "--iter", "--attempt", "--manifest", "--request-sha256")
_OPTIONAL = ("--databricks-run-id", "--harness")


class UsageError(Exception):
    """The arguments are not what the contract says; the message names the one that is wrong."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What one execution is told. `databricks_run_id` is None when the platform does not tell it."""

    run_id: str
    iter_n: int
    attempt: int
    manifest: str
    request_sha256: str
    databricks_run_id: int | None = None

    @property
    def output_dir(self) -> str:
        """The attempt's folder: that of the manifest."""
        return self.manifest.rpartition("/")[0]


def parse(argv: Sequence[str]) -> Arguments:
    """Check every argument. Raises UsageError."""
    given = _pairs(argv)
    missing = [name for name in _REQUIRED if name not in given]
    if missing:
        raise UsageError(f"missing {', '.join(missing)}")
    arguments = Arguments(
        run_id=_matching("--run-id", given, protocol.ID_PATTERN),
        iter_n=int(_matching("--iter", given, r"[1-9][0-9]{0,8}")),
        attempt=int(_matching("--attempt", given, r"[1-9][0-9]{0,8}")),
        manifest=_volume_path("--manifest", given),
        request_sha256=_matching("--request-sha256", given, r"[0-9a-f]{64}"),
        databricks_run_id=_run_id(given.get("--databricks-run-id", "")),
    )
    folder = protocol.folder_of(arguments.run_id, arguments.iter_n, arguments.attempt)
    if not arguments.manifest.endswith(f"/{folder}/{protocol.MANIFEST_FILE}"):
        raise UsageError(
            f"--manifest {arguments.manifest} is not of this attempt: …/{folder}/{protocol.MANIFEST_FILE}"
        )
    return arguments


def _pairs(argv: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    rest = list(argv)
    while rest:
        name = rest.pop(0)
        if name not in _REQUIRED + _OPTIONAL:
            raise UsageError(f"unknown argument {name!r}")
        if name in given:
            raise UsageError(f"{name} is given twice")
        if not rest:
            raise UsageError(f"{name} needs a value")
        given[name] = rest.pop(0)
        if not given[name].isascii():
            raise UsageError(f"{name} is not ASCII")
    return given


def _matching(name: str, given: dict[str, str], pattern: str) -> str:
    if not re.fullmatch(pattern, given[name]):
        raise UsageError(f"{name} {given[name]!r} does not match {pattern}")
    return given[name]


def _volume_path(name: str, given: dict[str, str]) -> str:
    try:
        return check(given[name])
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def _run_id(text: str) -> int | None:
    # A reference that the platform did not resolve arrives as it was written: `{{job.run_id}}`.
    return int(text) if re.fullmatch(r"[0-9]{1,19}", text) else None
