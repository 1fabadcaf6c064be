"""The wire format between the control plane and the harness: names, versions, shapes and the request digest.

Both sides import this module, so that neither can spell a name differently. Nothing here does any I/O.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, TypedDict, Union

SCHEMA_VERSION = 1
HARNESS_VERSION = "0.1.0"

ID_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"

# A SQL workflow is a program as well: one that the control plane wrote. It brings along what it needs.
TASK_TYPES = ("python", "sql_workflow")

ENTRYPOINT_FILE = "entrypoint.py"
MANIFEST_FILE = "manifest.json"
RESULT_FILE = "result.json"
STDOUT_FILE = "stdout.txt"
STDERR_FILE = "stderr.txt"
SPEND_FILE = "spend.json"
SPEND_TWIN = f"{SPEND_FILE}.next"  # written before it: of the two a kill cuts off one at most
VARIABLES_FILE = "variables.json"
VARIABLES_FOLDER = "variables"
CALLS_FOLDER = "calls"  # of the run, not of an attempt: another attempt finds the answers there
RESERVED_FILES = frozenset(
    {
        ENTRYPOINT_FILE,
        MANIFEST_FILE,
        RESULT_FILE,
        STDOUT_FILE,
        STDERR_FILE,
        SPEND_FILE,
        SPEND_TWIN,
        VARIABLES_FILE,
        "transcript.jsonl",
        "notebook.ipynb",
    }
)

Status = Literal["SUCCESS", "FAILED", "TIMEOUT", "CANCELLED"]
SUCCESS: Status = "SUCCESS"
FAILED: Status = "FAILED"
TIMEOUT: Status = "TIMEOUT"
CANCELLED: Status = "CANCELLED"
STATUSES: tuple[Status, ...] = (SUCCESS, FAILED, TIMEOUT, CANCELLED)

REPORTED_BY = "executor"

# Error types that the harness itself gives; every other error_type is the name of the program's exception
# class.
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

# Bounds on what a result carries, so that a program cannot make its own result unreadable.
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


class Artifact(TypedDict):
    """The published program: Volume path, SHA-256 (hex) and size in bytes of its content."""

    path: str
    sha256: str
    size: int


class TableInput(TypedDict):
    """An input that is a table, by its full name."""

    kind: Literal["table"]
    name: str


class FileInput(TypedDict):
    """An input that is a file in a Volume."""

    kind: Literal["file"]
    path: str


class TextInput(TypedDict):
    """An input that is a text in the manifest itself."""

    kind: Literal["text"]
    text: str


class FolderInput(TypedDict):
    """An input that is a folder of a Volume."""

    kind: Literal["folder"]
    path: str


class AnswerInput(TypedDict):
    """What a child run has answered: a JSON document (`ChildAnswer`) in a Volume."""

    kind: Literal["answer"]
    path: str


Input = Union[TableInput, FileInput, TextInput, FolderInput, AnswerInput]  # noqa: UP007 -- evaluated at run time, on Python 3.10 too


# The one field of an input beside its kind.
INPUT_FIELDS = {"table": "name", "file": "path", "folder": "path", "answer": "path", "text": "text"}


class Limits(TypedDict, total=False):
    """Bounds for one run: bytes kept of each output stream; seconds of grace after time-out or cancel."""

    stdout_bytes: int
    grace_s: float


class Price(TypedDict):
    """US dollars per million tokens that a model reads and writes."""

    input_usd: float
    output_usd: float


class Allowance(TypedDict):
    """What an attempt may spend on model calls: calls, tokens (in and out together), US dollars or null."""

    calls: int
    tokens: int
    cost_usd: float | None


class ModelAccess(TypedDict):
    """How a program may ask models: the default serving endpoint, calls at once and per minute (null: no
    limit), seconds for one call, the longest reply in tokens, prices by endpoint, and what may be spent.

    `calls_table` is the full name of the table that answers are kept in.
    """

    endpoint: str
    concurrency: int
    per_minute: int | None
    timeout_s: float
    max_reply_tokens: int
    prices: dict[str, Price]
    allowance: Allowance
    calls_table: str


class VariablesRef(TypedDict):
    """The variables of the last good iteration: Volume path and SHA-256 (hex) of their index, and which
    iteration that was.
    """

    path: str
    sha256: str
    iter_n: int


class SpawnAccess(TypedDict):
    """How many child runs a program may ask for; 0 where the run is as deep as it may be."""

    max_children: int


class _RequestBase(TypedDict):
    run_id: str
    iter_n: int
    attempt: int
    task_type: str
    purpose: str
    artifact: Artifact
    output_dir: str
    inputs: dict[str, Input]
    parameters: dict[str, Any]
    timeout_s: float
    results_table: str
    catalog: str
    schema: str


class Request(_RequestBase, total=False):
    """The frozen request of one attempt. `codebase_dir` and `limits` may be absent; `timeout_s` is in
    seconds.
    """

    codebase_dir: str | None
    limits: Limits
    models: ModelAccess | None
    variables: VariablesRef | None
    scratch_schema: str  # `catalog.schema` of the tables behind variables
    spawn: SpawnAccess
    packages: list[str]  # of the job's environment: for who submits it


class Manifest(TypedDict):
    """manifest.json: the request, and the exact payload with which it was submitted."""

    schema_version: int
    request: Request
    submit_payload: dict[str, Any]


class _ArtifactBase(TypedDict):
    path: str
    size: int


class ProducedArtifact(_ArtifactBase, total=False):
    """A file that the program left: Volume path, size in bytes, SHA-256 (hex) unless it is very large."""

    sha256: str


class _TableBase(TypedDict):
    name: str


class ProducedTable(_TableBase, total=False):
    """A table that the program left; rows and columns only where counting them was quick."""

    rows: int
    columns: list[str]


class Usage(TypedDict):
    """What model calls used: calls that were sent, tokens, US dollars; `cached` answers were not."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    cached: int


