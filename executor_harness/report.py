"""Report an attempt: result.json, its row in `execution_results`, and spend.json, should it die."""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from executor_harness import protocol
from executor_harness.protocol import Result, Stream, Usage
from executor_harness.redaction import Redactor
from executor_harness.spark import commit, literal, quoted
from executor_harness.verify import Arguments
from executor_harness.volumes import Volumes

_STATEMENT = """MERGE INTO {table} AS t
USING (SELECT {source}) AS s
ON t.run_id = s.run_id AND t.iter_n = s.iter_n AND t.attempt = s.attempt
WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"""
_OF_TICKET = ("run_id", "iter_n", "attempt", "databricks_run_id", "request_sha256", "artifact_sha256")
_STOPPED: dict[protocol.Status, tuple[str, int]] = {
    protocol.TIMEOUT: (protocol.TIMEOUT_ERROR, protocol.EXIT_TIMEOUT),
    protocol.CANCELLED: (protocol.CANCELLED_ERROR, protocol.EXIT_CANCELLED),
}
_TYPES = {
    "iter_n": "INT",
    "attempt": "INT",
    "databricks_run_id": "BIGINT",
    "started_at": "TIMESTAMP",
    "finished_at": "TIMESTAMP",
}


@dataclass(frozen=True, kw_only=True)
class Ticket(Arguments):
    """Which attempt this is, and where its result goes. `started` is in seconds since the epoch."""

    artifact_sha256: str | None = None
    started: float
    timeout_s: float = 0.0

    @property
    def result_path(self) -> str:
        """The Volume path of result.json."""
        return f"{self.output_dir}/{protocol.RESULT_FILE}"


