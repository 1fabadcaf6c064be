"""Secrets: from the environment first, then from a Databricks secret scope. Values are never logged."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn

from databricks_rlm_agent.errors import NotFound, RlmError, SecretsMissing
from databricks_rlm_agent.models import VARIABLES, required_secrets
from executor_harness.redaction import HANDED_OUT, Redactor


class Secret:
    """A secret value. It prints, formats and represents itself as ``***``, and does not pickle or copy out.

    ``json.dumps`` refuses it, as it refuses any object that it does not know.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("A secret does not pickle.")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: object) -> Secret:
        return self


def redact(text: str, secrets: list[Secret]) -> str:
    """``text`` with every secret replaced by ``***``, also where it is in JSON, a URL, base64 or hexadecimal.

    Values under 4 characters are left alone: they would tear ordinary words apart, and no key is that short.
    """
    values = (secret.reveal() for secret in secrets)
    return _redactor(tuple(value for value in values if len(value) >= HANDED_OUT)).text(text)


_redactor = lru_cache(maxsize=8)(Redactor)


__all__ = ["LoadedSecrets", "Secret", "find_secrets", "load_secrets"]

DEFAULT_SCOPE = "adk-secrets"
# Without a model setting the product's own default is a Gemini model.
_DEFAULT_REQUIRED = ("google-api-key",)

Fetch = Callable[[str, str], str | None]
"""``(scope, key)`` to a value, or None if there is none; raises RlmError."""


@dataclass(frozen=True, kw_only=True)
class LoadedSecrets:
    """The secrets that were found: values by key, where each came from, what is missing, what went wrong."""

    scope: str
    values: Mapping[str, Secret]
    sources: Mapping[str, str]
    required: tuple[str, ...]
    problems: tuple[str, ...] = ()
    identity: str | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """Required keys that were found nowhere."""
        return tuple(key for key in self.required if key not in self.values)

    def check(self) -> LoadedSecrets:
        """These secrets if no required one is missing; raise SecretsMissing otherwise."""
        if not self.missing:
            return self
        who = f" as {self.identity}" if self.identity else ""
        names = ", ".join(f"{key} ({VARIABLES[key]})" for key in self.missing)
        tried = f" Tried: {'; '.join(self.problems)}." if self.problems else ""
        commands = "; ".join(f"databricks secrets put-secret {self.scope} {key}" for key in self.missing)
        raise SecretsMissing(
            f"Required secrets are missing: {names}.",
            where=f"environment, then secret scope {self.scope!r}{who}",
            fix=f"Set the variable, or run: {commands} (if the scope is new, first: databricks secrets"
            f" create-scope {self.scope}; for others: databricks secrets put-acl {self.scope} PRINCIPAL"
            f" READ).{tried}",
        )


def load_secrets(spark: Any = None, **options: Any) -> LoadedSecrets:
    """Find the secrets and put them into the environment, where the model libraries look for them.

    A variable that is already set is left as it is. Takes the options of :func:`find_secrets`. Raises
    SecretsMissing, one error for all required secrets that are nowhere, with the commands to fix it, and
    ConfigError for an unknown model setting.
    """
    environ: MutableMapping[str, str] = options.setdefault("environ", os.environ)
    loaded = find_secrets(spark, **options).check()
    for key, secret in loaded.values.items():
        if not environ.get(VARIABLES[key]):
            environ[VARIABLES[key]] = secret.reveal()
    return loaded


def find_secrets(
    spark: Any = None,
    *,
    environ: Mapping[str, str] | None = None,
    scope: str | None = None,
    model: str | None = None,
    dbutils: Any = None,
    fetch: Fetch | None = None,
    identity: str | None = None,
) -> LoadedSecrets:
    """Look for every secret without changing anything; what is missing is listed, not raised.

    ``scope`` defaults to ``ADK_SECRET_SCOPE`` or ``adk-secrets``, ``model`` to ``RLM_MODEL``; the model
    decides which secrets are required. ``dbutils`` is found by itself on Databricks. ``fetch`` asks the
    Secrets API. ``identity`` is named in the error. Raises ConfigError for an unknown model setting.
    """
    variables = os.environ if environ is None else environ
    scope = scope or variables.get("ADK_SECRET_SCOPE") or DEFAULT_SCOPE
    model = model or variables.get("RLM_MODEL")
    search = _Search(scope=scope, environ=variables, fetch=fetch)
    search.dbutils = dbutils if dbutils is not None else search.find_dbutils(spark)
    for key in VARIABLES:
        search.look_for(key)
    return LoadedSecrets(
        scope=scope,
        values=search.values,
        sources=search.sources,
        required=required_secrets(model) if model else _DEFAULT_REQUIRED,
        problems=tuple(dict.fromkeys(search.problems)),
        identity=identity,
    )


@dataclass(kw_only=True)
class _Search:
    """One pass over the sources, collecting what they hold and why they did not answer."""

    scope: str
    environ: Mapping[str, str]
    fetch: Fetch | None
    dbutils: Any = None
    values: dict[str, Secret] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def look_for(self, key: str) -> None:
        for source, read in (
            ("environment", self._from_environment),
            ("dbutils", self._from_dbutils),
            ("secrets API", self._from_api),
        ):
            value = read(key)
            # A mocked dbutils may return anything; and a trailing newline is the commonest fault of a key.
            if isinstance(value, str) and value.strip():
                self.values[key], self.sources[key] = Secret(value.strip()), source
                return

    def _from_environment(self, key: str) -> str | None:
        return self.environ.get(VARIABLES[key])

    def _from_dbutils(self, key: str) -> Any:
        if self.dbutils is None:
            return None
        try:
            return self.dbutils.secrets.get(scope=self.scope, key=key)
        except Exception as error:  # noqa: BLE001 - py4j, gRPC and REST flavours raise unrelated classes
            self.problems.append(f"dbutils: {type(error).__name__}")
            return None

    def _from_api(self, key: str) -> str | None:
        if self.fetch is None:
            return None
        try:
            return self.fetch(self.scope, key)
        except NotFound:
            return None
        except RlmError as error:
            self.problems.append(f"secrets API: {error}")
            self.fetch = None  # no network or no right: the other keys would fail alike, after as long a wait
            return None

    def find_dbutils(self, spark: Any) -> Any:
        """The notebook's ``dbutils``, or one made from ``spark``, or None away from Databricks."""
        try:
            ipython = sys.modules.get("IPython")
            shell = ipython.get_ipython() if ipython else None
            if shell is not None and "dbutils" in shell.user_ns:
                return shell.user_ns["dbutils"]
            if spark is None and "DATABRICKS_RUNTIME_VERSION" not in self.environ:
                return None
            from pyspark.dbutils import DBUtils

            return DBUtils(spark)
        except ImportError:
            return None  # an open-source pyspark has no dbutils
        except Exception as error:  # noqa: BLE001 - recorded: a broken dbutils must not hide the other sources
            self.problems.append(f"dbutils: {type(error).__name__}")
            return None
