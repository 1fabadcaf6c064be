"""SET: Databricks SQL's own parameters (its documentation, "Configuration parameters") and the engine's."""

from __future__ import annotations

from .errors import EngineError, only_on_databricks, unsupported
from .session import DYNAMIC_OVERWRITE, STATEMENT_TIMEOUT, CatalogSession, Handlers, StatementResult
from .show import rows_of, strings
from .statements import Statement
from .tables import done

_AUTOCOMMIT = "AUTOCOMMIT"
# The parameters and their defaults; those of `_OF_THE_ENGINE` are settings of the engine.
_DEFAULTS = {
    "ANSI_MODE": "true",
    _AUTOCOMMIT: "true",
    "ENABLE_PHOTON": "true",
    "LEGACY_TIME_PARSER_POLICY": "EXCEPTION",
    "MAX_FILE_PARTITION_BYTES": "128m",
    "QUERY_TAGS": "",
    "READ_ONLY_EXTERNAL_METASTORE": "false",
    STATEMENT_TIMEOUT: "172800",
    "TIMEZONE": "UTC",
    "USE_CACHED_RESULT": "true",
}
_OF_THE_ENGINE = {"ANSI_MODE": "spark.sql.ansi.enabled", "TIMEZONE": "spark.sql.session.timeZone"}


def set_configuration(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """SET key = value, for keys that the engine's own SET does not take; other forms are the engine's."""
    if statement.starts("SET", "TIME", "ZONE"):
        session.set_configuration({"spark.sql.session.timeZone": statement.source(3).strip("'\"")})
        return done()
    if statement.starts("SET", "VAR") or statement.starts("SET", "VARIABLE"):
        raise unsupported("SET VARIABLE")
    key, equals, value = (part.strip() for part in statement.text.strip()[3:].partition("="))
    value = value.strip("'\"")
    if key.upper() in _DEFAULTS:
        if equals:
            return _set(session, key, value)
        value = session.parameters.get(key.upper(), _DEFAULTS[key.upper()])
        return rows_of(strings("key", "value"), [(key, value)])
    return _set(session, key, value) if equals else statement.text


def _set(session: CatalogSession, key: str, value: str) -> StatementResult:
    name = key.upper()
    if key.lower() == DYNAMIC_OVERWRITE and "dynamic" in value.lower():
        raise unsupported("Dynamic partition overwrite")
    if name == STATEMENT_TIMEOUT and not value.isdecimal():
        text = f"STATEMENT_TIMEOUT is a number of seconds, not {value!r}."
        raise EngineError.of("INVALID_CONF_VALUE.TYPE_MISMATCH", text, "22022")
    if name == _AUTOCOMMIT and value.lower() != "true":
        raise only_on_databricks("A transaction of several statements (SET AUTOCOMMIT = FALSE)")
    if name in _DEFAULTS:
        session.parameters[name] = value
    elif "." not in key:
        raise EngineError.of("CONFIG_NOT_AVAILABLE", f"Configuration {key} is not available.", "42K0I")
    setting = _OF_THE_ENGINE.get(name, key)
    if "." in setting:
        session.set_configuration({setting: value})
    return done()


def end_transaction(_session: CatalogSession, statement: Statement) -> StatementResult:
    """COMMIT, ROLLBACK: there is never anything to end."""
    text = f"There is no active transaction to {statement.tokens[0].text.lower()}."
    raise EngineError.of("NO_ACTIVE_TRANSACTION", text, "25000")


HANDLERS: Handlers = (
    (r"SET [A-Z_]+(\W|$)", set_configuration),
    (r"(COMMIT|ROLLBACK)( |$)", end_transaction),
)