def iso(seconds: float) -> str:
    """Seconds since the epoch as UTC, ISO 8601, with milliseconds."""
    whole, millis = divmod(round(seconds * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{millis:03d}Z"


def shortened(text: str, limit: int) -> str:
    """The start of a text that may be too long, with a note of its length."""
    if len(text) <= limit:
        return text
    note = f" … ({len(text)} characters in all)"
    return text[: limit - len(note)] + note


@dataclass(frozen=True, kw_only=True)
class Report:
    """How the attempt ended, and what the program reported about itself."""

    status: protocol.Status = protocol.FAILED
    exit_code: int = protocol.EXIT_FAILED
    error_type: str | None = None
    error_summary: str | None = None
    traceback: str | None = None
    value: Any = None
    metrics: dict[str, float] = field(default_factory=dict)
    produced_artifacts: list[protocol.ProducedArtifact] = field(default_factory=list)
    produced_tables: list[protocol.ProducedTable] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    usage: protocol.Usage = field(default_factory=protocol.Usage)
    variables: protocol.KeptVariables | None = None
    spawned: list[protocol.ChildTask] = field(default_factory=list)

    @classmethod
    def success(cls) -> Report:
        """The program ran to its end."""
        return cls(status=protocol.SUCCESS, exit_code=protocol.EXIT_OK)

    @classmethod
    def failed(cls, error_type: str, summary: str, trace: str | None = None) -> Report:
        """The program failed, or something before or around it."""
        return cls(error_type=error_type, error_summary=summary, traceback=trace)

    @classmethod
    def stopped(cls, reason: protocol.Status, summary: str, trace: str | None = None) -> Report:
        """The program was ended from outside: its time was up, or the platform cancelled the run."""
        kind, code = _STOPPED[reason]
        return cls(status=reason, exit_code=code, error_type=kind, error_summary=summary, traceback=trace)

    @classmethod
    def died(cls, stderr: str) -> Report:
        """The process ended without a report; the end of its standard error is the best witness."""
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        # What `faulthandler` says of a crash, most recent call first; else the last lines.
        crash = next((at for at, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
        if crash is not None:
            why = f"crashed in native code: {' | '.join(lines[crash : crash + 8])}"
        else:
            witness = f" From stderr: {' | '.join(lines[-8:])}" if lines else ""
            why = (
                "ended without a result: killed, out of memory, or ended past Python (a crash or an exit in "
                f"native code, exec).{witness}"
            )
        return cls.failed(protocol.PROCESS_DIED, f"the process that ran the program {why}")

    def result(
        self, ticket: Ticket, *, streams: Mapping[str, Stream], finished: float, redactor: Redactor
    ) -> dict[str, Any]:
        """The content of result.json, with secrets masked in everything that the program may have written."""
        result = Result(
            **{name: getattr(self, name) for name in Report.__dataclass_fields__},
            **{name: getattr(ticket, name) for name in _OF_TICKET},
            stdout=streams["stdout"],
            stderr=streams["stderr"],
            started_at=iso(ticket.started),
            finished_at=iso(finished),
            duration_s=round(max(0.0, finished - ticket.started), 3),
            python_version=platform.python_version(),
        )
        document = protocol.plain(result)
        own = ("usage", "variables", "stdout", "stderr")  # written by the harness, streams masked already
        written = {name: document[name] for name in Report.__dataclass_fields__ if name not in own}
        document |= redactor.value(written)
        # Cut only now: half of a secret is not found any more.
        if document["error_summary"]:
            document["error_summary"] = shortened(document["error_summary"], protocol.SUMMARY_CHARS)
        if document["traceback"]:
            document["traceback"] = _end_of(document["traceback"])
        document["log"] = [shortened(line, protocol.LOG_LINE_CHARS) for line in document["log"]]
        storable: dict[str, Any] = _storable(document)
        return storable


def _end_of(trace: str) -> str:
    note, limit = "… (start left out)\n", protocol.TRACEBACK_CHARS
    return trace if len(trace) <= limit else note + trace[-(limit - len(note)) :]


def _storable(value: Any) -> Any:
    """A JSON value in which lone surrogates, which no reader takes, are escapes such as `\\udce9`."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list) else value


def encode(result: Mapping[str, Any]) -> bytes:
    """The bytes of result.json."""
    return (json.dumps(result, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def read_result(volumes: Volumes, path: str) -> dict[str, Any] | None:
    """The JSON object at the path of a result: empty if it is unreadable, None if nothing is there."""
    try:
        found = json.loads(volumes.read(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def belongs(result: Mapping[str, Any], ticket: Ticket) -> bool:
    """Return whether a result on disk is of this very request."""
    names = ("run_id", "iter_n", "attempt", "request_sha256")
    return all(result.get(name) == getattr(ticket, name) for name in names)


def is_final(result: Mapping[str, Any] | None, ticket: Ticket) -> bool:
    """Return whether a result on disk is complete and of this very request."""
    return (
        result is not None
        and belongs(result, ticket)
        and result.get("schema_version") == protocol.SCHEMA_VERSION
        and result.get("status") in protocol.STATUSES
        and isinstance(result.get("exit_code"), int)
        and set(Result.__dataclass_fields__) <= set(result)
    )


def row_of(result: Mapping[str, Any]) -> dict[str, str | int | None]:
    """The row of a result.json."""
    same = ("run_id", "iter_n", "attempt", "databricks_run_id")
    structured = ("metrics", "produced_artifacts", "produced_tables")
    return {
        **{name: result[name] for name in same},
        "run_url": None,  # the controller knows it; a job does not
        **{name: result[name] for name in ("status", "error_type", "error_summary")},
        **{name: protocol.canonical_json(result[name]) for name in structured},
        **{name: result[name] for name in ("started_at", "finished_at", "reported_by")},
    }


def statement(table: str, row: Mapping[str, str | int | None]) -> str:
    """The MERGE that creates a row unless it is there; its columns are the keys of `row`."""
    return _STATEMENT.format(
        table=quoted(table),
        source=", ".join(
            f"CAST({literal(value)} AS {_TYPES.get(name, 'STRING')}) AS {name}" for name, value in row.items()
        ),
        names=", ".join(row),
        values=", ".join(f"s.{name}" for name in row),
    )


def append(execute: Callable[[str], object], table: str, result: Mapping[str, Any]) -> None:
    """Create the row of a result unless it is there. Raises what the engine raises."""
    commit(execute, statement(table, row_of(result)))


# spend.json: what an attempt may have spent at most, on record before it spends it.
#
# Whoever finds an attempt dead reads it, so that a killed program's calls count. It is written whole, and its
# twin before it: of the two a kill cuts off one at most. Where neither can be read, all that the attempt was
# allowed counts.


def write_spend(volumes: Volumes, output_dir: str, usage: Usage) -> None:
    """Put on record what may be spent. Raises OSError."""
    document = {"schema_version": protocol.SCHEMA_VERSION, "usage": protocol.plain(usage)}
    data = (json.dumps(document) + "\n").encode("ascii")
    for name in (protocol.SPEND_TWIN, protocol.SPEND_FILE):
        volumes.put(f"{output_dir}/{name}", data)


def remove_spend_twin(volumes: Volumes, output_dir: str) -> None:
    """Remove the twin, once nothing more comes; on a best effort."""
    with contextlib.suppress(OSError):
        volumes.local(f"{output_dir}/{protocol.SPEND_TWIN}").unlink(missing_ok=True)


def read_spend(volumes: Volumes, output_dir: str) -> Usage:
    """Return the most that a dead attempt may have spent; nothing where it never asked a model."""
    if not volumes.local(f"{output_dir}/{protocol.SPEND_FILE}").exists():
        return Usage()  # calls wait for it, whether there is a twin or not
    for name in (protocol.SPEND_FILE, protocol.SPEND_TWIN):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(volumes.read(f"{output_dir}/{name}"))["usage"]
            counts = {name: int(found[name]) for name in Usage.__dataclass_fields__ if name != "cost_usd"}
            return Usage(cost_usd=float(found["cost_usd"]), **counts)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        manifest = json.loads(volumes.read(f"{output_dir}/{protocol.MANIFEST_FILE}"))
        allowed = manifest["request"]["models"]["allowance"]
        calls, tokens, cost = int(allowed["calls"]), int(allowed["tokens"]), float(allowed["cost_usd"] or 0.0)
        return Usage(calls=calls, input_tokens=tokens, cost_usd=cost)
    return Usage()  # nobody knows what was allowed either; the controller has it in its own record
