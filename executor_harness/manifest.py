"""Reading the manifest and the artifact, and refusing everything that is not exactly what was published."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any, cast

from executor_harness import protocol
from executor_harness.arguments import Arguments
from executor_harness.protocol import Request
from executor_harness.volumes import Volumes, check

_TABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*){2}")
_SCHEMA = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*\.[A-Za-z0-9_][A-Za-z0-9_-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_INPUTS = {"table": "name", "file": "path", "folder": "path", "answer": "path", "text": "text"}


class Refused(Exception):  # noqa: N818 -- a decision, not a defect
    """Nothing may be run. `request` is there once its hash is proven, so that the refusal can be recorded."""

    def __init__(self, error_type: str, message: str, request: Request | None = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.request = request


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A request whose hash is that of the arguments, and the bytes of its program, whose hash is that of
    the request.
    """

    request: Request
    source: bytes


def load(arguments: Arguments, volumes: Volumes) -> Verified:
    """Read and verify manifest and artifact. Raises Refused."""
    request = read_request(arguments, volumes)
    if request["task_type"] not in protocol.TASK_TYPES:
        raise Refused(
            protocol.UNSUPPORTED_TASK,
            f"task_type {request['task_type']!r} is not one that this harness runs "
            f"({', '.join(protocol.TASK_TYPES)})",
            request,
        )
    return Verified(request=request, source=_read_artifact(request, volumes))


