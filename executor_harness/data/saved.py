"""The index of variables and the files behind it. Whole files only; every one is checked by its SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from executor_harness import protocol
from executor_harness.data import plain
from executor_harness.data.kinds import KINDS, SHORT, Kind, kind_of
from executor_harness.data.secrets import Secrets
from executor_harness.volumes import Volumes

MAX_BYTES = 1 << 30  # of one value
_COPY_BYTES = 8 * 1024 * 1024
_VERSION = 1


class VariablesError(RuntimeError):
    """What was kept is missing or is not what was kept."""


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
class Index:
    """All variables by name, and the tables that the index before named and this one does not."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    superseded: tuple[str, ...] = ()


def encode(index: Index, request: protocol.Request) -> bytes:
    """The bytes of variables.json."""
    document = {
        "schema_version": _VERSION,
        **{name: request[name] for name in ("run_id", "iter_n", "attempt")},
        "variables": {
            name: {key: value for key, value in asdict(entry).items() if value is not None}
            for name, entry in index.entries.items()
        },
        "superseded": list(index.superseded),
    }
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("ascii")


def read_index(volumes: Volumes, ref: protocol.VariablesRef) -> Index:
    """The index that a request names. Raises VariablesError if it is missing or another."""
    what = f"the index of the variables of iteration {ref['iter_n']}, {ref['path']},"
    help_ = "nothing of it was used; rlm.vars.clear() starts without those variables"
    try:
        data = volumes.local(ref["path"]).read_bytes()
    except OSError as error:
        raise VariablesError(f"{what} cannot be read: {error}; {help_}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != ref["sha256"]:
        raise VariablesError(f"{what} has SHA-256 {found}, published was {ref['sha256']}; {help_}")
    document = json.loads(data)
    if document.get("schema_version") != _VERSION:
        raise VariablesError(
            f"{what} has schema_version {document.get('schema_version')!r}; this harness reads {_VERSION}"
        )
    return Index(
        entries={name: Entry(**entry) for name, entry in document["variables"].items()},
        superseded=(*document["superseded"],),
    )


@dataclass(frozen=True, kw_only=True)
class Files:
    """Values as files below one folder of a Volume."""

    volumes: Volumes
    folder: str
    secrets: Secrets

    def save(self, name: str, value: Any, known: Entry | None) -> Entry:
        """Keep a value that holds no secret. Where its content is that of `known`, nothing is written.

        Raises TypeError and ValueError for what cannot be kept, OSError.
        """
        self.secrets.check(value)
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
            self.secrets.check_file(source)
            sha256 = _sha256(source)
            if known and (known.kind, known.sha256) == (kind.name, sha256):
                return known
            path = f"{self.folder}/{name}-{sha256[:12]}{kind.suffix}"
            _copy(source, self.volumes.local(path))
            written = source.stat().st_size
        return Entry(kind=kind.name, type=type_, size=size, path=path, sha256=sha256, bytes=written)

    def load(self, name: str, entry: Entry) -> Any:
        """The value. Raises VariablesError if its file is missing or another."""
        if entry.text is not None:
            return plain.loads(entry.text)
        path, kind = self.volumes.local(str(entry.path)), _kind(entry.kind)
        try:
            found = _sha256(path)
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


def _kind(name: str) -> Kind:
    return KINDS[name]


def _sha256(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(_COPY_BYTES):
            whole.update(data)
    return whole.hexdigest()


def _copy(source: Path, target: Path) -> None:
    """A whole file, in order from its start: Volumes take nothing else (see `Volumes.put`)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy, _COPY_BYTES)
        copy.flush()
        with contextlib.suppress(OSError):
            os.fsync(copy.fileno())
