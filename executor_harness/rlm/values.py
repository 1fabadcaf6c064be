"""Values that are kept in files: how each kind is known, written, read, and described.

Arrays and tables of NumPy, Arrow and pandas are files of their own formats. Nothing is pickled. Each file is
checked by its SHA-256 when it is read.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from executor_harness.redaction import Redactor
from executor_harness.rlm import plain
from executor_harness.volumes import Volumes

MAX_BYTES = 1 << 30  # of one value
_COPY_BYTES = 8 * 1024 * 1024
SHORT = 1_000  # characters or bytes that are no file of their own
TABLE = "table"  # a Spark DataFrame: the one kind that is no file
_SERIES_NAME = b"rlm_series_name"
_SHOWN_CHARS = 100
_BY = " \u00d7 "


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


@dataclass(frozen=True)
class Kind:
    """One kind. `settled` says that its values cannot be changed in place; `size` gives bytes, about, and
    raises TypeError for a value that cannot be kept; `note` gives type and size in words.
    """

    name: str
    suffix: str
    settled: bool
    size: Callable[[Any], int]
    write: Callable[[Any, Path], object]
    read: Callable[[Path], Any]
    note: Callable[[Any], tuple[str, str]]


def kind_of(value: object) -> Kind:
    """How a value is kept in a file, if it can be: `Kind.size` tells that."""
    kind = type(value)
    if kind is str and len(str(value)) > SHORT and plain.is_text(str(value)):
        return KINDS["text"]
    if isinstance(value, bytes) and kind is bytes and len(value) > SHORT:
        return KINDS["bytes"]
    return KINDS[_LIBRARIES.get((kind.__module__.partition(".")[0], kind.__name__), "plain")]


def is_spark(value: object) -> bool:
    """Return whether it is a Spark DataFrame, classic or Connect; pandas on Spark is not."""
    kind = type(value)
    known = kind.__name__ == "DataFrame" and kind.__module__.startswith("pyspark.sql.")
    return known and hasattr(value, "write")


def counted(number: int, thing: str) -> str:
    """Such as `1 row`, `1,200 rows`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def shape_in_words(rows: int, columns: Iterable[object]) -> str:
    """Such as `1,200 rows by 4 columns: a, b, …`, with a sign for "by"."""
    names = [str(name) for name in columns]
    shape = f"{counted(rows, 'row')}{_BY}{counted(len(names), 'column')}"
    listed = f"{shape}: {', '.join(names)}" if names else shape
    if len(listed) <= _SHOWN_CHARS:
        return listed
    cut = listed[: _SHOWN_CHARS - 1].rpartition(", ")[0]
    return f"{cut}, …" if len(cut) > len(shape) else f"{listed[: _SHOWN_CHARS - 1]}…"


def _plain_note(value: Any) -> tuple[str, str]:
    things = {str: "character", bytes: "byte", dict: "key"}
    things |= dict.fromkeys((list, tuple, set, frozenset), "item")
    thing = next((thing for kind, thing in things.items() if isinstance(value, kind)), None)
    return type(value).__name__, counted(len(value), thing) if thing else ""


# NumPy


def array_bytes(value: Any) -> int:
    """The size of a NumPy array; TypeError if it holds Python objects."""
    if value.dtype.hasobject:
        raise TypeError(f"numpy.ndarray of dtype {value.dtype}: only numbers, times and fixed texts are kept")
    return int(value.nbytes)


def write_array(value: Any, path: Path) -> None:
    """Write an array as `.npy`."""
    import numpy

    array_bytes(value)
    with path.open("wb") as file:
        numpy.save(file, value, allow_pickle=False)


def read_array(path: Path) -> Any:
    """Read the array of a `.npy` file."""
    import numpy

    return numpy.load(path, allow_pickle=False)


def array_note(value: Any) -> tuple[str, str]:
    """Its type and size in words."""
    shape = _BY.join(f"{length:,}" for length in value.shape) or "a single value"
    return "numpy array", f"{value.dtype}, {shape}"[:_SHOWN_CHARS]


# Arrow and pandas


def write_table(value: Any, path: Path) -> None:
    """Write an Arrow table as an Arrow IPC file."""
    import pyarrow

    with path.open("wb") as file, pyarrow.ipc.new_file(file, value.schema) as writer:
        writer.write_table(value)


def read_table(path: Path) -> Any:
    """Read the table of an Arrow IPC file, mapped into memory where the file system can."""
    import pyarrow

    try:
        source = pyarrow.memory_map(str(path))
    except OSError:
        source = pyarrow.OSFile(str(path))  # a mount without mmap
    return pyarrow.ipc.open_file(source).read_all()


