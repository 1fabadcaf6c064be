"""Reads ``workflow.yml``: the loops of a workflow, and what must hold of its tables at the end. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.checks import CoverageRule, Expectation
from databricks_rlm_agent.sqlflow.model import Step
from databricks_rlm_agent.sqltext.names import Name, may_be_same, parts_of, resolved, shown

FILE = "workflow.yml"
_FIX = "docs/sql-workflows.md says what may stand there."
_COVER_FIX = "Write covers: {table: NAME, on: [COLUMN]}, or on: {column here: column there}."
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
class CoverageDeclaration:
    """Keys of another table that must be found in this one.

    ``on``: columns of this table, each with the other's column that it is compared with. ``share``: the least
    share of the keys, 0 to 1.
    """

    line: int
    table: str
    on: tuple[tuple[str, str], ...]
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TableDeclaration:
    """What must hold of a table at the end, as it is declared."""

    line: int
    table: str
    key: tuple[str, ...] = ()
    min_rows: int | None = None
    covers: tuple[CoverageDeclaration, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Declarations:
    """The content of ``workflow.yml``."""

    name: str | None = None
    loops: tuple[LoopDeclaration, ...] = ()
    tables: tuple[TableDeclaration, ...] = ()


def parse_declarations(text: str, file: str = FILE) -> Declarations:
    """Read the document; raise UsageError, with key and line, for invalid content."""
    top = _Node.of(text, file)
    return Declarations() if top is None else Declarations(**top.values(_DOCUMENT))


def _loop(node: _Node) -> LoopDeclaration:
    values = node.values(_LOOP)
    if bool(values.get("files")) == bool(values.get("template")):
        raise node.error("A loop has either files or a template")
    return LoopDeclaration(line=node.line, **values)


def _table(node: _Node) -> TableDeclaration:
    values = node.values(_TABLE)
    if not values:
        raise node.error(f"Nothing is declared of {node.key}", f"Known are: {', '.join(_TABLE)}.")
    return TableDeclaration(line=node.line, table=node.key, **values)


def _cover(node: _Node) -> CoverageDeclaration:
    values = node.values(_COVER)
    if not values.get("table") or not values.get("on"):
        raise node.error("What is covered has a table and the columns that it is looked up on", _COVER_FIX)
    return CoverageDeclaration(line=node.line, **values)


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A node of the document, with its key and file."""

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

    def error(self, what: str, fix: str = _FIX) -> UsageError:
        return UsageError(f"{what}.", where=f"{self.file}:{self.line}", fix=fix)

    def values(self, fields: Mapping[str, Callable[[_Node], Any]]) -> dict[str, Any]:
        """Return the values of known keys; raise UsageError for unknown and repeated ones."""
        known = f"Known are: {', '.join(fields)}."
        values: dict[str, Any] = {}
        for key, value in self.entries():
            if key not in fields:
                raise value.error(f"The key {key!r} is not known", known)
            if key in values:
                raise value.error(f"The key {key!r} stands there twice")
            values[key] = fields[key](value)
        return values

    def entries(self) -> Iterator[tuple[str, _Node]]:
        if self.node.id != "mapping":
            raise self.error(f"{self.key} must have keys and values")
        for key, value in self.node.value:
            yield str(key.value), _Node(node=value, file=self.file, key=str(key.value))

    def elements(self) -> list[_Node]:
        if self.node.id != "sequence":
            raise self.error(f"{self.key} must be a list")
        return [_Node(node=each, file=self.file, key=self.key) for each in self.node.value]

    def text(self) -> str:
        if self.node.id != "scalar" or not str(self.node.value).strip():
            raise self.error(f"{self.key} must be a text")
        return str(self.node.value).strip()

    def texts(self) -> tuple[str, ...]:
        """Return one text, or a list of texts."""
        return (self.text(),) if self.node.id == "scalar" else tuple(each.text() for each in self.elements())

    def count(self) -> int:
        text = self.text()
        if not (text.isascii() and text.isdigit()) or int(text) > 10_000:
            raise self.error(f"{self.key} is {text!r}; it must be a number up to 10,000")
        return int(text)

    def rows(self) -> int:
        text = self.text().replace("_", "")
        if not (text.isascii() and text.isdigit()):
            raise self.error(f"{self.key} is {text!r}; it must be a number of rows")
        return int(text)

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

    def tables(self) -> tuple[TableDeclaration, ...]:
        rules = tuple(_table(node) for _key, node in self.entries())
        names = [rule.table.lower() for rule in rules]
        for rule in rules:
            if names.count(rule.table.lower()) > 1:
                raise self.error(f"The table {rule.table} stands there twice")
        return rules

    def covers(self) -> tuple[CoverageDeclaration, ...]:
        """Return one declaration, or a list of them."""
        return tuple(_cover(each) for each in (self.elements() if self.node.id == "sequence" else [self]))

    def loops(self) -> tuple[LoopDeclaration, ...]:
        return tuple(_loop(each) for each in self.elements())

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
_COVER: _Fields = {"table": _Node.text, "on": _Node.pairs, "share": _Node.share}
_TABLE: _Fields = {"key": _Node.texts, "min_rows": _Node.rows, "covers": _Node.covers}
_DOCUMENT: _Fields = {"name": _Node.text, "loops": _Node.loops, "tables": _Node.tables}


_NAME = re.compile(r"(`[^`]+`|\w+)(\.(`[^`]+`|\w+)){0,2}")


def expectations_of(
    rules: Iterable[TableDeclaration], steps: Sequence[Step], catalog: str | None, schema: str | None
) -> tuple[tuple[Expectation, ...], list[str]]:
    """Return the expectations, with full names and the steps that make the tables; and notices.

    Raise UsageError for a table that is declared under two names.
    """
    found: dict[Name, Expectation] = {}
    notices = []
    for rule in rules:
        name = _name(rule.table, rule.line, catalog, schema)
        if name in found:
            raise UsageError(
                f"{shown(name)} is declared twice.", where=f"{FILE}:{rule.line}", fix="Write it once."
            )
        makers = tuple(step.id for step in steps if any(may_be_same(name, made) for made in step.makes))
        if not makers:
            notices.append(f"{FILE}:{rule.line}: no file makes {shown(name)}; it is checked all the same.")
        covers = tuple(
            CoverageRule(table=_name(each.table, each.line, catalog, schema), on=each.on, share=each.share)
            for each in rule.covers
        )
        found[name] = Expectation(
            table=name, key=rule.key, min_rows=rule.min_rows, covers=covers, steps=makers
        )
    return tuple(found.values()), notices


def _name(text: str, line: int, catalog: str | None, schema: str | None) -> Name:
    if not _NAME.fullmatch(text):
        raise UsageError(
            f"{text!r} is not the name of a table.",
            where=f"{FILE}:{line}",
            fix="Write table, schema.table or catalog.schema.table; backquotes around odd parts.",
        )
    return resolved(parts_of(text), catalog, schema)
