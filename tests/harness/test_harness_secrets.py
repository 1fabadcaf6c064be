"""Secrets are masked in whatever form they are written, and from the moment that a program is handed them."""

from __future__ import annotations

import base64
import json
import re
import sys
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from harness_support import Bench, Ended
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent import logs
from databricks_rlm_agent.secrets import Secret
from executor_harness.handed_out import HandedOut
from executor_harness.redaction import Redactor, StreamRedactor, secrets_of

CANARY = "Kä\"n\\ar/y+7 '&=%-0123"
SHAPES = [
    CANARY,
    "dapi0123456789abcdef",
    "a/b+c/d=e?f&g~h",
    "pass word with spaces",
    "\u00fcml\u00e4ut\u00df!",
]


def written(secret: str) -> dict[str, str]:
    """The secret as programs write it."""
    data = secret.encode()
    found = {
        "plain": secret,
        "json": json.dumps({"key": secret}),
        "json in json": json.dumps(json.dumps([secret])),
        "json, not ascii": json.dumps(secret, ensure_ascii=False),
        "repr": repr([secret]),
        "repr of bytes": repr(data),
        "url": urllib.parse.urlencode({"password": secret}),
        "url path": urllib.parse.quote(secret),
        "url component": re.sub("%..", lambda one: one.group().lower(), urllib.parse.quote(secret, safe="")),
        "hex": data.hex(),
        "HEX": data.hex().upper(),
    }
    for before in range(3):
        whole = b"-" * before + data + b"-" * 4
        found[f"base64, {before}"] = base64.b64encode(whole).decode()
        found[f"base64, urlsafe, {before}"] = base64.urlsafe_b64encode(whole).decode()
    return found


