"""The wire format between the control plane and the harness: names, versions, documents and the digest.

Both sides import this module. Its dataclasses are the one description of the documents: the harness builds
them from JSON with `read` and writes them with `plain`; the control plane validates them with pydantic, and
docs/schemas is generated from them. `Limits` are what the control plane checks. Nothing here does I/O.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

SCHEMA_VERSION: Literal[1] = 1
HARNESS_VERSION = "0.1.0"

ID_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"

# A SQL workflow is a program as well: one that the control plane wrote.
TASK_TYPES = ("python", "sql_workflow")

ENTRYPOINT_FILE = "entrypoint.py"
MANIFEST_FILE = "manifest.json"
RESULT_FILE = "result.json"
STDOUT_FILE = "stdout.txt"
STDERR_FILE = "stderr.txt"
SPEND_FILE = "spend.json"
SPEND_TWIN = f"{SPEND_FILE}.next"  # written first: a kill cuts off one of the two at most
VARIABLES_FILE = "variables.json"
VARIABLES_FOLDER = "variables"
CALLS_FOLDER = "calls"  # of the run, not of an attempt: another attempt finds the answers there
RESERVED_FILES = frozenset(
    {ENTRYPOINT_FILE, MANIFEST_FILE, RESULT_FILE, STDOUT_FILE, STDERR_FILE}
    | {SPEND_FILE, SPEND_TWIN, VARIABLES_FILE, "transcript.jsonl", "notebook.ipynb"}
)

Status = Literal["SUCCESS", "FAILED", "TIMEOUT", "CANCELLED"]
SUCCESS: Status = "SUCCESS"
FAILED: Status = "FAILED"
TIMEOUT: Status = "TIMEOUT"
CANCELLED: Status = "CANCELLED"
STATUSES: tuple[Status, ...] = (SUCCESS, FAILED, TIMEOUT, CANCELLED)

REPORTED_BY = "executor"

# Error types of the harness; every other error_type is the name of the program's exception class.
TIMEOUT_ERROR = "Timeout"
CANCELLED_ERROR = "Cancelled"
PROCESS_DIED = "ProcessDied"
ARTIFACT_MISMATCH = "ArtifactMismatch"
MANIFEST_MISMATCH = "ManifestMismatch"
MANIFEST_UNREADABLE = "ManifestUnreadable"
UNSUPPORTED_SCHEMA = "UnsupportedSchema"
UNSUPPORTED_TASK = "UnsupportedTask"
RESULT_CONFLICT = "ResultConflict"

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 124
EXIT_CANCELLED = 143

# Limits of what a result carries, so that a program cannot make its own result unreadable.
SUMMARY_CHARS = 2_000
TRACEBACK_CHARS = 8_000
PREVIEW_CHARS = 4_000
VALUE_BYTES = 64 * 1024
LOG_LINES = 200
LOG_LINE_CHARS = 1_000
METRICS = 1_000
PRODUCED = 1_000
DEFAULT_STDOUT_BYTES = 8 * 1024 * 1024
DEFAULT_GRACE_S = 5.0
VARIABLES = 200
VARIABLES_SHOWN = 40
CHILDREN = 16  # of one spawn
CHILD_NAME_PATTERN = r"[a-z][a-z0-9_]{0,31}"
CHILD_TASK_CHARS = 4_000


class Limit:
    """A constraint that the control plane checks when it reads a document: `ge`, `pattern`, `max_length`, …

    pydantic asks an annotation for its schema; the names are those of pydantic's core schemas.
    """

    def __init__(self, **limits: Any) -> None:
        self._limits = limits

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """The schema of the annotated type with the limits in it."""
        return {**handler(source), **self._limits}


Id = Annotated[str, Limit(pattern=f"^{ID_PATTERN}$")]
Sha256 = Annotated[str, Limit(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Limit(ge=0)]
Ordinal = Annotated[int, Limit(ge=1)]
Dollars = Annotated[float, Limit(ge=0, allow_inf_nan=False)]
Number = int | float  # kept as it was written, so that a digest of it stays the same
Input = dict[str, str]  # {"kind": …} and the field that INPUT_FIELDS names
INPUT_FIELDS = {"table": "name", "file": "path", "folder": "path", "answer": "path", "text": "text"}


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The published program: Volume path, SHA-256 (hex) and size in bytes of its content."""

    path: str
    sha256: Sha256
    size: Count


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per million tokens that a model reads and writes."""

    input_usd: Number
    output_usd: Number


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """The limits of an attempt's model calls: calls, tokens (in and out together), US dollars or None."""

    calls: int
    tokens: int
    cost_usd: Number | None


