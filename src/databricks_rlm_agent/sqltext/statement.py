"""One SQL statement: its kind, and the tables that it reads and writes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from databricks_rlm_agent.sqltext.names import Name


class StatementKind(StrEnum):
    """What a statement is, as far as running and repeating it goes."""

    USE = "use"  # changes what names mean, for the rest of the file
    SESSION = "session"  # SET, DECLARE, temporary views and functions: gone with the file's session
    QUERY = "query"  # reads only; SHOW and DESCRIBE too
    REPLACE = "replace"  # CREATE OR REPLACE, CREATE … IF NOT EXISTS, INSERT OVERWRITE, DROP … IF EXISTS
    CREATE = "create"  # fails if it is there already
    INSERT = "insert"  # adds rows: twice is twice
    MERGE = "merge"
    UPDATE = "update"
    DELETE = "delete"
    ALTER = "alter"
    DROP = "drop"  # fails if it is not there any more
    MAINTAIN = "maintain"  # OPTIMIZE, VACUUM, ANALYZE: changes no rows
    BLOCK = "block"  # BEGIN … END
    OTHER = "other"  # not known: cannot be parsed, or has effects outside of tables


_REPEATABLE = frozenset(
    {
        StatementKind.USE,
        StatementKind.SESSION,
        StatementKind.QUERY,
        StatementKind.REPLACE,
        StatementKind.DELETE,
        StatementKind.MAINTAIN,
    }
)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement, without comments around it and the semicolon after it.

    ``makes`` are tables and views that it leaves under a name (a rename's new one), ``gone`` those that it
    takes away; both are among ``writes``. A schema is there as ``main.shop.*``, a function as
    ``main.shop.f()``. Temporary views and CTEs are neither reads nor writes.
    """

    text: str
    file: str
    line: int  # of its first word, from 1
    kind: StatementKind
    reads: tuple[Name, ...] = ()
    writes: tuple[Name, ...] = ()
    makes: tuple[Name, ...] = ()
    gone: tuple[Name, ...] = ()
    problem: str | None = None  # why its reads and writes are not known; they are then ``ANYTHING``

    @property
    def sessional(self) -> bool:
        """Whether all that it does belongs to the session of its file."""
        return self.kind in {StatementKind.USE, StatementKind.SESSION}

    @property
    def repeatable(self) -> bool:
        """Whether running it again, after an outcome that nobody knows, leads to the same tables.

        MERGE and UPDATE depend on what they say (``SET n = n + 1``), so they are not counted.
        """
        return self.kind in _REPEATABLE and not set(self.reads) & set(self.writes)
