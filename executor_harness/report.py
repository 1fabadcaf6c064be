"""What is said about an attempt, and its result.json."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass, field
from typing import Any, TypedDict

from executor_harness import protocol
from executor_harness.protocol import Result, Stream
from executor_harness.redaction import Redactor
from executor_harness.volumes import Volumes


class Ticket(TypedDict):
    """Which attempt this is, and where its result goes. `started` is in seconds since the epoch."""

    run_id: str
    iter_n: int
    attempt: int
    databricks_run_id: int | None
    request_sha256: str
    artifact_sha256: str | None
    output_dir: str
    started: float
    timeout_s: float | None


class Orders(TypedDict):
    """What the watcher is told at its start. `harness` is
    its process id; `deadline` is seconds from now; fds are open in the watcher."""

    harness: int
    volumes_root: str
    ticket: Ticket
    secrets: list[str]
    cap: int
    deadline: float
    stdout: int
    stderr: int
    pass_stdout: int
    pass_stderr: int


def iso(seconds: float) -> str:
    """Seconds since the epoch as UTC, ISO 8601, with milliseconds."""
    whole, millis = divmod(round(seconds * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{millis:03d}Z"


def bounded(text: str, limit: int) -> str:
    """The start of a text that may be too long, saying how much is missing."""
    if len(text) <= limit:
        return text
    note = f" … ({len(text)} characters in all)"
    return text[: limit - len(note)] + note


@dataclass(frozen=True, kw_only=True)
class Report:
    """How the attempt ended, and what the program reported about itself."""

    status: protocol.Status
    exit_code: int
    error_type: str | None = None
    error_summary: str | None = None
    traceback: str | None = None
    value: Any = None
    metrics: dict[str, float] = field(default_factory=dict)
    produced_artifacts: list[protocol.ProducedArtifact] = field(default_factory=list)
    produced_tables: list[protocol.ProducedTable] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    usage: protocol.Usage = field(default_factory=protocol.no_usage)
    variables: protocol.Variables | None = None
    spawned: list[protocol.ChildTask] = field(default_factory=list)

    @classmethod
    def failed(cls, error_type: str, summary: str) -> Report:
        """Something went wrong before or around the program."""
        return cls(
            status=protocol.FAILED,
            exit_code=protocol.EXIT_FAILED,
            error_type=error_type,
            error_summary=bounded(summary, protocol.SUMMARY_CHARS),
        )

    @classmethod
    def died(cls, stderr: str) -> Report:
        """The process ended without a word; the end of its standard error is the best witness."""
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        # What `faulthandler` says of a crash, most recent call first; else whatever was said last.
        crash = next((at for at, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
        kept = lines[-8:] if crash is None else lines[crash : crash + 8]
        said = " From stderr: " + " | ".join(kept) if kept else ""
        return cls.failed(
            protocol.PROCESS_DIED,
            "the process that ran the program ended without a result: killed, out of memory, "
            f"or a crash in native code.{said}",
        )

    @classmethod
    def timed_out(cls, ticket: Ticket) -> Report:
        """The program could not even be interrupted."""
        return cls(
            status=protocol.TIMEOUT,
            exit_code=protocol.EXIT_TIMEOUT,
            error_type=protocol.TIMEOUT_ERROR,
            error_summary=f"stopped after {ticket['timeout_s']:g} s (timeout_s); native code did not "
            "let go of the interpreter, so its process was killed",
        )

    @classmethod
    def cancelled(cls) -> Report:
        """The platform asked for the end, and then killed the process."""
        return cls(
            status=protocol.CANCELLED,
            exit_code=protocol.EXIT_CANCELLED,
            error_type=protocol.CANCELLED_ERROR,
            error_summary="the platform cancelled the run (SIGTERM), and killed it before it had ended",
        )

    def result(
        self, ticket: Ticket, *, streams: dict[str, Stream], finished: float, redactor: Redactor
    ) -> Result:
        """The whole result.json, with secrets masked in everything that the program could have written."""
        return {
            "schema_version": protocol.SCHEMA_VERSION,
            "run_id": ticket["run_id"],
            "iter_n": ticket["iter_n"],
            "attempt": ticket["attempt"],
            "databricks_run_id": ticket["databricks_run_id"],
            "request_sha256": ticket["request_sha256"],
            "artifact_sha256": ticket["artifact_sha256"],
            "status": self.status,
            "error_type": redactor.value(self.error_type),
            "error_summary": redactor.value(self.error_summary),
            "traceback": redactor.value(self.traceback),
            "exit_code": self.exit_code,
            "value": redactor.value(self.value),
            "metrics": redactor.value(self.metrics),
            "produced_artifacts": redactor.value(self.produced_artifacts),
            "produced_tables": redactor.value(self.produced_tables),
            "log": redactor.value(self.log),
            "usage": self.usage,
            "variables": self.variables,
            "spawned": redactor.value(self.spawned),
            "stdout": streams["stdout"],
            "stderr": streams["stderr"],
            "started_at": iso(ticket["started"]),
            "finished_at": iso(finished),
            "duration_s": round(max(0.0, finished - ticket["started"]), 3),
            "reported_by": protocol.REPORTED_BY,
            "harness_version": protocol.HARNESS_VERSION,
            "python_version": platform.python_version(),
        }


def encode(result: Result) -> bytes:
    """The bytes of result.json. Lone surrogates, which UTF-8 has no room for, stay as JSON escapes."""
    return (json.dumps(result, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def read_result(volumes: Volumes, path: str) -> dict[str, Any] | None:
    """What lies at the path of a result: its JSON object, an empty one if it is unreadable, None if it is
    absent.
    """
    try:
        found = json.loads(volumes.local(path).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def belongs(result: dict[str, Any], ticket: Ticket) -> bool:
    """Whether a result on disk is of this very request."""
    return all(result.get(name) == ticket[name] for name in ("run_id", "iter_n", "attempt", "request_sha256"))


def is_final(result: dict[str, Any] | None, ticket: Ticket) -> bool:
    """Whether a result on disk is complete and of this very request."""
    return (
        result is not None
        and belongs(result, ticket)
        and result.get("schema_version") == protocol.SCHEMA_VERSION
        and result.get("status") in protocol.STATUSES
        and isinstance(result.get("exit_code"), int)
        and set(Result.__annotations__) <= set(result)
    )
