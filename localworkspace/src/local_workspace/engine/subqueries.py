"""DELETE and UPDATE with subqueries, which the engine has in queries only: as a MERGE with what one finds.

    DELETE FROM t WHERE id NOT IN (SELECT id FROM s)

becomes

    MERGE INTO t USING (SELECT _k0 FROM (SELECT `id` AS _k0 FROM t WHERE (id NOT IN (…))) GROUP BY _k0)
    ON `id` <=> _k0 WHEN MATCHED THEN DELETE

The keys are the columns that the statement names: rows with the same keys have the same fate, and a row that
somebody changes meanwhile is judged by what it is. It is one commit; a mark tells DESCRIBE HISTORY its kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .catalog import ColumnInfo, TableInfo
from .errors import unsupported
from .lexer import chain_at, quote
from .membership import said_with_exists
from .statements import Statement

_QUERIES = {"SELECT", "WITH", "FROM", "VALUES", "TABLE"}
_MARK = re.compile(r"'(DELETE|UPDATE) [0-9a-f]{32}' IS NOT NULL")


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What an UPDATE or DELETE says after the name of its table, which ends before token `after_name`."""

    statement: Statement
    after_name: int

    @property
    def verb(self) -> str:
        """UPDATE or DELETE."""
        return self.statement.tokens[0].upper

    @property
    def where(self) -> int | None:
        """The token WHERE, if there is one."""
        return self.statement.find("WHERE", start=self.after_name)

    @property
    def has_subquery(self) -> bool:
        """Whether there is a query in it."""
        return _has_query(self.statement, self.after_name, len(self.statement.tokens))

    def as_merge(self, info: TableInfo, mark: str) -> str:
        """The MERGE that does the same; `mark` stands in what its commit records."""
        keys = [quote(column.name) for column in self._keys(info)]
        found = [f"{key} AS _k{index}" for index, key in enumerate(keys)]
        values: list[str] = []
        assigned: list[str] = []
        for left, start, end in self._assignments():
            right = self._text(start, end)
            if _has_query(self.statement, start, end):
                found.append(f"{right} AS _v{len(values)}")
                values.append(f"first(_v{len(values)}) AS _v{len(values)}")
                right = f"_v{len(values) - 1}"
            assigned.append(f"{left} = {right}")
        names = [f"_k{index}" for index in range(len(keys))]
        if not keys:  # all rows have one fate
            found, names = ["1 AS _k0", *found], ["_k0"]
        on = " AND ".join(f"{key} <=> _k{index}" for index, key in enumerate(keys)) or "true"
        target = self._text(2 if self.verb == "DELETE" else 1, self._after_alias())
        predicate = "true" if self.where is None else self._text(self.where + 1)
        source = (
            f"SELECT {', '.join([*names, *values])} FROM (SELECT {', '.join(found)} FROM {target} "  # noqa: S608 - as it was
            f"WHERE ({predicate})) AS _f GROUP BY {', '.join(names)}"
        )
        action = f"UPDATE SET {', '.join(assigned)}" if assigned else "DELETE"
        return (
            f"MERGE INTO {target} USING ({said_with_exists(source)}) AS _s "
            f"ON ({on}) AND '{self.verb} {mark}' IS NOT NULL WHEN MATCHED THEN {action}"
        )

    def _text(self, start: int, end: int | None = None) -> str:
        """Tokens as they are written, without a comment after the last."""
        tokens = self.statement.tokens[start:end]
        return self.statement.text[tokens[0].start : tokens[-1].end] if tokens else ""

    def _after_alias(self) -> int:
        end = self.statement.find("SET", "WHERE", start=self.after_name)
        return len(self.statement.tokens) if end is None else end

    def _keys(self, info: TableInfo) -> list[ColumnInfo]:
        """The columns that the statement names, or may mean by a star."""
        tokens = self.statement.tokens[self.after_name :]
        said = {token.name.lower() for token in tokens if token.is_name}
        whole = any(
            token.text == "*" and (tokens[at - 1].text == "." or tokens[at - 2].upper == "STRUCT")
            for at, token in enumerate(tokens)
        )
        assigned = self._only_assigned() if not whole else set()
        keys = [
            column
            for column in info.columns
            if (whole or column.name.lower() in said) and column.name.lower() not in assigned
        ]
        for key in keys:
            if "map<" in key.type.lower():
                raise unsupported(f"{self.verb} with a subquery that names the MAP column {key.name}")
        return keys

    def _only_assigned(self) -> set[str]:
        """Columns that are assigned to and named nowhere else."""
        tokens, inside = self.statement.tokens, set(range(self.after_name))
        lefts = []
        for left, start, _ in self._assignments():
            at = start - 2  # the last token before `=`
            inside.add(at)
            lefts.append(tokens[at].name.lower() if left else "")
        others = {token.name.lower() for at, token in enumerate(tokens) if at not in inside and token.is_name}
        return set(lefts) - others

    def _assignments(self) -> list[tuple[str, int, int]]:
        """Each assignment of a SET: what is assigned to, the value's first token, the one after its last."""
        at = self.statement.find("SET", "WHERE", start=self.after_name)
        if at is None or self.statement.tokens[at].upper != "SET":
            return []
        end = self.where if self.where is not None else len(self.statement.tokens)
        found = []
        while at < end:
            following = self.statement.find(",", start=at + 1)
            following = end if following is None or following > end else following
            equals = self.statement.find("=", start=at + 1)
            if equals is None or equals > following:
                raise unsupported("UPDATE with a subquery, SET in this form")
            found.append((self._left(at + 1, equals), equals + 1, following))
            at = following
        return found

    def _left(self, start: int, end: int) -> str:
        """What is assigned to, without the name of the table: the MERGE may have no name for it."""
        parts, after = chain_at(self.statement.tokens, start)
        if after != end:
            raise unsupported("UPDATE with a subquery, SET in this form")
        target = self.statement.tokens[self._after_alias() - 1].name.lower()
        heads = [part.lower() for part in parts[:-1]]
        first = heads.index(target) + 1 if target in heads else 0
        return ".".join(quote(part) for part in parts[first:])


def _has_query(statement: Statement, start: int, end: int) -> bool:
    tokens = statement.tokens
    return any(
        tokens[at].text == "(" and tokens[at].kind == "symbol" and tokens[at + 1].upper in _QUERIES
        for at in range(start, min(end, len(tokens) - 1))
    )


def as_recorded(entry: Mapping[str, Any]) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    """Operation, parameters and metrics of a commit; those of its own if it became a MERGE here."""
    operation = entry.get("operation")
    parameters, metrics = entry.get("operationParameters") or {}, entry.get("operationMetrics") or {}
    said = str(parameters.get("mergePredicate", ""))
    found = _MARK.search(said) if operation == "MERGE" else None
    if found is None:
        return operation, parameters, metrics
    changed = found.group(1).capitalize().removesuffix("e") + "ed"  # Deleted, Updated
    own = {
        f"num{changed}Rows": metrics.get(f"numTargetRows{changed}", 0),
        "numCopiedRows": metrics.get("numTargetRowsCopied", 0),
    }
    kept = {key: value for key, value in metrics.items() if "Target" not in key}
    return found.group(1), {"predicate": said}, {**kept, **own}