@dataclass(frozen=True, kw_only=True)
class ModelAccess:
    """How a program may ask models: the default serving endpoint, calls at once and per minute (None: no
    limit), seconds for one call, the longest reply in tokens, prices by endpoint, and what may be spent.

    `calls_table` is the full name of the table that answers are kept in.
    """

    endpoint: str
    concurrency: int
    per_minute: int | None
    timeout_s: Number
    max_reply_tokens: int
    prices: dict[str, Price]
    allowance: Allowance
    calls_table: str


@dataclass(frozen=True, kw_only=True)
class VariablesRef:
    """The index of a run's variables: Volume path, SHA-256 (hex), and the iteration that left it."""

    path: str
    sha256: Sha256
    iter_n: Ordinal


@dataclass(frozen=True, kw_only=True)
class Request:
    """The frozen request of one attempt; its digest is an argument of the job, so nothing in it can change.

    `limits` may have `stdout_bytes` (kept of each output stream) and `grace_s` (seconds after a time-out or
    cancel); `spawn` has `max_children`, 0 where the run is as deep as it may be. `scratch_schema` is the
    `catalog.schema` of the tables behind variables. `packages` are requirements of the job's environment.
    """

    run_id: Id
    iter_n: Ordinal
    attempt: Ordinal
    task_type: Literal["python", "sql_workflow"] = "python"
    purpose: str
    artifact: Artifact
    output_dir: str
    codebase_dir: str | None = None
    inputs: dict[str, Input] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    timeout_s: Ordinal
    results_table: str
    catalog: str
    schema: str
    limits: dict[str, Number] = field(default_factory=dict)
    models: ModelAccess | None = None
    variables: VariablesRef | None = None
    scratch_schema: str = ""
    spawn: dict[str, int] = field(default_factory=dict)
    packages: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ProducedArtifact:
    """A file that the program left: Volume path, size in bytes, SHA-256 (hex) unless it is very large."""

    path: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class ProducedTable:
    """A table that the program left; rows and columns only where counting them was quick."""

    name: str
    rows: int | None = None
    columns: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The usage of model calls: calls that were sent, tokens, US dollars; `cached` answers were not sent."""

    calls: Count = 0
    input_tokens: Count = 0
    output_tokens: Count = 0
    cost_usd: Dollars = 0.0
    cached: Count = 0


@dataclass(frozen=True, kw_only=True)
class VariableNote:
    """A variable in short: its name, type (such as `DataFrame` or `list`), and size in words."""

    name: str
    type: str
    size: str = ""


@dataclass(frozen=True, kw_only=True)
class KeptVariables:
    """The variables that a program left: the index of all, how many they are, and the newest of them."""

    ref: VariablesRef
    count: Count
    shown: Annotated[list[VariableNote], Limit(max_length=VARIABLES_SHOWN)] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ChildTask:
    """A child run that a program asks for. Its answer becomes the parent's input of that name."""

    name: Annotated[str, Limit(pattern=f"^{CHILD_NAME_PATTERN}$")]
    task: Annotated[str, Limit(min_length=1, max_length=CHILD_TASK_CHARS)]
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ChildAnswer:
    """The document behind an input of kind `answer`. `value` is what its last program finished with."""

    run_id: str
    state: str
    answer: str | None
    evidence: str | None
    reason: str | None
    value: Any


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One output stream: Volume path of the text kept, bytes written, its first and last characters.

    `truncated`: the file holds head and tail only. `tail` starts after `head`. `path` is None when the stream
    could not be kept.
    """

    path: str | None = None
    bytes: int = 0
    truncated: bool = False
    head: str = ""
    tail: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """result.json. Times are UTC, ISO 8601 with milliseconds; `duration_s` in seconds.

    `value` is exact: a decimal number that a double would not give back is its text. Lone surrogates, which a
    program may have in any text, are written as escapes such as `\\udce9`.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: Id
    iter_n: Ordinal
    attempt: Ordinal
    databricks_run_id: int | None
    request_sha256: str
    artifact_sha256: str | None
    status: Status
    error_type: str | None = None
    error_summary: str | None = None
    traceback: str | None = None
    exit_code: int
    value: Any = None
    metrics: dict[str, float] = field(default_factory=dict)
    produced_artifacts: list[ProducedArtifact] = field(default_factory=list)
    produced_tables: list[ProducedTable] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    usage: Usage = Usage()
    variables: KeptVariables | None = None
    spawned: list[ChildTask] = field(default_factory=list)
    stdout: Stream = Stream()
    stderr: Stream = Stream()
    started_at: str
    finished_at: str
    duration_s: float
    reported_by: str = REPORTED_BY
    harness_version: str = HARNESS_VERSION
    python_version: str


