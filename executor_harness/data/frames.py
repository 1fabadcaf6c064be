"""Arrays and tables of NumPy, Arrow and pandas as files. Nothing is pickled."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from executor_harness.data import plain

_NAME = b"rlm_series_name"
_SHOWN_CHARS = 100
_BY = " \u00d7 "


def array_bytes(value: Any) -> int:
    """The size of a NumPy array; TypeError if it holds Python objects."""
    if value.dtype.hasobject:
        raise TypeError(f"numpy.ndarray of dtype {value.dtype}: only numbers, times and fixed texts are kept")
    return int(value.nbytes)


def write_array(value: Any, path: Path) -> None:
    """An array as `.npy`."""
    import numpy

    array_bytes(value)
    with path.open("wb") as file:
        numpy.save(file, value, allow_pickle=False)


def read_array(path: Path) -> Any:
    """The array of a `.npy` file."""
    import numpy

    return numpy.load(path, allow_pickle=False)


def array_note(value: Any) -> tuple[str, str]:
    """Its type and size in words."""
    shape = _BY.join(f"{length:,}" for length in value.shape) or "a single value"
    return "numpy array", f"{value.dtype}, {shape}"[:_SHOWN_CHARS]


def table_bytes(value: Any) -> int:
    """The size of an Arrow table."""
    return int(value.nbytes)


def write_table(value: Any, path: Path) -> None:
    """An Arrow table as an Arrow IPC file."""
    import pyarrow

    with path.open("wb") as file, pyarrow.ipc.new_file(file, value.schema) as writer:
        writer.write_table(value)


def read_table(path: Path) -> Any:
    """The table of an Arrow IPC file, mapped into memory where the file system can."""
    import pyarrow

    try:
        source = pyarrow.memory_map(str(path))
    except OSError:
        source = pyarrow.OSFile(str(path))  # a mount without mmap
    return pyarrow.ipc.open_file(source).read_all()


def table_note(value: Any) -> tuple[str, str]:
    """Its type and size in words."""
    return "Arrow table", shape_in_words(value.num_rows, value.column_names)


def frame_bytes(value: Any) -> int:
    """The size of a pandas DataFrame or Series in Arrow. TypeError says what of it Arrow cannot give back."""
    return int(_to_arrow(value).nbytes)


def write_frame(value: Any, path: Path) -> None:
    """A pandas DataFrame or Series, with its index, as an Arrow IPC file."""
    write_table(_to_arrow(value), path)


def read_frame(path: Path) -> Any:
    """The DataFrame of an Arrow IPC file."""
    return _own(read_table(path).to_pandas())


def read_series(path: Path) -> Any:
    """The Series of an Arrow IPC file."""
    table = read_table(path)
    return _own(table.to_pandas())["value"].rename(plain.loads(table.schema.metadata[_NAME]))


def _own(frame: Any) -> Any:
    """The frame, changeable in place: codes of categories would be the mapped file's memory."""
    return frame.copy() if any(dtype.name == "category" for dtype in frame.dtypes) else frame


def frame_note(value: Any) -> tuple[str, str]:
    """Its type and size in words."""
    return "pandas DataFrame", shape_in_words(len(value), value.columns)


def series_note(value: Any) -> tuple[str, str]:
    """Its type and size in words."""
    return "pandas Series", f"{counted(len(value), 'value')}, {value.dtype}"[:_SHOWN_CHARS]


def counted(number: int, thing: str) -> str:
    """Such as `1 row`, `1,200 rows`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def shape_in_words(rows: int, columns: Iterable[object]) -> str:
    """Such as `1,200 rows by 4 columns: a, b, …`, with a sign for "by"."""
    names = [str(name) for name in columns]
    said = f"{counted(rows, 'row')}{_BY}{counted(len(names), 'column')}"
    listed = f"{said}: {', '.join(names)}" if names else said
    if len(listed) <= _SHOWN_CHARS:
        return listed
    cut = listed[: _SHOWN_CHARS - 1].rpartition(", ")[0]
    return f"{cut}, …" if len(cut) > len(said) else f"{listed[: _SHOWN_CHARS - 1]}…"


def _to_arrow(value: Any) -> Any:
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
        table = table.replace_schema_metadata(
            {**(table.schema.metadata or {}), _NAME: plain.dumps(value.name).encode("ascii")}
        )
    return table


def _check_columns(frame: Any, table: Any, kind: str) -> None:
    """TypeError where Arrow would give something else back: nothing is changed unseen."""
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
