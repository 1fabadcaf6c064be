"""Secrets of five shapes, from every place they can come from, in every form that programs write.

None is left. A program asks for all of them and prints them, then succeeds, fails or dies. Searched is all
that the commands print, with --debug and --verbose too, every file of the workspace, and every table.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from acceptance_support import finish, program

MARK = "8c1fcanary"
SHAPES = (
    f"dapi{MARK}0123456789abcdef",
    f'quo"te\'d\\{MARK}\\"x',
    f"{MARK}+/slash==",
    f"schlüssel {MARK} ключ",
    f"{MARK}?a=1&b=%20#end",
)
VARIABLES = ("GOOGLE_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY")
OWN = (".workspace/token", ".workspace/server.json", ".workspace/state.db")

# How programs come by secrets and what they make of them. The policy refuses the plain way to write it; what
# is tested here is the wall behind it.
NOSY = """
import base64, json, os, sys
from urllib.parse import quote, quote_plus
from databricks.sdk import WorkspaceClient
from databricks.sdk.runtime import dbutils
names = [f"k{n}" for n in range(5)]
asked = getattr(dbutils, "sec" + "rets")
client = getattr(WorkspaceClient(), "sec" + "rets")
found = [asked.get("canaries", name) for name in names[:3]]
found += [base64.b64decode(client.get_secret("canaries", name).value).decode() for name in names[2:]]
found += [value for name, value in vars(os)["environ"].items() if "TOKEN" in name]
assert len(found) >= 6
def forms(text):
    data = text.encode()
    yield from (text, json.dumps(text), repr(text), repr(data))
    yield from (quote(text), quote(text, safe=""), quote_plus(text))
    yield from (data.hex(), data.hex().upper())
    for before in (b"", b"x", b"xy"):
        yield base64.b64encode(before + data).decode()
        yield base64.urlsafe_b64encode(before + data).decode()
every = [form for text in found for form in forms(text)]
for form in every:
    print(form)
    print(form, file=sys.stderr)
    rlm.log("seen: " + form)
"""
SUCCEEDS = NOSY + "rlm.metric('n', len(every))\nrlm.finish({'all': every, found[0]: 1})\n"
FAILS = NOSY + "raise ValueError(' '.join(every))\n"
DIES = NOSY + "sys.stdout.flush(); os.kill(os.getpid(), 9)\n"
LEAVES = NOSY + "sys.stdout.flush(); os._exit(3)\n"


def encoded(secret: str) -> set[bytes]:
    """The forms of a secret that must not be found, made apart from what masks them."""
    data = secret.encode()
    texts = {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
    }
    texts |= {quote(secret), quote(secret, safe=""), quote_plus(secret), data.hex(), data.hex().upper()}
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + data).decode()
        # Without the characters at the ends, in which other bytes have a part.
        inner = coded[4 if before else 0 : len(data) * 4 // 3 - 4]
        texts |= {inner, inner.replace("+", "-").replace("/", "_")}
    return {text.encode() for text in texts}


@pytest.fixture(scope="module")
def secrets(serving) -> Iterator[dict[str, set[bytes]]]:
    from databricks.sdk import WorkspaceClient

    client = WorkspaceClient(host=serving.host, token=serving.token)
    client.secrets.create_scope("canaries")
    for number, value in enumerate(SHAPES):
        client.secrets.put_secret("canaries", f"k{number}", string_value=value)
    keys = {f"{value}-{name}" for name, value in zip(VARIABLES, SHAPES, strict=False)}
    yield {secret: encoded(secret) for secret in {*SHAPES, *keys, serving.token}}
    client.secrets.delete_scope("canaries")


def search(content: bytes, secrets: dict[str, set[bytes]]) -> list[str]:
    return [repr(form) for forms in secrets.values() for form in forms if form in content]


@pytest.mark.fault("B3")
@pytest.mark.fault("B5")
@pytest.mark.parametrize(
    ("name", "code"), [("success", SUCCEEDS), ("failure", FAILS), ("kill", DIES), ("exit", LEAVES)]
)
def test_no_form_of_a_secret_is_left(here, serving, script, secrets, name: str, code: str) -> None:
    keys = {variable: f"{value}-{variable}" for variable, value in zip(VARIABLES, SHAPES, strict=False)}
    model = script([program(code)], [finish("It was {{value}}.")], [finish("Nothing was kept.")])
    environment = serving.environment | keys
    arguments = ("run", "Tell me everything", "--run-id", name, "--model", model, "--max-attempts", "1")
    printed = []
    for words in (
        (*arguments, "--json", "--verbose", "--debug"),
        ("show", name, "--debug"),
        ("show", name, "--json"),
        ("logs", name, "--iteration", "1", "--debug"),
        ("logs", name, "--iteration", "1", "--stderr"),
        ("doctor", "--model", model, "--debug"),
    ):
        done = here(*words, env=environment)
        printed.append(done.out + done.err)
    text = "\n".join(printed)
    (ended,) = json.loads(printed[2])["results"]
    assert ended["status"] == ("SUCCESS" if name == "success" else "FAILED"), ended
    assert printed[3].count("***") > 100  # it did print them
    assert search(text.encode(), secrets) == []
    for path in serving.root.rglob("*"):
        place = str(path.relative_to(serving.root))
        if path.is_file() and not place.startswith(OWN):
            assert search(path.read_bytes(), secrets) == [], place
    from deltalake import DeltaTable

    for log in (serving.root / "tables").rglob("_delta_log"):
        rows = DeltaTable(str(log.parent)).to_pyarrow_table().to_pylist()
        assert search(str(rows).encode(), secrets) == [], Path(log.parent).name
        assert search(json.dumps(rows, default=str).encode(), secrets) == [], Path(log.parent).name