T = TypeVar("T")


def read(kind: type[T], data: Any) -> T:
    """Build a dataclass of this module from JSON; unknown fields are left out.

    Raises TypeError or KeyError for a document of another shape: values themselves are not checked.
    """
    return _read(kind, data)  # type: ignore[no-any-return] # by the type it was asked for


def _read(hint: Any, data: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _read(arguments[0], data)
    if origin in (Union, types.UnionType):
        return None if data is None else _read(arguments[0], data)
    if origin is list:
        return [_read(arguments[0], item) for item in data]
    if origin is dict:
        return {key: _read(arguments[1], item) for key, item in data.items()}
    if not dataclasses.is_dataclass(hint):
        return data
    hints = get_type_hints(hint, include_extras=True)
    return hint(**{name: _read(hints[name], data[name]) for name in hints if name in data})  # type: ignore[operator]


def plain(document: Any) -> dict[str, Any]:
    """A dataclass of this module as JSON; optional fields of what a program produced only where they are."""
    found = dataclasses.asdict(document)
    for produced in (*found.get("produced_artifacts", ()), *found.get("produced_tables", ())):
        for name in [name for name, value in produced.items() if value is None]:
            del produced[name]
    return found


def compiled(source: bytes, name: str) -> types.CodeType:
    """Return the code of a program as the harness runs it; the control plane tries that before it publishes.

    Raises SyntaxError (also for bytes that are not of the declared encoding) and ValueError; RecursionError
    or MemoryError for what is nested too deeply.
    """
    return compile(source, name, "exec", dont_inherit=True)


def canonical_json(value: object) -> str:
    """The one spelling of a JSON value over which digests are taken.

    Raises ValueError for NaN and infinities, TypeError for what is not JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: object) -> str:
    """SHA-256 (64 hex characters) of bytes, or of the canonical JSON of another value in UTF-8."""
    data = value if isinstance(value, bytes) else canonical_json(value).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()


def folder_of(run_id: str, iter_n: int, attempt: int) -> str:
    """The folder of one attempt, relative to `scratchpad/`: attempts from 2 have one of their own."""
    folder = f"run_{run_id}/iter_{iter_n}"
    return folder if attempt == 1 else f"{folder}/attempt_{attempt}"


def run_folder(output_dir: str) -> str:
    """The folder of a run, from that of one of its attempts."""
    head, _, last = output_dir.rpartition("/")
    return head.rpartition("/")[0] if last.startswith("attempt_") else head
