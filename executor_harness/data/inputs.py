"""Handles on a program's inputs: nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Union

from executor_harness import protocol
from executor_harness.results_table import quoted
from executor_harness.volumes import Volumes


@dataclass(frozen=True, kw_only=True)
class Table:
    """An input that is a table."""

    name: str
    _session: Callable[[], Any]

    def df(self) -> Any:
        """The table as a Spark DataFrame."""
        return self._session().table(quoted(self.name))


@dataclass(frozen=True, kw_only=True)
class File:
    """An input that is a file. `path` is where any Python library can open it."""

    path: str

    def text(self, encoding: str = "utf-8") -> str:
        """The whole content."""
        return Path(self.path).read_text(encoding)

    def open(self, mode: str = "r", **options: Any) -> IO[Any]:
        """An open file."""
        return Path(self.path).open(mode, **options)


class Text(str):
    """An input that is a text; a `str` in every respect."""

    def text(self) -> str:
        """The text as a plain `str`."""
        return str(self)


Handle = Union[Table, File, Text]  # noqa: UP007 -- evaluated at run time, on Python 3.10 too


class Inputs(Mapping[str, Handle]):
    """All inputs by name."""

    def __init__(
        self, given: Mapping[str, protocol.Input], volumes: Volumes, session: Callable[[], Any]
    ) -> None:
        self._handles = {name: _handle(item, volumes, session) for name, item in given.items()}

    def __getitem__(self, name: str) -> Handle:
        try:
            return self._handles[name]
        except KeyError:
            known = ", ".join(sorted(self._handles)) or "none"
            raise KeyError(f"no input {name!r}; the inputs of this run: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)


def _handle(item: protocol.Input, volumes: Volumes, session: Callable[[], Any]) -> Handle:
    if item["kind"] == "table":
        return Table(name=item["name"], _session=session)
    if item["kind"] == "file":
        return File(path=str(volumes.local(item["path"])))
    if item["kind"] == "text":
        return Text(item["text"])
    raise ValueError(f"an input of kind {item['kind']!r} has no handle yet")
