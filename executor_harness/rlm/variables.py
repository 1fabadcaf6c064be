"""`rlm.vars`: what a program assigns here, a later one finds, in another process on another machine.

They are kept as an index and files of a Volume; Spark DataFrames are Delta tables of the scratch schema.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from executor_harness import protocol
from executor_harness.redaction import Redactor
from executor_harness.rlm.plain import NotPlainError
from executor_harness.rlm.values import (
    KINDS,
    TABLE,
    Entry,
    ValueFiles,
    VariablesError,
    check_size,
    is_spark,
    kind_of,
    shape_in_words,
)
from executor_harness.spark import opened, quoted
from executor_harness.volumes import Volumes

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_HASH_CHARS = 12
_VERSION = 1
_HELP = (
    "keep plain values (None, bool, int, float, str, bytes, list, tuple, dict, set, dates, Decimal), a numpy "
    "array, an Arrow or pandas table, or a Spark DataFrame; anything else as a file, with rlm.artifact"
)


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
    if document["schema_version"] != _VERSION:
        raise VariablesError(f"{what} has another schema_version than this harness reads, {_VERSION}")
    return VariableIndex(
        entries={name: Entry(**entry) for name, entry in document["variables"].items()},
        superseded=(*document["superseded"],),
    )


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


class Variables(MutableMapping[str, Any]):
    """The variables of a run, by name.

    Nothing is read before it is asked for. What a program assigns, deletes or changes in place is kept by
    `commit`, all of it or nothing: after any other end the variables are those of the last good program.
    Threads may share it.
    """

    def __init__(
        self,
        request: protocol.Request,
        volumes: Volumes,
        session: Callable[[], Any],
        redactor: Redactor,
    ) -> None:
        self._request = request
        self._volumes = volumes
        self._ref = request.variables
        self._path = f"{request.output_dir}/{protocol.VARIABLES_FILE}"
        self._redactor = redactor
        self._files = ValueFiles(
            volumes=volumes,
            folder=f"{request.output_dir}/{protocol.VARIABLES_FOLDER}",
            redactor=redactor,
        )
        self._tables = ScratchTables(request, session)
        self._lock = threading.RLock()
        self._base: VariableIndex | None = None
        # Every variable that there is; None where the value has no entry yet. `_live` are values that the
        # program has in its hands, and may change in place.
        self._entries: dict[str, Entry | None] = {}
        self._live: dict[str, Any] = {}
        self._changed: dict[str, None] = {}
        self._ended = False

    # -- what a program uses -----------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        with self._lock:
            self._load()
            if name in self._live:
                return self._live[name]
            entry = self._entries.get(name)
            if entry is None:
                known = ", ".join(self._entries) or "none"
                raise KeyError(f"no variable {name!r}; the variables of this run: {known}")
        # Outside the lock: it may be large, or a table.
        value = self._tables.open(name, str(entry.table)) if entry.table else self._files.load(name, entry)
        with self._lock:
            if self._entries.get(name) is entry:
                return self._live.setdefault(name, value)
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        """Keep a value. Raises TypeError for what cannot be kept, ValueError for what is too much."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"rlm.vars: {name!r} is no name: ASCII letters, digits and _, at most 64")
        with _named("…"):
            self._redactor.refuse(name)
        with self._lock:
            self._load()
            self._check_number(name)
            same = name in self._live and self._live[name] is value
        entry = None
        if is_spark(value):
            entry = self._entries[name] if same else self._tables.keep(name, value)
            with _named(name):
                self._redactor.refuse(value.columns)  # the rows are in the table, which is the program's
        else:
            with _named(name):
                self._redactor.refuse(value)
                check_size(kind_of(value).size(value))
        with self._lock:
            self._entries.pop(name, None)  # the newest come last
            self._entries[name] = entry
            self._changed[name] = None
            if entry is None or same:
                self._live[name] = value
            else:
                self._live.pop(name, None)  # what was written is what is read: not the plan behind it

    def __delitem__(self, name: str) -> None:
        with self._lock:
            self._load()
            self._check_open()
            if name not in self._entries:
                raise KeyError(f"no variable {name!r} to delete")
            del self._entries[name]
            self._live.pop(name, None)
            self._changed[name] = None

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __repr__(self) -> str:
        return f"Variables({', '.join(self)})"

    def clear(self) -> None:
        """Delete all; works even where the index of the last ones cannot be read."""
        with self._lock:
            self._check_open()
            try:
                self._load()
            except VariablesError:
                self._base, self._ref = VariableIndex(), None
            self._changed.update(dict.fromkeys(self._entries))
            self._entries.clear()
            self._live.clear()

    # -- what the harness uses ---------------------------------------------------------------------

    def changed(self) -> list[str]:
        """The names that this program assigned or deleted."""
        return [*self._changed]  # without the lock: who asks may be about to end a program that holds it

    def lost(self) -> list[str]:
        """A line for the log on what a program has tried to leave behind in vain."""
        base = self._request.variables
        kept = f"those of iteration {base.iter_n}" if base else "none"
        changed = ", ".join(self.changed())
        return [f"the variables are still {kept}; changes to {changed} were not kept"] if changed else []

    def commit(self) -> protocol.KeptVariables | None:
        """Keep everything, once, after the program has succeeded; where it is, for the result.

        None if it never looked at them: then they are what they were, even where their index is damaged; and
        if there are no variables, and were none before. Raises TypeError and ValueError for a value that
        was changed in place into one that cannot be kept, VariablesError, OSError.
        """
        with self._lock:
            self._check_open()
            self._ended = True
            return self._kept(self._base) if self._base is not None else None

    def discard(self) -> None:
        """Drop the tables of a program that did not succeed. Never raises."""
        self._ended = True
        self._tables.drop(self._tables.made)

    def _kept(self, base: VariableIndex) -> protocol.KeptVariables | None:
        entries = {name: self._entry(name) for name in self._entries}
        named = {entry.table for entry in entries.values()}
        ref = self._ref
        if entries != base.entries or (ref is None and self._request.variables):
            gone = [entry.table for entry in base.entries.values() if entry.table not in named]
            # What this index supersedes, another attempt of this iteration may still begin with: it is only
            # listed. What the one before superseded nobody needs, for this program began with that index: so
            # its iteration is over, and no attempt begins with an older one.
            left = self._tables.drop(base.superseded)
            index = VariableIndex(entries=entries, superseded=(*left, *(table for table in gone if table)))
            data = encode(index, self._request)
            self._volumes.put(self._path, data)
            sha256 = protocol.digest(data)
            ref = protocol.VariablesRef(path=self._path, sha256=sha256, iter_n=self._request.iter_n)
        # Assigned and replaced by this very program, which will not run again: no index names these.
        self._tables.drop(table for table in self._tables.made if table not in named)
        if ref is None:
            return None
        newest = [*entries.items()][-protocol.VARIABLES_SHOWN :]
        shown = [protocol.VariableNote(name=name, type=entry.type, size=entry.size) for name, entry in newest]
        return protocol.KeptVariables(ref=ref, count=len(entries), shown=shown)

    def _entry(self, name: str) -> Entry:
        """Return the index entry of a variable; writes its file if its content is new."""
        entry = self._entries[name]
        if entry and (name not in self._live or entry.kind == TABLE or KINDS[entry.kind].settled):
            return entry
        base = self._base or VariableIndex()
        with _named(name):
            return self._files.save(name, self._live[name], entry or base.entries.get(name))

    def _load(self) -> None:
        if self._base is None:
            self._base = read_index(self._volumes, self._ref) if self._ref else VariableIndex()
            self._entries.update(self._base.entries)

    def _names(self) -> list[str]:
        with self._lock:
            self._load()
            return [*self._entries]

    def _check_open(self) -> None:
        if self._ended:
            raise RuntimeError("rlm.vars: the program has ended; what comes now is not kept")

    def _check_number(self, name: str) -> None:
        self._check_open()
        if name not in self._entries and len(self._entries) >= protocol.VARIABLES:
            raise ValueError(
                f"rlm.vars[{name!r}]: there are {protocol.VARIABLES} variables already; delete some, or keep "
                "several values in one dict"
            )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors of a value as errors of the variable."""
    where = f"rlm.vars[{name!r}]"
    try:
        yield
    except TypeError as error:
        hint = f" cannot be kept; {_HELP}" if isinstance(error, NotPlainError) else ""
        raise TypeError(f"{where}: {error}{hint}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
