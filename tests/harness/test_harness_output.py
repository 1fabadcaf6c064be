"""Output of any size and kind is recorded within bounds, with secrets masked."""

from __future__ import annotations

from harness_support import Bench
from hypothesis import given
from hypothesis import strategies as st

from executor_harness.redaction import Redactor, StreamRedactor, secrets_of
from executor_harness.watcher import HeadAndTail, previews


def test_200_megabytes(bench: Bench) -> None:
    ended = bench.run(
        "import sys\nprint('first')\nblock = 'x' * 1_048_575 + '\\n'\n"
        "for _ in range(200): sys.stdout.write(block)\nprint('last')\n",
        limits={"stdout_bytes": 100_000},
    )
    assert ended.code == 0, ended.err
    stream = ended.report["stdout"]
    assert stream["bytes"] == 200 * 1_048_576 + 11
    assert stream["truncated"]
    assert stream["head"].startswith("first\nxxx")
    assert stream["tail"].endswith("xxx\nlast\n")
    assert (len(stream["head"]), len(stream["tail"])) == (4000, 4000)
    text = (ended.folder / "stdout.txt").read_text()
    left_out = stream["bytes"] - 100_000
    assert f"[... {left_out} bytes left out ...]" in text
    assert 100_000 < len(text) < 100_100
    assert 1_048_576 + 65_536 < len(ended.out) < 1_048_576 + 65_636
    assert ended.out.endswith("last\n")


def test_children_native_code_and_broken_utf8(bench: Bench) -> None:
    ended = bench.run(
        "import os, subprocess, ctypes, sys\n"
        "os.write(1, b'\\xff\\xfe\\n')\nsubprocess.run(['echo', 'child'])\n"
        "libc = ctypes.CDLL(None)\nlibc.puts(b'native')\nlibc.fflush(None)\nprint('\\udcff')\n"
    )
    assert ended.code == 0, ended.err
    assert (ended.folder / "stdout.txt").read_bytes() == b"\xff\xfe\nchild\nnative\n\\udcff\n"
    assert ended.report["stdout"]["head"] == "\ufffd\ufffd\nchild\nnative\n\\udcff\n"


def test_secrets_are_masked_everywhere(bench: Bench) -> None:
    bench.env = {"DATABRICKS_TOKEN": "dapi-0123456789", "OPENAI_API_KEY": "sk-aaaabbbb"}
    ended = bench.run(
        "import os, sys, time\nt = os.environ['DATABRICKS_TOKEN']\nprint(t)\n"
        "print(os.environ['OPENAI_API_KEY'])\n"
        "sys.stdout.write(t[:7]); sys.stdout.flush(); time.sleep(0.05); print(t[7:])\n"
        "rlm.log(t)\nrlm.metric(t, 1)\nrlm.finish({t: [t]})\nraise ValueError('bad ' + t)\n"
    )
    everything = [ended.out, ended.err, *(path.read_text() for path in ended.folder.iterdir())]
    assert not any("dapi-0123456789" in text or "sk-aaaabbbb" in text for text in everything)
    assert (ended.folder / "stdout.txt").read_text() == "***\n***\n***\n" == ended.out
    assert ended.report["value"] == {"***": ["***"]}


def test_which_variables_are_secret() -> None:
    env = {
        "MY_TOKEN": "x" * 8,
        "db_password": "y" * 9,
        "S3_SECRET": "short",
        "HOME": "/home/somebody",
        "ADK_SECRET_SCOPE": "adk-secrets",
    }
    assert secrets_of(env) == ("y" * 9, "x" * 8)


alphabet = st.text("ab", min_size=1, max_size=5)


@given(st.lists(alphabet, min_size=1, max_size=4), st.lists(st.text("abc", max_size=8), max_size=8))
def test_redaction_does_not_depend_on_chunks(secrets: list[str], chunks: list[str]) -> None:
    redactor = StreamRedactor(Redactor(secrets))
    got = b"".join([redactor.feed(chunk.encode()) for chunk in chunks] + [redactor.flush()])
    assert got.decode() == Redactor(secrets).text("".join(chunks))


@given(st.integers(0, 20), st.integers(0, 20), st.lists(st.binary(max_size=12), max_size=20))
def test_keep_is_head_and_tail(head: int, tail: int, chunks: list[bytes]) -> None:
    keep = HeadAndTail(head, tail)
    for chunk in chunks:
        keep.feed(chunk)
    whole = b"".join(chunks)
    assert keep.total == len(whole)
    assert keep.head == whole[:head]
    rest = whole[head:]
    assert keep.tail == (rest[-tail:] if tail else b"")
    assert keep.left_out == len(rest) - len(keep.tail)
    if not keep.left_out:
        assert keep.joined() == whole


@given(st.text(max_size=50), st.integers(0, 9000), st.integers(0, 60000))
def test_previews_are_the_ends_of_the_text(seed: str, repeat: int, cut: int) -> None:
    text = seed * repeat if len(seed) * repeat < 100_000 else seed
    data = text.encode("utf-8", "replace")
    text = data.decode()
    head, tail = previews(data[:cut], data[cut:], gap=False)
    assert head == text[:4000]
    assert tail == text[4000:][-4000:]
