"""Evidence before ``finish``: a task's acceptance checks, asked of the warehouse and the Volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from databricks_rlm_agent.controller.input_profile import counted
from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.ports import Catalog, Volume
from databricks_rlm_agent.retry import is_transient
from databricks_rlm_agent.runs.checks import Check
from databricks_rlm_agent.values import SqlSession, clip, quoted_table

FOUND_CHARS = 300
_CHECK_CHARS = 140
_SHOWN_CHARS = 120
_SHOWN = 6  # a refusal of more than 2,000 characters loses its middle


@dataclass(frozen=True, kw_only=True)
class CheckFinding:
    """The result of a check; ``found`` describes in a few words what there was."""

    check: Check
    passed: bool
    found: str

    def to_dict(self) -> dict[str, Any]:
        """The finding as an event has it."""
        return {"check": clip(str(self.check), _CHECK_CHARS), "passed": self.passed, "found": self.found}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Runs acceptance checks. ``sql`` should be a session of its own: a query may take long."""

    sql: SqlSession
    catalog: Catalog
    volume: Volume

    def verify(self, checks: Sequence[Check]) -> list[CheckFinding]:
        """Run each check. Transient errors of the workspace are raised: they are neither yes nor no."""
        return [self._finding(check) for check in checks]

    def _finding(self, check: Check) -> CheckFinding:
        run_check = {"sql": self._value, "table": self._table, "file": self._file}[check.kind]
        try:
            passed, found = run_check(check)
        except RlmError as error:
            if is_transient(error):
                raise
            passed, found = False, error.what
        except Exception as error:  # noqa: BLE001 -- the connector cannot read every type: that is the finding
            passed, found = False, f"the answer cannot be read: {type(error).__name__}: {error}"
        return CheckFinding(check=check, passed=passed, found=clip(found, FOUND_CHARS))

    def _value(self, check: Check) -> tuple[bool, str]:
        # Two rows are enough to tell one from many; the line break ends a comment of the query's own.
        rows = self.sql.fetch(f"SELECT * FROM ({check.sql}\n) LIMIT 2")  # noqa: S608 - one query that reads
        if len(rows) != 1:
            return (
                False,
                "no row; it must return one" if not rows else "more than one row; it must return one",
            )
        values = list(rows[0].values())
        if len(values) != 1:
            return False, f"{len(values)} columns; it must return one value"
        if check.equals is not None:
            return _equal(values[0], check.equals), _as_text(values[0])
        found = _as_text(values[0])
        return values[0] is True, found if isinstance(values[0], bool) else f"{found}, which is not true"

    def _table(self, check: Check) -> tuple[bool, str]:
        columns = [name for name, _ in self.catalog.describe(check.table)]
        known = {name.lower() for name in columns}
        missing = [name for name in check.columns if name.lower() not in known]
        if missing:
            return False, f"no column {', '.join(missing)}; its columns are {', '.join(columns)}"
        if not check.min_rows:
            return True, counted(len(columns), "column")
        rows = int(self.sql.fetch(f"SELECT count(*) AS n FROM {quoted_table(check.table)}")[0]["n"])  # noqa: S608 - checked name
        return rows >= check.min_rows, counted(rows, "row")

    def _file(self, check: Check) -> tuple[bool, str]:
        entry = self.volume.look(check.path)
        if entry is None:
            return False, "there is no such file"
        if entry.is_directory:
            return False, "it is a folder"
        return (entry.size or 0) >= check.min_bytes, counted(entry.size or 0, "byte")


def refusal(findings: Sequence[CheckFinding]) -> str | None:
    """Return why an answer is not accepted yet, for the model; None if all checks passed."""
    failed = [finding for finding in findings if not finding.passed]
    if not failed:
        return None
    lines = [f"The answer is not accepted: {len(failed)} of {len(findings)} acceptance checks failed."]
    lines += [
        f"- {clip(str(finding.check), _CHECK_CHARS)} (found: {clip(finding.found, _SHOWN_CHARS)})"
        for finding in failed[:_SHOWN]
    ]
    if len(failed) > _SHOWN:
        lines.append(f"- and {len(failed) - _SHOWN} more")
    lines.append("Do what is missing, then finish again. Ask only if a check itself cannot be met.")
    return "\n".join(lines)


def _equal(value: Any, wanted: str) -> bool:
    text = _as_text(value)
    if value is None or isinstance(value, bool):
        return text == wanted.lower()
    if isinstance(value, int | float | Decimal):
        try:
            return Decimal(text) == Decimal(wanted)
        except InvalidOperation:
            return text == wanted
    return text == wanted


def _as_text(value: Any) -> str:
    """A value as SQL would print it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, datetime):  # in the session's time zone, as CAST(… AS STRING) has it
        return str(value.replace(tzinfo=None))
    return str(value)
