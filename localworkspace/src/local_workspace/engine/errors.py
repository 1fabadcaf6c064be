"""Engine errors, spelled as Databricks spells them: `[CONDITION] text SQLSTATE: xxxxx`."""

from __future__ import annotations

import re


class EngineError(Exception):
    """A statement failed.

    `condition` is the error condition (TABLE_OR_VIEW_NOT_FOUND …), `sqlstate` its five characters, `message`
    the whole text with both, ready for a client. `sent` is what was sent to the engine, where that is known.
    """

    sent = ""

    def __init__(self, message: str, *, condition: str, sqlstate: str, java_class: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.condition = condition
        self.sqlstate = sqlstate
        self.java_class = java_class or _java_class(condition)
        self.classes = [self.java_class]  # pyspark raises by the first one that it knows

    @classmethod
    def of(cls, condition: str, text: str, sqlstate: str, *, java_class: str = "") -> EngineError:
        """Return the error whose message is put together of these."""
        message = f"[{condition}] {text} SQLSTATE: {sqlstate}"
        return cls(message, condition=condition, sqlstate=sqlstate, java_class=java_class)


_LACKS = "The local workspace's quick engine does not support this. Use `--engine spark`."
_NO_ROUTINE = "Cannot resolve routine `{name}` on the search path."

# Patterns of engine messages; condition, SQLSTATE and text of the error, which may use the pattern's groups.
# Conditions and SQLSTATEs: Apache Spark's error-conditions.json and the Delta error pages of the Databricks
# documentation. The engine's own words always follow, in brackets, for they say more than the standard text.
_RULES = (
    # The missing commit file: a reader's snapshot while a concurrent writer makes its checkpoint.
    (r"Failed to commit transaction|concurrent|Transaction conflict|[Cc]ommit conflict|Missing commit file",
     "DELTA_CONCURRENT_APPEND", "2D521",
     "Transaction conflict detected: another transaction changed the table. Read again, then retry."),
    (r"(?:Table or view|View) not found: (?P<name>\S+)", "TABLE_OR_VIEW_NOT_FOUND", "42P01",
     ("The table or view `{name}` cannot be found. Verify the spelling and correctness of the schema and "
     "catalog.")),
    (r"(?:Table|View|Delta table) already exists", "TABLE_OR_VIEW_ALREADY_EXISTS", "42P07",
     "The table or view exists."),
    (r"(?:Database|Schema) (?:not found|does not exist)", "SCHEMA_NOT_FOUND", "42704",
     "The schema cannot be found."),
    (r"Catalog (?:not found|does not exist)", "CATALOG_NOT_FOUND", "42P08", "The catalog cannot be found."),
    ((r"attribute ObjectName\(\[(?P<name>[^\]]*)\]\)[^:]*: cannot resolve attribute"
     r"|Cannot resolve (?:UPDATE target |source )?column `(?P<column>[^`]*)`"
     r"|cannot resolve (?:attribute|column)|No field named|Column '[^']*' not found"
     r"|[Ff]ield '[^']*' not found"),
     "UNRESOLVED_COLUMN.WITHOUT_SUGGESTION", "42703",
     "A column, variable, or function parameter with name {name} cannot be resolved."),
    (r"invalid argument: found .*? expected |expected one statement", "PARSE_SYNTAX_ERROR", "42601",
     "Syntax error."),
    (r"unknown (?:table )?function: (?P<name>table_changes)", "UNRESOLVED_ROUTINE", "42883",
     _NO_ROUTINE + " The local workspace has the change data feed with `--engine spark` only."),
    (r"unknown (?:table )?function: (?P<name>\S+)", "UNRESOLVED_ROUTINE", "42883",
     _NO_ROUTINE + " If Databricks has it, use `--engine spark`."),
    (r"^function: (?P<name>\w+)$", "UNRESOLVED_ROUTINE", "42883",
     "The local workspace's quick engine has no function `{name}`. Use `--engine spark`."),
    (r"DELTA_VIOLATE_CONSTRAINT_WITH_VALUES", "DELTA_VIOLATE_CONSTRAINT_WITH_VALUES", "23001",
     "A row violates a CHECK constraint of the table."),
    (r"DELTA_NEW_CHECK_CONSTRAINT_VIOLATION", "DELTA_NEW_CHECK_CONSTRAINT_VIOLATION", "23512",
     "Rows of the table violate the new CHECK constraint."),
    (r"Delta constraint ['`](?P<name>\w+)['`] already exists", "DELTA_CONSTRAINT_ALREADY_EXISTS", "42710",
     "Constraint '{name}' already exists. Delete the old constraint first."),
    (r"NOT NULL constraint violated|NOT_NULL_CONSTRAINT_VIOLATED", "DELTA_NOT_NULL_CONSTRAINT_VIOLATED",
     "23502", "A column that is NOT NULL got no value."),
    ((r"^(?:PARTITION for write|DISTRIBUTE BY|CLUSTER BY)$|Physical plan does not support"
     r"|Unsupported table features required"), "UNSUPPORTED_FEATURE", "0A000", _LACKS),
    (r"input schema for INSERT has \d+ fields, but table schema has \d+", "INSERT_COLUMN_ARITY_MISMATCH",
     "21S01",
     "Cannot write to the table: the number of data columns does not match the number of table columns."),
    (r"(?i)divi(?:de|sion) by zero", "DIVIDE_BY_ZERO", "22012",
     "Division by zero. Use `try_divide` to tolerate it."),
    (r"Can't cast value .* to type", "CAST_OVERFLOW", "22003",
     "A value cannot be cast because it is out of the type's range. Use `try_cast` to tolerate it."),
    (r"Cannot cast (?:string|value) ", "CAST_INVALID_INPUT", "22018",
     "A value cannot be cast because it is malformed. Use `try_cast` to tolerate it."),
    (r"was not provided a value for execution", "UNBOUND_SQL_PARAMETER", "42P02",
     "Found an unbound parameter. Give it a value."),
    (r"PlanNode::|CommandNode::|not implemented|not supported|unsupported", "UNSUPPORTED_FEATURE", "0A000",
     _LACKS),
)  # fmt: skip
_CODED = re.compile(r"\[(?P<condition>[A-Z][A-Z_.]+)\] .*SQLSTATE: (?P<state>\w{5})", re.DOTALL)
# Of all that might have stood there, the first few.
_TOO_MANY = re.compile(r"( expected (?:(?:'[^']*'|[^,']+), ){4}(?:'[^']*'|[^,']+)),.*", re.DOTALL)
_IDENTIFIER = re.compile(r'Identifier\("((?:[^"\\]|\\.)*)"\)')


def from_engine(text: str, *, java_class: str = "") -> EngineError:
    """Return the error for an engine message, with the message in it; a coded message stays as it is."""
    if coded := _CODED.match(text):
        return EngineError(text, condition=coded["condition"], sqlstate=coded["state"], java_class=java_class)
    text = _TOO_MANY.sub(r"\1 …", text)
    for pattern, condition, sqlstate, standard in _RULES:
        if match := re.search(pattern, text, re.DOTALL):
            groups = match.groupdict()
            name = groups.get("name") or groups.get("column") or ""
            shown = ".".join(f"`{part}`" for part in _IDENTIFIER.findall(name)) or name
            known = f"{standard.format(name=shown)} ({text})"
            return EngineError.of(condition, known, sqlstate, java_class=_java_class(condition, java_class))
    if not text:
        return EngineError.of("INTERNAL_ERROR", "The engine gave no reason.", "XX000", java_class=java_class)
    return EngineError.of("ENGINE_ERROR", text, "HY000", java_class=java_class)


def from_spark(text: str, *, condition: str, sqlstate: str, classes: list[str]) -> EngineError:
    """Return the error for a message of Spark itself, which gives condition, SQLSTATE and classes."""
    text = text.strip()
    text = text if text.startswith(f"[{condition}") else f"[{condition}] {text}"
    text = text if "SQLSTATE:" in text else f"{text} SQLSTATE: {sqlstate}"
    error = EngineError(text, condition=condition, sqlstate=sqlstate, java_class=classes[0])
    error.classes = classes
    return error


_ANALYSIS = re.compile(r"NOT_FOUND|UNRESOLVED|ALREADY_EXISTS|UNBOUND")


def _java_class(condition: str, otherwise: str = "") -> str:
    """Return the JVM class that pyspark turns into the right Python exception."""
    if condition == "PARSE_SYNTAX_ERROR":
        return "org.apache.spark.sql.catalyst.parser.ParseException"
    if _ANALYSIS.search(condition):
        return "org.apache.spark.sql.AnalysisException"
    return otherwise or "org.apache.spark.SparkException"


def syntax_error(text: str) -> EngineError:
    """Return the error for text that is no SQL; `text` says what is wrong or missing."""
    return EngineError.of("PARSE_SYNTAX_ERROR", f"Syntax error: {text}", "42601")


def table_not_found(name: str) -> EngineError:
    """Return the error for a table or view that is not in the catalog; `name` is quoted SQL."""
    return EngineError.of(
        "TABLE_OR_VIEW_NOT_FOUND",
        f"The table or view {name} cannot be found. Verify the spelling and correctness of the schema and "
        "catalog.",
        "42P01",
    )


def schema_not_found(catalog: str, schema: str) -> EngineError:
    """Return the error for a schema that is not in the catalog."""
    return EngineError.of(
        "SCHEMA_NOT_FOUND",
        f"The schema `{catalog}`.`{schema}` cannot be found. Verify the spelling, or create it with "
        f"CREATE SCHEMA {catalog}.{schema}.",
        "42704",
    )


def catalog_not_found(catalog: str) -> EngineError:
    """Return the error for a catalog that the workspace was not started with."""
    return EngineError.of(
        "NO_SUCH_CATALOG_EXCEPTION",
        f"Catalog '{catalog}' was not found. A local workspace has the catalogs it was started with: restart "
        f"it with `--catalog {catalog}`.",
        "42704",
    )


def at_place(error: EngineError, original: str) -> EngineError:
    """Return a syntax error with line and position in the statement as it was written, as Spark has them.

    The engine gives the place in the text that was sent to it, which has the same end.
    """
    found = _PLACE.search(error.message)
    if error.condition != "PARSE_SYNTAX_ERROR" or found is None or "(line " in error.message:
        return error
    rest = error.sent[int(found["start"]) :].rstrip() if found["start"] else ""
    if not original.rstrip().endswith(rest):
        return error
    at = len(original.rstrip()) - len(rest)
    line = original.count("\n", 0, at) + 1
    column = at - (original.rfind("\n", 0, at) + 1)
    near = rest.split(None, 1)[0][:40] if rest else "end of input"
    head, _, tail = error.message.rpartition(" SQLSTATE: ")
    head = head.replace("Syntax error.", f"Syntax error at or near '{near}'.", 1)
    return EngineError(
        f"{head} SQLSTATE: {tail} (line {line}, pos {column})",
        condition=error.condition,
        sqlstate=error.sqlstate,
        java_class=error.java_class,
    )


_PLACE = re.compile(r"\bat (?P<start>\d+):\d+ expected|found end of input")


def operation_canceled() -> EngineError:
    """Return the error of a statement that somebody has cancelled."""
    return EngineError.of("OPERATION_CANCELED", "The operation was cancelled.", "HY008")


def session_lost() -> EngineError:
    """Return the error of a session that has gone with its engine; clients know by it to begin another."""
    text = (
        "Invalid SessionHandle: the engine of this session has ended, and its temporary views and settings "
        "with it. Open a new session."
    )
    return EngineError.of("INVALID_HANDLE.SESSION_CHANGED", text, "HY000")


def statement_timed_out(seconds: int) -> EngineError:
    """Return the error of a statement that ran longer than it may."""
    text = f"The statement was ended after {seconds} seconds (STATEMENT_TIMEOUT)."
    return EngineError.of("STATEMENT_TIMEOUT", text, "57014")


def unsupported(construct: str) -> EngineError:
    """Return the error for a construct that the quick engine lacks or would answer wrongly."""
    text = f"{construct} is not supported by the local workspace's quick engine. Use `--engine spark`."
    return EngineError.of("UNSUPPORTED_FEATURE", text, "0A000")


def only_on_databricks(construct: str) -> EngineError:
    """Return the error for a construct that neither engine has."""
    return EngineError.of(
        "UNSUPPORTED_FEATURE", f"{construct} is not supported by the local workspace.", "0A000"
    )
