"""The kinds of values that are kept in files: how each is known, written, read, and described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor_harness.data import frames, plain

SHORT = 1_000  # characters or bytes that are no file of their own
TABLE = "table"  # a Spark DataFrame: the one kind that is no file


@dataclass(frozen=True, kw_only=True)
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
    library = kind.__module__.partition(".")[0]
    if isinstance(value, str) and kind is str and len(value) > SHORT and plain.is_text(value):
        return KINDS["text"]
    if isinstance(value, bytes) and kind is bytes and len(value) > SHORT:
        return KINDS["bytes"]
    return KINDS[_LIBRARIES.get((library, kind.__name__), "plain")]


def is_spark(value: object) -> bool:
    """Whether it is a Spark DataFrame, classic or Connect; pandas on Spark is not."""
    kind = type(value)
    return (
        kind.__name__ == "DataFrame"
        and kind.__module__.startswith("pyspark.sql.")
        and hasattr(value, "write")
    )


def _plain_note(value: Any) -> tuple[str, str]:
    kind = type(value).__name__
    if isinstance(value, str):
        return kind, frames.counted(len(value), "character")
    if isinstance(value, bytes):
        return kind, frames.counted(len(value), "byte")
    if isinstance(value, dict):
        return kind, frames.counted(len(value), "key")
    if isinstance(value, (list, tuple, set, frozenset)):
        return kind, frames.counted(len(value), "item")
    return kind, ""


def _write_text(value: str, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(value)


def _read_text(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


def _text_size(value: str) -> int:
    return len(value) if value.isascii() else len(value.encode("utf-8"))


def _write_bytes(value: bytes, path: Path) -> None:
    path.write_bytes(value)


_LIBRARIES = {
    ("numpy", "ndarray"): "numpy",
    ("pyarrow", "Table"): "arrow",
    ("pandas", "DataFrame"): "pandas",
    ("pandas", "Series"): "series",
}
KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="plain",
            suffix=".json",
            settled=False,
            size=lambda value: len(plain.dumps(value)),
            write=lambda value, path: path.write_text(plain.dumps(value), "ascii"),
            read=lambda path: plain.loads(path.read_bytes()),
            note=_plain_note,
        ),
        Kind(
            name="text",
            suffix=".txt",
            settled=True,
            size=_text_size,
            write=_write_text,
            read=_read_text,
            note=_plain_note,
        ),
        Kind(
            name="bytes",
            suffix=".bin",
            settled=True,
            size=len,
            write=_write_bytes,
            read=Path.read_bytes,
            note=_plain_note,
        ),
        Kind(
            name="numpy",
            suffix=".npy",
            settled=False,
            size=frames.array_bytes,
            write=frames.write_array,
            read=frames.read_array,
            note=frames.array_note,
        ),
        Kind(
            name="arrow",
            suffix=".arrow",
            settled=True,
            size=frames.table_bytes,
            write=frames.write_table,
            read=frames.read_table,
            note=frames.table_note,
        ),
        Kind(
            name="pandas",
            suffix=".arrow",
            settled=False,
            size=frames.frame_bytes,
            write=frames.write_frame,
            read=frames.read_frame,
            note=frames.frame_note,
        ),
        Kind(
            name="series",
            suffix=".arrow",
            settled=False,
            size=frames.frame_bytes,
            write=frames.write_frame,
            read=frames.read_series,
            note=frames.series_note,
        ),
    )
}
