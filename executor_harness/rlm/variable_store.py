"""Where variables are kept: an index and files of a Volume, and tables of the scratch schema.

Files are written whole, and every one is checked by its SHA-256. Spark DataFrames are Delta tables.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from executor_harness import protocol
from executor_harness.redaction import Redactor
from executor_harness.rlm import plain
from executor_harness.rlm.values import KINDS, SHORT, TABLE, kind_of, shape_in_words
from executor_harness.sql import opened, quoted
from executor_harness.volumes import Volumes

_HASH_CHARS = 12
MAX_BYTES = 1 << 30  # of one value
_COPY_BYTES = 8 * 1024 * 1024
_VERSION = 1


class VariablesError(RuntimeError):
    """A stored variable is missing or was changed."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One variable: its kind, its type and size in words, and where it is: in `text` (a short plain value),
    in a file (`path`, `sha256`, `bytes`), or in a table.
    """

    kind: str
    type: str
    size: str
    text: str | None = None
    path: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    table: str | None = None


@dataclass(frozen=True, kw_only=True)
class VariableIndex:
    """All variables by name, and the tables that the index before named and this one does not."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    superseded: tuple[str, ...] = ()


def encode(index: VariableIndex, request: protocol.Request) -> bytes:
    """The bytes of variables.json."""
    document = {
        "schema_version": _VERSION,
        **{name: getattr(request, name) for name in ("run_id", "iter_n", "attempt")},
        "variables": {
            name: {key: value for key, value in asdict(entry).items() if value is not None}
            for name, entry in index.entries.items()
        },
        "superseded": list(index.superseded),
    }
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("ascii")