class VariableNote(TypedDict):
    """A variable in few words: its name, type (such as `DataFrame` or `list`), and size."""

    name: str
    type: str
    size: str


class Variables(TypedDict):
    """The variables that a program left: where their index is, how many, and the first of them."""

    ref: VariablesRef
    count: int
    shown: list[VariableNote]


class ChildTask(TypedDict):
    """A child run that a program asks for: its name, its task, and its inputs as in a request."""

    name: str
    task: str
    inputs: dict[str, Input]


class ChildAnswer(TypedDict):
    """The document behind an `AnswerInput`. `value` is what the child's last program gave to `rlm.finish`."""

    run_id: str
    state: str
    answer: str | None
    evidence: str | None
    reason: str | None
    value: Any


class Stream(TypedDict):
    """One output stream: Volume path of the text kept, bytes written, its first and last characters.

    `truncated` says that `path` holds only head and tail. `tail` starts after `head`: for a short output it
    is empty. `path` is null when the stream could not be kept.
    """

    path: str | None
    bytes: int
    truncated: bool
    head: str
    tail: str


class Result(TypedDict):
    """result.json. Times are UTC, ISO 8601 with milliseconds; `duration_s` in seconds."""

    schema_version: int
    run_id: str
    iter_n: int
    attempt: int
    databricks_run_id: int | None
    request_sha256: str
    artifact_sha256: str | None
    status: Status
    error_type: str | None
    error_summary: str | None
    traceback: str | None
    exit_code: int
    value: Any
    metrics: dict[str, float]
    produced_artifacts: list[ProducedArtifact]
    produced_tables: list[ProducedTable]
    log: list[str]
    usage: Usage
    variables: Variables | None
    spawned: list[ChildTask]
    stdout: Stream
    stderr: Stream
    started_at: str
    finished_at: str
    duration_s: float
    reported_by: str
    harness_version: str
    python_version: str


def canonical_json(value: object) -> str:
    """The one spelling of a JSON value over which digests are taken.

    Raises ValueError for NaN and infinities, TypeError for what is not JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: object) -> str:
    """SHA-256 (64 hex characters) of the canonical JSON of `value` in UTF-8; of the bytes themselves for
    bytes.
    """
    data = value if isinstance(value, bytes) else canonical_json(value).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()


def folder_of(run_id: str, iter_n: int, attempt: int) -> str:
    """The folder of one attempt, relative to `scratchpad/`: attempts from 2 have one of their own."""
    folder = f"run_{run_id}/iter_{iter_n}"
    return folder if attempt == 1 else f"{folder}/attempt_{attempt}"


def empty_stream(path: str | None = None) -> Stream:
    """A stream of which nothing was kept."""
    return {"path": path, "bytes": 0, "truncated": False, "head": "", "tail": ""}


def no_usage() -> Usage:
    """The usage of a program that asked no model."""
    return {"calls": 0, "input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0, "cached": 0}


def run_folder(output_dir: str) -> str:
    """The folder of a run, from that of one of its attempts."""
    head, _, last = output_dir.rpartition("/")
    return head.rpartition("/")[0] if last.startswith("attempt_") else head
