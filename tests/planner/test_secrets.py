from __future__ import annotations

import copy
import json
import logging
import pickle
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

import pytest

from databricks_rlm_agent.errors import ConfigError, SecretsMissing, Unauthorized
from databricks_rlm_agent.models import parse_models, required_secrets
from databricks_rlm_agent.secrets import Secret, find_secrets, load_secrets, redact

CANARY = "sk-canary-0123456789"


class FakeDbutils:
    """Secrets of one scope; anything else raises, as Databricks' own does, with a class of its own."""

    def __init__(self, **values: Any) -> None:
        self.values = {key.replace("_", "-"): value for key, value in values.items()}
        self.secrets = self
        self.asked: list[tuple[str, str]] = []

    def get(self, scope: str, key: str) -> Any:
        self.asked.append((scope, key))
        return self.values[key]


def test_the_environment_comes_first() -> None:
    environ = {"GOOGLE_API_KEY": CANARY}
    dbutils = FakeDbutils(google_api_key="other", openai_api_key=" sk-2\n")
    loaded = load_secrets(environ=environ, dbutils=dbutils)
    assert loaded.sources == {"google-api-key": "environment", "openai-api-key": "dbutils"}
    assert loaded.values["google-api-key"].reveal() == CANARY
    assert environ == {"GOOGLE_API_KEY": CANARY, "OPENAI_API_KEY": "sk-2"}
    assert ("adk-secrets", "google-api-key") not in dbutils.asked


def test_the_secrets_api_comes_last() -> None:
    asked: list[tuple[str, str]] = []

    def fetch(scope: str, key: str) -> str | None:
        asked.append((scope, key))
        return {"google-api-key": "g", "databricks-token": "t"}.get(key)

    environ = {"ADK_SECRET_SCOPE": "mine"}
    loaded = load_secrets(environ=environ, dbutils=FakeDbutils(google_api_key="d"), fetch=fetch)
    assert loaded.sources == {"google-api-key": "dbutils", "databricks-token": "secrets API"}
    assert {scope for scope, _ in asked} == {"mine"}
    assert environ["DATABRICKS_TOKEN"] == "t"


def test_it_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABRICKS_RUNTIME_VERSION", "RLM_MODEL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOOGLE_API_KEY", CANARY)
    assert load_secrets().values["google-api-key"].reveal() == CANARY
    monkeypatch.delenv("GOOGLE_API_KEY")
    with pytest.raises(SecretsMissing):
        load_secrets()
    with pytest.raises(SecretsMissing):
        load_secrets(object())  # a Spark session, but of an open-source pyspark


def test_one_error_says_all() -> None:
    with pytest.raises(SecretsMissing) as caught:
        load_secrets(environ={}, scope="s1", model="openai/a,anthropic/b", identity="me@example.com")
    message = str(caught.value)
    for part in (
        "openai-api-key (OPENAI_API_KEY)",
        "anthropic-api-key (ANTHROPIC_API_KEY)",
        "'s1'",
        "me@example.com",
    ):
        assert part in message
    assert "databricks secrets put-secret s1 openai-api-key" in message
    assert "google" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("gemini-3.5-flash", ("google-api-key",)),
        ("openai/gpt-x", ("openai-api-key",)),
        ("openai/a, openai/b ,gemini-x", ("openai-api-key", "google-api-key")),
        ("databricks/endpoint", ()),
        ("scripted:a,b.json", ()),
    ],
)
def test_what_a_model_needs(model: str, keys: tuple[str, ...]) -> None:
    assert required_secrets(model) == keys
    if not keys:
        assert load_secrets(environ={"RLM_MODEL": model}).missing == ()


@pytest.mark.parametrize(
    "model", ["", "gpt-4", "openai/", "gemini-", "scripted:", "openai/a,,b", "ollama/x", "gemini/x"]
)
def test_unknown_models(model: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_models(model)
    assert "scripted:FILE" in str(caught.value)


def test_a_raising_dbutils_hides_nothing() -> None:
    class Broken:
        @property
        def secrets(self) -> Any:
            raise RuntimeError(f"java.lang.SecurityException near {CANARY}")

    loaded = find_secrets(
        environ={}, dbutils=Broken(), fetch=lambda _scope, key: "v" if "google" in key else None
    )
    assert loaded.sources == {"google-api-key": "secrets API"}
    assert loaded.problems == ("dbutils: RuntimeError",)
    with pytest.raises(SecretsMissing, match="Tried: dbutils: RuntimeError") as caught:
        load_secrets(environ={}, dbutils=Broken())
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_mock_that_returns_anything_is_no_secret() -> None:
    assert (
        find_secrets(environ={}, dbutils=FakeDbutils(google_api_key=object(), openai_api_key=" ")).values
        == {}
    )


def test_an_unreachable_workspace_is_asked_once() -> None:
    asked: list[str] = []

    def fetch(_scope: str, key: str) -> str | None:
        asked.append(key)
        raise Unauthorized("The token was refused.")

    loaded = find_secrets(environ={}, fetch=fetch)
    assert len(asked) == 1
    assert loaded.missing == ("google-api-key",)
    assert loaded.problems == ("secrets API: The token was refused.",)


def test_dbutils_is_found_on_databricks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("pyspark.dbutils")
    module.DBUtils = lambda _spark: FakeDbutils(google_api_key="from spark")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyspark.dbutils", module)
    assert find_secrets(object(), environ={}).values["google-api-key"].reveal() == "from spark"
    assert find_secrets(environ={"DATABRICKS_RUNTIME_VERSION": "17.3"}).sources == {
        "google-api-key": "dbutils"
    }
    assert find_secrets(environ={}).values == {}

    def broken(_spark: object) -> object:
        raise RuntimeError("no gateway")

    module.DBUtils = broken  # type: ignore[attr-defined]
    assert find_secrets(object(), environ={}).problems == ("dbutils: RuntimeError",)


def test_dbutils_is_found_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = types.SimpleNamespace(user_ns={"dbutils": FakeDbutils(google_api_key="from notebook")})
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    assert find_secrets(environ={}).values["google-api-key"].reveal() == "from notebook"


LEAKS: dict[str, Callable[[Secret], object]] = {
    "str": str,
    "repr": repr,
    "format": lambda secret: f"{secret} {secret!r} {secret:>5}",
    "percent": lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
    "container": lambda secret: str([secret, {"k": secret}]),
    "copy": lambda secret: str(copy.deepcopy([secret])),
    "dir": lambda secret: str(getattr(secret, "__dict__", {})),
}


@pytest.mark.parametrize("way", LEAKS)
def test_a_secret_does_not_show(way: str) -> None:
    try:
        shown = str(LEAKS[way](Secret(CANARY)))
    except TypeError as error:  # refused to be formatted at all
        shown = str(error)
    assert CANARY not in shown


def test_a_secret_does_not_leave(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(CANARY)
    for leave in (pickle.dumps, json.dumps):
        with pytest.raises(TypeError) as caught:
            leave(secret)
        assert CANARY not in str(caught.value)
    with caplog.at_level(logging.DEBUG):
        loaded = load_secrets(environ={"GOOGLE_API_KEY": CANARY})
        logging.getLogger("x").error("%s %r", loaded, loaded.values)
    assert CANARY not in caplog.text + repr(loaded)
    assert redact(f"key {CANARY}!", [secret, Secret("k")]) == "key ***!"
