"""Handles on a program's inputs: nothing is read before it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from executor_harness import protocol
from executor_harness.rlm.files import File, Folder
from executor_harness.rlm.text import Readable
from executor_harness.sql import opened
from executor_harness.volumes import Volumes


@dataclass(frozen=True, kw_only=True)
class Table:
    """An input that is a table."""

    name: str
    _session: Callable[[], Any] = field(repr=False)
    _label: str = field(default="the table", repr=False)

    def df(self) -> Any:
        """The table as a Spark DataFrame; LookupError, naming the input, where it cannot be read."""
        return opened(self._session(), self.name, self._label)

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        return [str(name) for name in self.df().columns]

    def count(self) -> int:
        """Its rows."""
        return int(self.df().count())


class Text(str, Readable):
    """An input that is a text; a `str` in every respect."""

    __slots__ = ()

    def text(self) -> str:
        """The text as a plain `str`."""
        return str(self)

    def head(self, count: int) -> str:
        """The first characters."""
        return self[: max(0, count)]

    def tail(self, count: int) -> str:
        """The last characters."""
        return self[max(0, len(self) - max(0, count)) :]

    def _pieces(self) -> Iterator[str]:
        yield str(self)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An input that is what a child run has answered. The document is read when it is first asked for."""

    path: str
    _label: str = field(default="the answer", repr=False)

    def text(self) -> str:
        """The answer in words; empty if the child ended without one (see `state` and `reason`)."""
        return self._document.answer or ""

    @property
    def value(self) -> Any:
        """Return the value that the child's last program gave to `rlm.finish`."""
        return self._document.value

    @property
    def state(self) -> str:
        """How the child run ended: SUCCEEDED, FAILED or CANCELLED."""
        return self._document.state

    @property
    def evidence(self) -> str | None:
        """Return the evidence that the child gave."""
        return self._document.evidence

    @property
    def reason(self) -> str | None:
        """Why the child failed, if it did."""
        return self._document.reason

    @property
    def run_id(self) -> str:
        """The child run."""
        return self._document.run_id

    @cached_property
    def _document(self) -> protocol.ChildAnswer:
        try:
            return protocol.read(protocol.ChildAnswer, json.loads(Path(self.path).read_bytes()))
        except FileNotFoundError:
            raise FileNotFoundError(f"{self._label}: {self.path} is not there") from None
        except ValueError as error:
            raise ValueError(f"{self._label}: {self.path} is not a JSON document: {error}") from None
        except TypeError as error:
            raise ValueError(f"{self._label}: {self.path} is no child's answer: {error}") from None


Handle = Table | File | Folder | Text | Answer


class Inputs(Mapping[str, Any]):
    """All inputs by name. A value is a `Handle`; which one is the task's to know, not the type checker's."""

    def __init__(
        self, given: Mapping[str, protocol.Input], volumes: Volumes, session: Callable[[], Any]
    ) -> None:
        self._handles = {name: _handle(name, item, volumes, session) for name, item in given.items()}

    def __getitem__(self, name: str) -> Any:
        try:
            return self._handles[name]
        except KeyError:
            known = ", ".join(sorted(self._handles)) or "none"
            raise KeyError(f"no input {name!r}; the inputs of this run: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)

    def __repr__(self) -> str:
        kinds = ", ".join(f"{name}: {type(handle).__name__}" for name, handle in self._handles.items())
        return f"Inputs({kinds})"


def _handle(name: str, item: protocol.Input, volumes: Volumes, session: Callable[[], Any]) -> Handle:
    label = f"input {name!r}"
    if item["kind"] == "table":
        return Table(name=item["name"], _session=session, _label=label)
    if item["kind"] == "text":
        return Text(item["text"])
    local = str(volumes.local(item["path"].rstrip("/")))
    if item["kind"] == "folder":
        return Folder(path=local, _label=label, _session=session)
    if item["kind"] == "answer":
        return Answer(path=local, _label=label)
    return File(path=local, _label=label, _session=session)
