"""Verify what a job is to run: its arguments, and the manifest and program that they name by hash.

The arguments come from the platform, so each is checked. The manifest's request is proven by its SHA-256,
which is one of them, and the program by the request: what the control plane wrote is not checked again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from executor_harness import protocol
from executor_harness.protocol import Request
from executor_harness.volumes import Volumes, check

USAGE = (
    "usage: main.py --run-id ID --iter N --attempt K --manifest /Volumes/.../manifest.json"
    " --request-sha256 HEX [--databricks-run-id N] [--harness DIR]"
)
_REQUIRED = ("--run-id", "--iter", "--attempt", "--manifest", "--request-sha256")
_OPTIONAL = ("--databricks-run-id", "--harness")


class UsageError(Exception):
    """An argument is not what the contract says; the message names it."""


class Refused(Exception):  # noqa: N818 -- a decision, not a defect
    """Nothing may be run."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The job's arguments. `databricks_run_id` is None when the platform does not give it."""

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
    job_run = given.get("--databricks-run-id", "")
    arguments = Arguments(
        run_id=_matching("--run-id", given, protocol.ID_PATTERN),
        iter_n=int(_matching("--iter", given, r"[1-9][0-9]{0,8}")),
        attempt=int(_matching("--attempt", given, r"[1-9][0-9]{0,8}")),
        manifest=given["--manifest"],
        request_sha256=_matching("--request-sha256", given, r"[0-9a-f]{64}"),
        # A reference that the platform did not resolve arrives as it was written: `{{job.run_id}}`.
        databricks_run_id=int(job_run) if re.fullmatch(r"[0-9]{1,19}", job_run) else None,
    )
    try:
        check(arguments.manifest)
    except ValueError as error:
        raise UsageError(f"--manifest: {error}") from None
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


def read_request(arguments: Arguments, volumes: Volumes) -> Request:
    """The request of the manifest, proven to be the one that was submitted. Raises Refused."""
    where = arguments.manifest
    try:
        document = json.loads(volumes.read(where))
        version, content = document.get("schema_version"), document.get("request")
        found = protocol.digest(content)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(protocol.MANIFEST_UNREADABLE, f"{where} cannot be read: {error}") from None
    if type(version) is not int or version != protocol.SCHEMA_VERSION:
        raise Refused(
            protocol.UNSUPPORTED_SCHEMA,
            f"{where} has schema_version {version!r}; this harness reads {protocol.SCHEMA_VERSION}",
        )
    if found != arguments.request_sha256:
        raise Refused(
            protocol.MANIFEST_MISMATCH,
            f"{where}: the request's SHA-256 is {found}, submitted was {arguments.request_sha256}: the "
            "manifest was changed after the submit; nothing was run",
        )
    try:
        request = protocol.read(Request, content)
    except (TypeError, KeyError, AttributeError) as error:
        raise Refused(protocol.MANIFEST_MISMATCH, f"{where}: the request is not whole: {error}") from None
    for name in ("run_id", "iter_n", "attempt", "output_dir"):
        if getattr(request, name) != getattr(arguments, name):
            raise Refused(
                protocol.MANIFEST_MISMATCH,
                f"{where}: request.{name} is {getattr(request, name)!r}, the job's arguments say "
                f"{getattr(arguments, name)!r}",
            )
    return request


def read_program(request: Request, volumes: Volumes) -> bytes:
    """The program that the request names. Raises Refused unless it is what was published."""
    if request.task_type not in protocol.TASK_TYPES:
        raise Refused(
            protocol.UNSUPPORTED_TASK,
            f"task_type {request.task_type!r} is not one that this harness runs "
            f"({', '.join(protocol.TASK_TYPES)})",
        )
    artifact = request.artifact
    try:
        source = volumes.read(artifact.path)
    except (OSError, ValueError) as error:
        raise Refused(protocol.ARTIFACT_MISMATCH, f"{artifact.path} cannot be read: {error}") from None
    found = hashlib.sha256(source).hexdigest()
    if found != artifact.sha256 or len(source) != artifact.size:
        raise Refused(
            protocol.ARTIFACT_MISMATCH,
            f"{artifact.path} has {len(source)} bytes with SHA-256 {found}; published were {artifact.size} "
            f"bytes with {artifact.sha256}: it was changed after publishing; nothing was run",
        )
    return source
