"""Reads ``workflow.yml``: the loops of a workflow, and what must hold of its tables at the end. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import CoverageRule, Expectation, Step
from databricks_rlm_agent.sqltext.names import Name, may_be_same, parts_of, resolved, shown

FILE = "workflow.yml"
_FIX = "See docs/sql-workflows.md for the keys."
_COVER_FIX = "Write covers: {table: NAME, on: [COLUMN]}, or on: {column here: column there}."
_NAME = re.compile(r"(`[^`]+`|\w+)(\.(`[^`]+`|\w+)){0,2}")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")


@dataclass(frozen=True, kw_only=True)
class LoopDeclaration:
    """A loop as it is declared; ``files`` are names or patterns, or there is a ``template``."""

    line: int
    name: str | None = None
    files: tuple[str, ...] = ()
    template: str | None = None
    first: int | None = None
    key_columns: tuple[str, ...] = ()
    convergence: str | None = None
    limit: int | None = None
    alias: str | None = None


@dataclass(frozen=True, kw_only=True)
class Declarations:
    """The content of ``workflow.yml``."""

    name: str | None = None
    loops: tuple[LoopDeclaration, ...] = ()
    tables: tuple[Expectation, ...] = ()


def parse_declarations(text: str, *, catalog: str | None = None, schema: str | None = None) -> Declarations:
    """Read ``workflow.yml``; incomplete names of tables are in ``catalog``, ``schema``.

    Raise UsageError, with key and line, for invalid content.
    """
    top = _Node.of(text, (catalog, schema))
    return Declarations() if top is None else Declarations(**top.values(_DOCUMENT))


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A node of the document, with its key and file."""

    node: Any
    place: tuple[str | None, str | None]
    key: str = "the document"

    @classmethod
    def of(cls, text: str, place: tuple[str | None, str | None]) -> _Node | None:
        import yaml

        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UsageError(f"It is not YAML: {error.problem}.", where=f"{FILE}:{line}", fix=_FIX) from None
        except (yaml.YAMLError, RecursionError):
            raise UsageError("It is not YAML.", where=FILE, fix=_FIX) from None
        return None if node is None else cls(node=node, place=place)

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1

    def error(self, what: str, fix: str = _FIX) -> UsageError:
        return UsageError(f"{what}.", where=f"{FILE}:{self.line}", fix=fix)

    def values(self, fields: Mapping[str, Callable[[_Node], Any]]) -> dict[str, Any]:
        """Return the values of known keys; raise UsageError for unknown and repeated ones."""
        known = f"Known are: {', '.join(fields)}."
        values: dict[str, Any] = {}
        for key, value in self.entries():
            if key not in fields:
                raise value.error(f"The key {key!r} is not known", known)
            if key in values:
                raise value.error(f"The key {key!r} is repeated")
            values[key] = fields[key](value)
        return values

    def entries(self) -> Iterator[tuple[str, _Node]]:
        if self.node.id != "mapping":
            raise self.error(f"{self.key} must have keys and values")
        for key, value in self.node.value:
            yield str(key.value), replace(self, node=value, key=str(key.value))

    def elements(self) -> list[_Node]:
        if self.node.id != "sequence":
            raise self.error(f"{self.key} must be a list")
        return [replace(self, node=each) for each in self.node.value]

    def text(self) -> str:
        if self.node.id != "scalar" or not str(self.node.value).strip():
            raise self.error(f"{self.key} must be a text")
        return str(self.node.value).strip()

    def texts(self) -> tuple[str, ...]:
        """Return one text, or a list of texts."""
        return (self.text(),) if self.node.id == "scalar" else tuple(each.text() for each in self.elements())

    def number(self, text: str, what: str, most: float = math.inf) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) > most:
            raise self.error(f"{self.key} is {text!r}; it must be a number {what}")
        return int(text)

    def count(self) -> int:
        return self.number(self.text(), "up to 10,000", 10_000)

    def rows(self) -> int:
        return self.number(self.text().replace("_", ""), "of rows")

    def share(self) -> float:
        text = self.text()
        number = float(text) if _NUMBER.fullmatch(text) else -1.0
        if not 0.0 <= number <= 1.0:
            raise self.error(f"{self.key} is {text!r}; it must be a share from 0 to 1")
        return number

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return pairs of columns: of one name in both tables, or ``here: there``."""
        if self.node.id != "mapping":
            return tuple((name, name) for name in self.texts())
        return tuple((key, value.text()) for key, value in self.entries())

    def table(self, text: str | None = None) -> Name:
        """Return the full name of a table, this node's text or a key, as far as it is known."""
        text = self.text() if text is None else text
        if not _NAME.fullmatch(text):
            raise self.error(
                f"{text!r} is not the name of a table",
                "Write table, schema.table or catalog.schema.table; backquotes around odd parts.",
            )
        return resolved(parts_of(text), *self.place)

    def tables(self) -> tuple[Expectation, ...]:
        found: dict[Name, Expectation] = {}
        for key, node in self.entries():
            if not (values := node.values(_TABLE)):
                raise node.error(f"Nothing is declared of {key}", f"Known are: {', '.join(_TABLE)}.")
            name = node.table(key)
            if name in found:
                raise node.error(f"{shown(name)} is declared twice", "Write it once.")
            found[name] = Expectation(table=name, **values)
        return tuple(found.values())

    def covers(self) -> tuple[CoverageRule, ...]:
        """Return one rule, or a list of them."""
        return tuple(each.cover() for each in (self.elements() if self.node.id == "sequence" else [self]))

    def cover(self) -> CoverageRule:
        values = self.values(_COVER)
        if not values.get("table") or not values.get("on"):
            raise self.error("Coverage needs a table and the columns that it is looked up by", _COVER_FIX)
        return CoverageRule(**values)

    def loops(self) -> tuple[LoopDeclaration, ...]:
        return tuple(each.loop() for each in self.elements())

    def loop(self) -> LoopDeclaration:
        values = self.values(_LOOP)
        if bool(values.get("files")) == bool(values.get("template")):
            raise self.error("A loop has either files or a template")
        return LoopDeclaration(line=self.line, **values)

    def limit(self) -> int:
        if (number := self.count()) < 1:
            raise self.error(f"{self.key} must be 1 or more")
        return number


_Fields = dict[str, Callable[[_Node], Any]]
_LOOP: _Fields = {
    "name": _Node.text,
    "files": _Node.texts,
    "template": _Node.text,
    "first": _Node.count,
    "key_columns": _Node.texts,
    "convergence": _Node.text,
    "limit": _Node.limit,
    "alias": _Node.text,
}
_COVER: _Fields = {"table": _Node.table, "on": _Node.pairs, "share": _Node.share}
_TABLE: _Fields = {"key": _Node.texts, "min_rows": _Node.rows, "covers": _Node.covers}
_DOCUMENT: _Fields = {"name": _Node.text, "loops": _Node.loops, "tables": _Node.tables}


def expectations_of(
    declared: Iterable[Expectation], steps: Sequence[Step]
) -> tuple[tuple[Expectation, ...], list[str]]:
    """Return the expectations with the steps that make their tables; and notices."""
    found, notices = [], []
    for each in declared:
        makers = tuple(step.id for step in steps if any(may_be_same(each.table, made) for made in step.makes))
        if not makers:
            notices.append(f"{FILE}: no file makes {shown(each.table)}; it is checked all the same.")
        found.append(replace(each, steps=makers))
    return tuple(found), notices