def read_frame(path: Path) -> Any:
    """Read the pandas DataFrame of an Arrow IPC file."""
    frame = read_table(path).to_pandas()
    # To be changeable in place: codes of categories would be the mapped file's memory.
    return frame.copy() if any(dtype.name == "category" for dtype in frame.dtypes) else frame


def read_series(path: Path) -> Any:
    """Read the pandas Series of an Arrow IPC file."""
    name = plain.loads(read_table(path).schema.metadata[_SERIES_NAME])
    return read_frame(path)["value"].rename(name)


def to_arrow(value: Any) -> Any:
    """A pandas DataFrame or Series, with its index, as an Arrow table. TypeError says what of it Arrow cannot
    give back.
    """
    import pyarrow

    is_series = type(value).__name__ == "Series"
    frame = value.to_frame("value") if is_series else value
    kind = f"pandas.{type(value).__name__}"
    labels = frame.columns
    if labels.nlevels == 1 and labels.inferred_type.startswith("mixed"):
        raise TypeError(f"{kind}: Arrow would make texts of all its column labels; do that first")
    try:
        table = pyarrow.Table.from_pandas(frame)
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise TypeError(f"{kind} that Arrow cannot hold: {error}") from None
    _check_columns(frame, table, kind)
    if is_series:
        name = plain.dumps(value.name).encode("ascii")
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _SERIES_NAME: name})
    return table


def _check_columns(frame: Any, table: Any, kind: str) -> None:
    """Raise TypeError where Arrow would give something else back: nothing is changed unseen."""
    import pyarrow

    empty = table.slice(0, 0).to_pandas()
    if list(empty.columns) != list(frame.columns):
        raise TypeError(f"{kind}: Arrow does not keep its column labels; make them texts: df.columns = [...]")
    for at, label in enumerate(frame.columns):
        if pyarrow.types.is_nested(table.column(at).type):
            raise TypeError(
                f"{kind}: the lists or dicts in column {label!r} would come back as others; keep "
                "df.to_dict('records'), or an Arrow table"
            )
        before, after = frame.dtypes.iloc[at], empty.dtypes.iloc[at]
        if before.name == "object" != after.name:
            after = table.column(at).to_pandas().dtype  # with nulls among the values it may be one
        if before != after:
            raise TypeError(
                f"{kind}: column {label!r} of dtype {before} would come back as {after}; "
                "convert it first: df.convert_dtypes(), or .astype(...)"
            )


_LIBRARIES = {
    ("numpy", "ndarray"): "numpy",
    ("pyarrow", "Table"): "arrow",
    ("pandas", "DataFrame"): "pandas",
    ("pandas", "Series"): "series",
}
_ALL = (
    Kind(
        "plain",
        ".json",
        False,
        lambda value: len(plain.dumps(value)),
        lambda value, path: path.write_text(plain.dumps(value), "ascii"),
        lambda path: plain.loads(path.read_bytes()),
        _plain_note,
    ),
    Kind(
        "text",
        ".txt",
        True,
        lambda value: len(value.encode("utf-8")),
        lambda value, path: path.write_bytes(value.encode("utf-8")),
        lambda path: path.read_bytes().decode("utf-8"),
        _plain_note,
    ),
    Kind(
        "bytes", ".bin", True, len, lambda value, path: path.write_bytes(value), Path.read_bytes, _plain_note
    ),
    Kind("numpy", ".npy", False, array_bytes, write_array, read_array, array_note),
    Kind(
        "arrow",
        ".arrow",
        True,
        lambda value: int(value.nbytes),
        write_table,
        read_table,
        lambda value: ("Arrow table", shape_in_words(value.num_rows, value.column_names)),
    ),
    Kind(
        "pandas",
        ".arrow",
        False,
        lambda value: int(to_arrow(value).nbytes),
        lambda value, path: write_table(to_arrow(value), path),
        read_frame,
        lambda value: ("pandas DataFrame", shape_in_words(len(value), value.columns)),
    ),
    Kind(
        "series",
        ".arrow",
        False,
        lambda value: int(to_arrow(value).nbytes),
        lambda value, path: write_table(to_arrow(value), path),
        read_series,
        lambda value: ("pandas Series", f"{counted(len(value), 'value')}, {value.dtype}"[:_SHOWN_CHARS]),
    ),
)
KINDS = {kind.name: kind for kind in _ALL}


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
