"""``workflow.yml``: loops that are declared rather than found by their files' names. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from databricks_rlm_agent.errors import UsageError

FILE = "workflow.yml"
_FIX = "docs/sql-workflows.md says what may stand there."


@dataclass(frozen=True, kw_only=True)
class Declared:
    """One loop as it is declared; ``files`` are names or patterns, or there is a ``template``."""

    line: int
    name: str | None = None
    files: tuple[str, ...] = ()
    template: str | None = None
    first: int | None = None
    key_columns: tuple[str, ...] = ()
    convergence: str | None = None
    limit: int | None = None
    alias: str | None = None


def parse_declared(text: str, file: str = FILE) -> list[Declared]:
    """Read the document; raise UsageError, with key and line, for what cannot stand there."""
    top = _Node.of(text, file)
    if top is None:
        return []
    found = []
    for key, node in top.entries():
        if key != "loops":
            raise node.wrong(f"The key {key!r} is not known", "Known is: loops.")
        found += [_loop(each) for each in node.items()]
    return found


def _loop(node: _Node) -> Declared:
    values: dict[str, Any] = {}
    for key, value in node.entries():
        if key not in _FIELDS:
            raise value.wrong(f"The key {key!r} is not known", f"Known are: {', '.join(_FIELDS)}.")
        if key in values:
            raise value.wrong(f"The key {key!r} stands there twice")
        values[key] = _FIELDS[key](value)
    if bool(values.get("files")) == bool(values.get("template")):
        raise node.wrong("A loop has either files or a template")
    return Declared(line=node.line, **values)


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A node of the document that knows its key and where it stands."""

    node: Any
    file: str
    key: str = "the document"

    @classmethod
    def of(cls, text: str, file: str) -> _Node | None:
        import yaml

        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UsageError(f"It is not YAML: {error.problem}.", where=f"{file}:{line}", fix=_FIX) from None
        except (yaml.YAMLError, RecursionError):
            raise UsageError("It is not YAML.", where=file, fix=_FIX) from None
        return None if node is None else cls(node=node, file=file)

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1

    def wrong(self, what: str, fix: str = _FIX) -> UsageError:
        return UsageError(f"{what}.", where=f"{self.file}:{self.line}", fix=fix)

    def entries(self) -> Iterator[tuple[str, _Node]]:
        if self.node.id != "mapping":
            raise self.wrong(f"{self.key} must have keys and values")
        for key, value in self.node.value:
            yield str(key.value), _Node(node=value, file=self.file, key=str(key.value))

    def items(self) -> list[_Node]:
        if self.node.id != "sequence":
            raise self.wrong(f"{self.key} must be a list")
        return [_Node(node=each, file=self.file, key=self.key) for each in self.node.value]

    def text(self) -> str:
        if self.node.id != "scalar" or not str(self.node.value).strip():
            raise self.wrong(f"{self.key} must be a text")
        return str(self.node.value).strip()

    def texts(self) -> tuple[str, ...]:
        """One text, or a list of them."""
        return (self.text(),) if self.node.id == "scalar" else tuple(each.text() for each in self.items())

    def count(self) -> int:
        text = self.text()
        if not (text.isascii() and text.isdigit()) or int(text) > 10_000:
            raise self.wrong(f"{self.key} is {text!r}; it must be a number up to 10,000")
        return int(text)

    def limit(self) -> int:
        if (number := self.count()) < 1:
            raise self.wrong(f"{self.key} must be 1 or more")
        return number


_FIELDS: dict[str, Callable[[_Node], Any]] = {
    "name": _Node.text,
    "files": _Node.texts,
    "template": _Node.text,
    "first": _Node.count,
    "key_columns": _Node.texts,
    "convergence": _Node.text,
    "limit": _Node.limit,
    "alias": _Node.text,
}
