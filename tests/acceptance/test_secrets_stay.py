"""Plant secrets everywhere, have a program print all it can see, and search every byte that is left."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from acceptance_support import CANARY, finish, program

KEYS = {
    "GOOGLE_API_KEY": f"{CANARY}-google",
    "OPENAI_API_KEY": f"{CANARY}-openai",
    "ANTHROPIC_API_KEY": f"{CANARY}-anthropic",
}
# In plain words the policy would refuse them: what is tested here is the wall behind it.
NOSY = """
import os, sys
seen = vars(os)["environ"]
for name, value in seen.items():
    print(name, value)
    print(name, value, file=sys.stderr)
import base64, importlib, json
vault = getattr(importlib.import_module("databricks.sdk.runtime"), "dbutils")
stored = getattr(vault, "secrets").get("adk-secrets", "google-api-key")
assert len(stored) > 20
for secret in (stored, seen["DATABRICKS_TOKEN"]):
    data = secret.encode()
    forms = [secret, json.dumps({"a": secret}), data.hex(), data.hex().upper()]
    forms += [base64.b64encode(b"-" * before + data).decode() for before in range(3)]
    for form in forms:
        print(form)
        print(form, file=sys.stderr)
        rlm.log(form)
rlm.finish({"all": dict(seen), "stored": [stored, forms]})
"""
RAISES = "import os\nraise ValueError('the token is ' + vars(os)['environ']['DATABRICKS_TOKEN'])"
# The workspace's own keeping of its token: what a real workspace holds on its side of the wire.
OWN = (".workspace/token", ".workspace/server.json")


@pytest.fixture(scope="module")
def scope(serving) -> None:
    from databricks.sdk import WorkspaceClient

    client = WorkspaceClient(host=serving.host, token=serving.token)
    client.secrets.create_scope("adk-secrets")
    client.secrets.put_secret("adk-secrets", "google-api-key", string_value=f"{CANARY}-stored")


@pytest.fixture
def said(here, serving, script, scope) -> str:
    """All that the commands print while programs try to give secrets away."""
    model = script([program(NOSY)], [program(RAISES)], [finish("It was {{value.all}}.")], [finish()])
    environment = serving.environment | KEYS
    outputs = []
    for arguments in (
        ("run", "Tell me everything", "--run-id", "nosy", "--model", model, "--json", "--verbose"),
        ("show", "nosy"),
        ("show", "nosy", "--json"),
        ("logs", "nosy", "--iteration", "1"),
        ("logs", "nosy", "--iteration", "1", "--stderr"),
        ("doctor", "--model", model),
        ("secrets", "check", "--model", "gemini-2.5-pro"),
        ("secrets", "check", "--model", "gemini-2.5-pro", "--json"),
    ):
        done = here(*arguments, env=environment)
        outputs += [done.out, done.err]
    environment.pop("GOOGLE_API_KEY")
    found = here("secrets", "check", "--model", "gemini-2.5-pro", "--json", env=environment)
    assert found.document["found"]["google-api-key"] == "secrets API"
    return "\n".join([*outputs, found.out, found.err])


def encoded(secret: str) -> list[bytes]:
    """The secret as it must stand nowhere; of base64 without what neighbouring bytes have a part in."""
    data = secret.encode()
    found = [data, data.hex().encode(), data.hex().upper().encode()]
    return found + [base64.b64encode(b"-" * before + data)[4:-4] for before in range(3)]


@pytest.mark.fault("B3")
@pytest.mark.fault("B5")
def test_no_secret_is_anywhere(said: str, serving) -> None:
    shown = [form for secret in (CANARY, serving.token) for form in encoded(secret) if form in said.encode()]
    assert not shown
    assert "***" in said  # the programs did print them
    (result,) = serving.root.rglob("run_nosy/iter_1/result.json")
    assert json.loads(result.read_bytes())["value"]["stored"][0] == "***"
    for path in serving.root.rglob("*"):
        name = str(path.relative_to(serving.root))
        if path.is_file() and name not in OWN:
            content = path.read_bytes()
            # A workspace keeps the secrets that it was given in its own state, this one in base64.
            forms = encoded(CANARY)[: 1 if name.startswith(".workspace/state.db") else None]
            assert not [form for form in forms if form in content], name
            assert not [form for form in encoded(serving.token) if form in content], name


def test_no_secret_is_in_a_table(said: str, serving) -> None:
    """Data files are compressed, so that a search of their bytes would find nothing: read the rows."""
    from deltalake import DeltaTable

    tables = [log.parent for log in (serving.root / "tables").rglob("_delta_log")]
    assert len(tables) >= 7
    for path in tables:
        text = str(DeltaTable(str(path)).to_pyarrow_table().to_pylist())
        for form in (*encoded(CANARY), *encoded(serving.token)):
            assert form.decode() not in text, Path(path).name