def read_index(volumes: Volumes, ref: protocol.VariablesRef) -> VariableIndex:
    """The index that a request names. Raises VariablesError if it is missing or another."""
    what = f"the index of the variables of iteration {ref.iter_n}, {ref.path},"
    help_ = "nothing of it was used; rlm.vars.clear() starts without those variables"
    try:
        data = volumes.read(ref.path)
    except OSError as error:
        raise VariablesError(f"{what} cannot be read: {error}; {help_}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != ref.sha256:
        raise VariablesError(f"{what} has SHA-256 {found}, published was {ref.sha256}; {help_}")
    document = json.loads(data)
    if document.get("schema_version") != _VERSION:
        raise VariablesError(
            f"{what} has schema_version {document.get('schema_version')!r}; this harness reads {_VERSION}"
        )
    return VariableIndex(
        entries={name: Entry(**entry) for name, entry in document["variables"].items()},
        superseded=(*document["superseded"],),
    )


@dataclass(frozen=True, kw_only=True)
class ValueFiles:
    """Values as files below one folder of a Volume."""

    volumes: Volumes
    folder: str
    redactor: Redactor

    def save(self, name: str, value: Any, known: Entry | None) -> Entry:
        """Keep a value that holds no secret. Where its content is that of `known`, nothing is written.

        Raises TypeError and ValueError for what cannot be kept, OSError.
        """
        self.redactor.refuse(value)
        kind = kind_of(value)
        type_, size = kind.note(value)
        text = plain.dumps(value) if kind.name == "plain" else ""
        if text and len(text) <= SHORT:
            return Entry(kind=kind.name, type=type_, size=size, text=text)
        with tempfile.TemporaryDirectory(prefix="rlm-") as folder:
            source = Path(folder) / "value"
            if text:
                source.write_text(text, "ascii")
            else:
                kind.write(value, source)
            check_size(source.stat().st_size)
            self.redactor.refuse_file(source)
            with source.open("rb") as file:
                sha256 = _sha256(file)
            if known and (known.kind, known.sha256) == (kind.name, sha256):
                return known
            path = f"{self.folder}/{name}-{sha256[:12]}{kind.suffix}"
            with source.open("rb") as file, self.volumes.create(path) as copy:
                shutil.copyfileobj(file, copy, _COPY_BYTES)
            written = source.stat().st_size
        return Entry(kind=kind.name, type=type_, size=size, path=path, sha256=sha256, bytes=written)

    def load(self, name: str, entry: Entry) -> Any:
        """The value. Raises VariablesError if its file is missing or another."""
        if entry.text is not None:
            return plain.loads(entry.text)
        path, kind = self.volumes.local(str(entry.path)), KINDS[entry.kind]
        try:
            with self.volumes.open(str(entry.path)) as file:
                found = _sha256(file)
        except OSError as error:
            raise VariablesError(f"rlm.vars[{name!r}]: its file cannot be read: {error}") from error
        if found != entry.sha256:
            raise VariablesError(
                f"rlm.vars[{name!r}]: {entry.path} has SHA-256 {found}, kept was {entry.sha256}: it was "
                "changed since; assign the variable anew, or delete it"
            )
        return kind.read(path)


def check_size(number: int) -> None:
    """ValueError if a value is too large for a variable."""
    if number > MAX_BYTES:
        raise ValueError(
            f"{number:,} bytes, and a variable has at most {MAX_BYTES:,}; keep a Spark DataFrame, or a file "
            "(rlm.artifact) and its path"
        )


def _sha256(file: BinaryIO) -> str:
    whole = hashlib.sha256()
    while data := file.read(_COPY_BYTES):
        whole.update(data)
    return whole.hexdigest()


class ScratchTables:
    """The tables behind the variables of one attempt."""

    def __init__(self, request: protocol.Request, session: Callable[[], Any]) -> None:
        self._request = request
        self._session = session
        self._lock = threading.Lock()
        self._has_schema = False
        self._made: list[str] = []

    @property
    def made(self) -> tuple[str, ...]:
        """The files that this attempt has begun to write."""
        return (*self._made,)

    def keep(self, name: str, frame: Any) -> Entry:
        """Write a DataFrame. Raises RuntimeError naming variable and table."""
        table = self._table(name)
        refusal = self._create_schema()
        try:
            frame.write.format("delta").saveAsTable(quoted(table))
            kept = self.open(name, table)
            size = shape_in_words(int(kept.count()), kept.columns)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise RuntimeError(
                f"rlm.vars[{name!r}]: the DataFrame could not be kept as table {table}: {reason}{refusal}"
            ) from error
        return Entry(kind=TABLE, type="DataFrame", size=size, table=table)

    def open(self, name: str, table: str) -> Any:
        """A table as a DataFrame. Raises LookupError naming the variable."""
        return opened(self._session(), table, f"rlm.vars[{name!r}]")

    def drop(self, tables: Iterable[str]) -> list[str]:
        """Drop tables, on a best effort; those that may still be there."""
        left = [table for table in tables if self._is_ours(table)]
        if not left or "pyspark" not in sys.modules:
            return left  # a program without Spark does not start it for this; a later one will do it
        try:
            spark = self._session()
            while left:
                spark.sql(f"DROP TABLE IF EXISTS {quoted(left[0])}").collect()
                left.pop(0)
        except Exception as error:  # noqa: BLE001 -- reported, and what is left is returned
            sys.stderr.write(f"rlm: {', '.join(left)} could not be dropped yet: {error}\n")
            left.append(left.pop(0))  # next time it does not stand before the others
        return left

    def _table(self, name: str) -> str:
        schema = self._request.scratch_schema
        if not schema:
            raise RuntimeError(
                f"rlm.vars[{name!r}]: this run has no scratch schema to keep a DataFrame in; write it with "
                "saveAsTable, report it with rlm.table, and keep its name"
            )
        with self._lock:
            # Each assignment has a table of its own: a DataFrame that was built on the one before stays as
            # it is, and may be what the next is computed from.
            parts = [str(getattr(self._request, part)) for part in ("run_id", "iter_n", "attempt")]
            whole = "/".join([*parts, name, str(len(self._made))])
            digest = hashlib.sha256(whole.encode("ascii")).hexdigest()[:_HASH_CHARS]
            self._made.append(f"{schema}.v_{digest}_{name.lower()}")
            return self._made[-1]

    def _create_schema(self) -> str:
        """Create the schema; return the engine's refusal, for the error that follows."""
        if self._has_schema:
            return ""
        schema = self._request.scratch_schema
        try:
            self._session().sql(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}").collect()
        except Exception as error:  # noqa: BLE001 -- who may not create schemas may still write to this one
            return f" (and before: {str(error).strip().partition(chr(10))[0]})"
        self._has_schema = True
        return ""

    def _is_ours(self, table: str) -> bool:
        schema = re.escape(self._request.scratch_schema)
        return bool(re.fullmatch(rf"{schema}\.v_[0-9a-f]{{{_HASH_CHARS}}}_\w+", table))