def read_request(arguments: Arguments, volumes: Volumes) -> Request:
    """The request of the manifest, proven to be the one that was submitted. Raises Refused."""
    where = arguments.manifest
    try:
        document = json.loads(volumes.local(where).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(protocol.MANIFEST_UNREADABLE, f"{where} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise Refused(protocol.MANIFEST_UNREADABLE, f"{where} is not a JSON object")
    version = document.get("schema_version")
    if type(version) is not int or version != protocol.SCHEMA_VERSION:
        raise Refused(
            protocol.UNSUPPORTED_SCHEMA,
            f"{where} has schema_version {version!r}; this harness reads {protocol.SCHEMA_VERSION}",
        )
    request = document.get("request")
    _check_hash(request, arguments)
    problem = _problem(request, arguments)
    if problem:
        raise Refused(protocol.MANIFEST_MISMATCH, f"{where}: {problem}")
    return cast("Request", request)


def _check_hash(request: object, arguments: Arguments) -> None:
    try:
        found = protocol.digest(request)
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused(protocol.MANIFEST_UNREADABLE, f"{arguments.manifest}: request: {error}") from None
    if found != arguments.request_sha256:
        raise Refused(
            protocol.MANIFEST_MISMATCH,
            f"{arguments.manifest}: the request's SHA-256 is {found}, submitted was "
            f"{arguments.request_sha256}: the manifest was changed after the submit; nothing was run",
        )


def _problem(request: Any, arguments: Arguments) -> str | None:
    """What is wrong with the request, or None. Its hash is right, so this is the publisher's mistake."""
    if not isinstance(request, dict):
        return "request is not an object"
    for name, expected in _expected(arguments).items():
        if request.get(name) != expected or isinstance(request.get(name), bool):
            return f"request.{name} is {request.get(name)!r}, the job's arguments say {expected!r}"
    checks = {
        "task_type": isinstance(request.get("task_type"), str),
        "artifact": _artifact_ok(request.get("artifact")),
        "timeout_s": _positive(request.get("timeout_s")),
        "parameters": isinstance(request.get("parameters"), dict),
        "inputs": _inputs_ok(request.get("inputs")),
        "results_table": _table_ok(request.get("results_table")),
        "codebase_dir": not request.get("codebase_dir") or _path_ok(request["codebase_dir"]),
        "catalog": isinstance(request.get("catalog"), str),
        "schema": isinstance(request.get("schema"), str),
        "limits": _limits_ok(request.get("limits", {})),
        "models": request.get("models") is None or _models_ok(request["models"]),
        "variables": request.get("variables") is None or _variables_ok(request["variables"]),
        "scratch_schema": not request.get("scratch_schema") or _schema_ok(request["scratch_schema"]),
        "spawn": not request.get("spawn") or _spawn_ok(request["spawn"]),
    }
    wrong = [name for name, right in checks.items() if not right]
    return f"request.{wrong[0]} is missing or not valid" if wrong else None


def _expected(arguments: Arguments) -> dict[str, object]:
    return {
        "run_id": arguments.run_id,
        "iter_n": arguments.iter_n,
        "attempt": arguments.attempt,
        "output_dir": arguments.output_dir,
    }


def _positive(value: object) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    )


def _path_ok(path: object) -> bool:
    try:
        return bool(check(path))
    except ValueError:
        return False


def _table_ok(name: object) -> bool:
    return isinstance(name, str) and bool(_TABLE.fullmatch(name))


def _artifact_ok(artifact: object) -> bool:
    return (
        isinstance(artifact, dict)
        and _path_ok(artifact.get("path"))
        and isinstance(artifact.get("sha256"), str)
        and type(artifact.get("size")) is int
    )


def _inputs_ok(inputs: object) -> bool:
    return isinstance(inputs, dict) and all(_input_ok(item) for item in inputs.values())


def _input_ok(item: object) -> bool:
    kind = item.get("kind") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(kind, str) or kind not in _INPUTS:
        return False
    value = item.get(_INPUTS[kind])
    return isinstance(value, str) and (_INPUTS[kind] != "path" or _path_ok(value.rstrip("/")))


def _limits_ok(limits: object) -> bool:
    if not isinstance(limits, dict):
        return False
    return all(_positive(limits[name]) for name in ("stdout_bytes", "grace_s") if name in limits)


def _models_ok(models: object) -> bool:
    if not isinstance(models, dict) or not isinstance(models.get("prices"), dict):
        return False
    return (
        isinstance(models.get("endpoint"), str)
        and all(_count(models.get(name), least=1) for name in ("concurrency", "max_reply_tokens"))
        and (models.get("per_minute") is None or _count(models["per_minute"], least=1))
        and _positive(models.get("timeout_s"))
        and all(_price_ok(price) for price in models["prices"].values())
        and _allowance_ok(models.get("allowance"))
        and _table_ok(models.get("calls_table"))
    )


def _price_ok(price: object) -> bool:
    return isinstance(price, dict) and all(_amount(price.get(name)) for name in ("input_usd", "output_usd"))


def _allowance_ok(allowance: object) -> bool:
    return (
        isinstance(allowance, dict)
        and all(_count(allowance.get(name)) for name in ("calls", "tokens"))
        and (allowance.get("cost_usd") is None or _amount(allowance["cost_usd"]))
    )


def _variables_ok(variables: object) -> bool:
    return (
        isinstance(variables, dict)
        and _path_ok(variables.get("path"))
        and isinstance(variables.get("sha256"), str)
        and bool(_SHA256.fullmatch(variables["sha256"]))
        and _count(variables.get("iter_n"), least=1)
    )


def _schema_ok(name: object) -> bool:
    return isinstance(name, str) and bool(_SCHEMA.fullmatch(name))


def _spawn_ok(spawn: object) -> bool:
    return isinstance(spawn, dict) and _count(spawn.get("max_children"))


def _count(value: object, *, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _amount(value: object) -> bool:
    """Whether it is a number that money can be."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _read_artifact(request: Request, volumes: Volumes) -> bytes:
    artifact = request["artifact"]
    try:
        source = volumes.local(artifact["path"]).read_bytes()
    except OSError as error:
        raise Refused(
            protocol.ARTIFACT_MISMATCH, f"{artifact['path']} cannot be read: {error}", request
        ) from None
    found = hashlib.sha256(source).hexdigest()
    if found != artifact["sha256"] or len(source) != artifact["size"]:
        raise Refused(
            protocol.ARTIFACT_MISMATCH,
            f"{artifact['path']} has {len(source)} bytes with SHA-256 {found}; published were "
            f"{artifact['size']} bytes with {artifact['sha256']}: "
            "it was changed after publishing; nothing was run",
            request,
        )
    return source