def core(secret: str, text: str) -> str:
    """What must not be left of a written form: its middle, which no encoding of the neighbours changes."""
    return text[len(text) // 3 : 2 * len(text) // 3]


@pytest.mark.fault("B5")
@pytest.mark.parametrize("secret", SHAPES)
def test_every_form_of_a_secret_is_masked_in_texts_streams_and_log_lines(secret: str) -> None:
    redactor = Redactor([secret])
    for name, text in written(secret).items():
        masked = redactor.text(f"<{text}>")
        assert "***" in masked, name
        assert core(secret, text) not in masked, (name, masked)
        stream = StreamRedactor(redactor)
        parts = [stream.feed(bytes([one])) for one in f"<{text}>".encode()]
        assert b"".join([*parts, stream.flush()]).decode() == masked, name
    logs.hide(Secret(secret))
    assert all(core(secret, text) not in logs.masked(text) for text in written(secret).values())


@pytest.mark.fault("B5")
@given(st.text(min_size=8, max_size=40), st.binary(max_size=7), st.binary(max_size=7))
def test_base64_of_a_longer_text_is_masked(secret: str, before: bytes, after: bytes) -> None:
    data = secret.encode("utf-8", "surrogatepass")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(before + data + after).decode()
        masked = Redactor([secret]).text(text)
        assert masked.count("***") >= 1
        # At most the characters that neighbouring bytes have a part in are left, and the padding.
        assert len(masked.replace("***", "")) <= len(text) - 8 * len(data) // 6 + 3


@pytest.mark.fault("B5")
def test_ordinary_words_are_not_masked() -> None:
    redactor = Redactor(["hunt", "secret12"])
    text = "the hunter's aHVudA== %68unt"
    assert redactor.text(text) == "the ***er's aHVudA== %68unt", "a short one only as it is"
    redactor.add("abc")
    assert redactor.text("abc") == "abc"
    names = {"GIT_AUTHOR_NAME": "Ada Lovelace", "TOKENIZERS": "parallel", "MY_TOKEN": "x1"}
    assert secrets_of({**names, "SSH_AUTH_SOCK": str(Path(__file__))}) == ()
    urls = {"SPARK_REMOTE": "sc://h:1/;token=0123456789;user_id=me", "DB": "postgres://me:pass-word@host/db"}
    assert secrets_of(urls) == ("0123456789", "pass-word")


@pytest.mark.fault("B5")
def test_each_line_of_a_private_key_is_masked() -> None:
    key = "-----BEGIN PRIVATE KEY-----\n" + "\n".join("MIIEvQ" + c * 58 for c in "abc") + "\n-----END-----\n"
    redactor = Redactor()
    redactor.add(key)
    assert "MIIEvQ" not in "".join(redactor.text(f"  {line}") for line in key.splitlines())
    assert redactor.text(json.dumps(key.strip())) == '"***"'


class Vault(BaseHTTPRequestHandler):
    """Answers the Secrets API, a call for a token, and anything else."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/api/2.0/secrets/get":
            key = urllib.parse.parse_qs(query)["key"][0]
            document = {"key": key, "value": base64.b64encode(f"{CANARY}{key}".encode()).decode()}
        else:
            document = {"access_token": "eyJ-a-token-that-was-made-just-now", "token_type": "Bearer"}
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815 -- the name is the base class's

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def vault() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Vault)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def assert_nothing_leaked(ended: Ended, *secrets: str) -> None:
    everything = [ended.out, ended.err, *(path.read_text() for path in ended.folder.glob("*.[jt]*"))]
    for secret in secrets:
        for name, text in written(secret).items():
            assert not any(core(secret, text) in one for one in everything), (name, everything)


ASKS = {
    "the SDK": "key = base64.b64decode(w.secrets.get_secret('s', 'k').value).decode()",
    "the SDK's dbutils": "key = w.dbutils.secrets.get('s', 'k')",
    "bytes of the SDK's dbutils": "key = w.dbutils.secrets.getBytes('s', 'k').decode()",
    "the SDK's plain call": (
        "a = w.api_client.do('GET', '/api/2.0/secrets/get', query={'scope': 's', 'key': 'k'})\n"
        "key = base64.b64decode(a['value']).decode()"
    ),
    "requests": (
        "import requests\na = requests.get(host + '/api/2.0/secrets/get?scope=s&key=k', stream=True).json()\n"
        "key = base64.b64decode(a['value']).decode()"
    ),
    "urllib": (
        "from urllib.request import urlopen\n"
        "a = json.load(urlopen(host + '/api/2.0/secrets/get?scope=s&key=k'))\n"
        "key = base64.b64decode(a['value']).decode()"
    ),
    "a forked process": (
        "r, w_ = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.write(w_, w.dbutils.secrets.get('s', 'k').encode())\n    os._exit(0)\n"
        "os.wait()\nkey = os.read(r, 1000).decode()"
    ),
}


@pytest.mark.fault("B3")
@pytest.mark.parametrize("ask", ASKS)
def test_a_secret_that_the_program_fetched_is_masked_everywhere(bench: Bench, vault: str, ask: str) -> None:
    ended = bench.run(
        "import base64, json, os, sys, time\nfrom databricks.sdk import WorkspaceClient\n"
        f"host = {vault!r}\nw = WorkspaceClient(host=host, token='t')\n"
        f"{ASKS[ask]}\n"
        f"assert key == {CANARY + 'k'!r}\nimport hashlib, re\n"
        "print(key); print([key]); print(json.dumps(key)); print(base64.b64encode(key.encode()).decode())\n"
        "print(key.encode().hex())\n"
        "half = len(key) // 2\n"
        "sys.stdout.write(key[:half]); sys.stdout.flush(); time.sleep(0.05); print(key[half:])\n"
        "os.system('echo ' + base64.b64encode(b'--' + key.encode()).decode())\n"
        "print('x' * 3_990 + key)\nprint(key, file=sys.stderr)\n"
        "rlm.log('x' * 990 + key); rlm.log(key); rlm.metric(key, 1); rlm.finish({'k': [key, {key: 1}]})\n"
        "try:\n    rlm.vars['k'] = {'a': key}\nexcept ValueError as e:\n    print(e)\n"
        "raise ValueError('y' * 1_950 + key)\n"
    )
    assert ended.report["error_type"] == "ValueError", ended.err
    if "fork" not in ask:
        assert "holds one of the job's secrets" in (ended.folder / "stdout.txt").read_text()
    assert ended.report["value"] == {"k": ["***", {"***": 1}]}
    assert_nothing_leaked(ended, CANARY + "k")


@pytest.mark.fault("B3")
def test_the_dbutils_of_a_kernel_is_watched_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Base:
        def get(self, scope: str, key: str) -> str:
            return f"{CANARY}{scope}{key}"

    class Secrets(Base):
        def getBytes(self, scope: str, key: str) -> bytes:  # noqa: N802 -- its name there
            return b"\xff\xfe" + self.get(scope, key).encode()

    before = (Base.get, Secrets.getBytes)
    dbutils = SimpleNamespace(secrets=Secrets())
    kernel = SimpleNamespace(user_ns={"dbutils": dbutils})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    redactor = Redactor()
    watch = HandedOut(redactor.add)
    watch.install()
    assert redactor.text(dbutils.secrets.get("s", key="k")) == "***"
    value = dbutils.secrets.getBytes("s", "bytes")
    assert redactor.text(repr(value)) == "b'***'"
    assert redactor.text(base64.b64encode(value).decode()).startswith("***")
    watch.remove()
    assert (Base.get, Secrets.getBytes) == before
    assert watch not in sys.meta_path


@pytest.mark.fault("B3")
def test_dbutils_of_a_runtime_and_tokens_are_masked(bench: Bench, vault: str) -> None:
    package = bench.local("/Volumes/main/rlm/work/company_codebase/dbruntime")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "dbutils.py").write_text(
        "class DBUtils:\n    class SecretsHandler:\n"
        f"        def get(self, scope, key):\n            return {CANARY!r}\n"
        "        def listScopes(self):\n            return []\n"
        "    def __init__(self):\n        self.secrets = DBUtils.SecretsHandler()\n"
    )
    ended = bench.run(
        "from dbruntime.dbutils import DBUtils\nimport requests\n"
        "print(DBUtils().secrets.get('s', key='k'))\n"
        f"print(requests.post({vault!r} + '/oidc/v1/token').json())\n"
        f"requests.get({vault!r}, headers={{'Authorization': 'Bearer ' + 'made-by-' + 'somebody-else'}})\n"
        "print('made-by-' + 'somebody-else', 'Bearer')\n"
    )
    assert ended.code == 0, ended.err
    assert ended.out == "***\n{'access_token': '***', 'token_type': 'Bearer'}\n*** Bearer\n"
