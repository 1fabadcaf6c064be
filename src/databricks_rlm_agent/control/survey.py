"""A first look at a run's inputs: what the planner knows of them before it has read anything.

Notes are data: they quote what stands in tables and files. Nothing is read but heads, tails and counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from databricks_rlm_agent.control.glances import counted, excerpt, file_note, folder_note, short
from databricks_rlm_agent.control.passing import passes
from databricks_rlm_agent.domain.ids import quoted_table
from databricks_rlm_agent.domain.text import clip
from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.ports import Catalog, SqlBackend, Volume

NOTE_CHARS = 600
MAX_INPUTS = 16
_NAME_CHARS = 120
_SCHEMA_CHARS = 220
_TYPE_CHARS = 30
_ROWS, _COLUMNS, _CELL_CHARS, _ROW_CHARS = 3, 8, 20, 65


@dataclass(frozen=True, kw_only=True)
class Surveyor:
    """Looks at inputs. ``sql`` should be a session of its own: to count the rows of a view may take long."""

    volume: Volume
    catalog: Catalog
    sql: SqlBackend

    def notes(self, inputs: Mapping[str, Any]) -> dict[str, str]:
        """A note of at most 600 characters on each of the first 16 inputs, by name.

        An input that cannot be looked at gets a note that says why. Passing faults of the workspace
        (Unreachable, Throttled, Conflict, Unauthorized) are raised.
        """
        return {name: self._note(given) for name, given in list(inputs.items())[:MAX_INPUTS]}

    def _note(self, given: Any) -> str:
        looks: dict[str, Callable[[], str]] = {
            "table": lambda: self._table(given["name"]),
            "file": lambda: f"file {file_note(self.volume, given['path'])}",
            "answer": lambda: f"answer of a child run, in {file_note(self.volume, given['path'])}",
            "folder": lambda: f"folder {folder_note(self.volume, given['path'])}",
            "text": lambda: _text(given["text"]),
        }
        kind = given.get("kind") if isinstance(given, dict) else None
        if kind not in looks:
            return "not a handle of a known kind"
        return clip(_or_why(looks[kind], f"{kind}; it cannot be looked at"), NOTE_CHARS)

    def _table(self, name: str) -> str:
        quoted = quoted_table(name)
        columns = self.catalog.describe(name)
        rows = _or_why(lambda: self._count(quoted), "rows cannot be counted")
        head = _or_why(lambda: self._head(quoted, columns), "rows cannot be shown")
        parts = [
            f"table {short(name, _NAME_CHARS)}",
            rows,
            f"{counted(len(columns), 'column')}: {_schema(columns)}",
            head,
        ]
        return "; ".join(part for part in parts if part)

    def _count(self, quoted: str) -> str:
        found = self.sql.fetch(f"SELECT count(*) AS n FROM {quoted}")  # noqa: S608 - checked name
        return counted(int(found[0]["n"]), "row")

    def _head(self, quoted: str, columns: Sequence[tuple[str, str]]) -> str:
        """The first rows; cells are cut off in the warehouse, so that none comes whole."""
        shown = [(name, kind) for name, kind in columns if kind.lower() != "binary"][:_COLUMNS]
        if not shown:
            return ""
        cells = ", ".join(f"substr(CAST({_quoted(name)} AS STRING), 1, {_CELL_CHARS + 1}) AS c{n}"
                          for n, (name, _) in enumerate(shown))  # fmt: skip
        found = self.sql.fetch(f"SELECT {cells} FROM {quoted} LIMIT {_ROWS}")  # noqa: S608 - checked, quoted
        rows = [short(_row([row[f"c{n}"] for n in range(len(shown))]), _ROW_CHARS) for row in found]
        of = "" if len(shown) == len(columns) else f" of {', '.join(short(name, 20) for name, _ in shown)}"
        return f"first rows{short(of, 60)}: {' '.join(rows)}" if rows else ""


def _or_why(look: Callable[[], str], otherwise: str) -> str:
    """What a look finds, or why it finds nothing; raise what may be gone the next time."""
    try:
        return look()
    except RlmError as error:
        if passes(error):
            raise
        reason = error.what
    except Exception as error:  # noqa: BLE001 -- a strange input must not end the run: the note says so
        reason = f"{type(error).__name__}: {error}"
    return f"{otherwise}: {short(reason, 200)}"


def _schema(columns: Sequence[tuple[str, str]]) -> str:
    """As many columns with their types as there is room for."""
    shown: list[str] = []
    room = _SCHEMA_CHARS
    for name, kind in columns:
        text = f"{short(name, 60)} {short(kind, _TYPE_CHARS)}"
        room -= len(text) + 2
        if room < 0:
            return f"{', '.join(shown)} and {len(columns) - len(shown)} more"
        shown.append(text)
    return ", ".join(shown)


def _row(cells: Sequence[str | None]) -> str:
    return json.dumps(
        [None if cell is None else short(cell, _CELL_CHARS) for cell in cells], ensure_ascii=False
    )


def _quoted(column: str) -> str:
    return f"`{column.replace('`', '``')}`"


def _text(text: str) -> str:
    lines = counted(text.count("\n") + (text[-1:] not in {"", "\n"}), "line")
    return f"text; {counted(len(text), 'character')}; {lines}; {excerpt(text, text)}"
