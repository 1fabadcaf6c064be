"""The handles of `rlm.inputs`: files, folders, tables and answers; by themselves and in the real process."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_support import VOLUME, Bench, create_schema

from executor_harness import protocol
from executor_harness.rlm.inputs import File, Folder, Inputs
from executor_harness.volumes import Volumes


def no_engine() -> Any:
    raise AssertionError("no Spark here")


@pytest.fixture
def inputs(tmp_path: Path) -> Callable[..., Inputs]:
    def make(session: Callable[[], Any] = no_engine, **given: protocol.Input) -> Inputs:
        return Inputs(given, Volumes(root=str(tmp_path)), session)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "main" / "rlm" / "work" / "docs"
    (root / "b" / "c").mkdir(parents=True)
    (root / "a.txt").write_text("one needle\n")
    (root / "b" / "one.csv").write_text("x,y\n1,2\n")
    (root / "b" / "c" / "z.txt").write_text("no\nneedle needle\n")
    return root


def test_a_folder(inputs: Callable[..., Inputs], folder: Path) -> None:
    docs: Folder = inputs(docs={"kind": "folder", "path": f"{VOLUME}/docs/"})["docs"]
    assert docs.path == str(folder)
    assert [file.path[len(docs.path) + 1 :] for file in docs] == ["a.txt", "b/one.csv", "b/c/z.txt"]
    assert len(docs) == 3
    assert bool(docs)
    assert [Path(file.path).name for file in docs.files("*.txt")] == ["a.txt", "z.txt"]
    assert [Path(file.path).name for file in docs.files("b/*")] == ["one.csv", "z.txt"]
    found = list(docs.grep("needle"))
    assert [(Path(m.path).name, m.line, m.start) for m in found] == [
        ("a.txt", 1, 4), ("z.txt", 2, 3), ("z.txt", 2, 10)
    ]  # fmt: skip
    assert list(docs.grep("NEEDLE", ignore_case=True, limit=2)) == found[:2]
    assert list(docs.grep("needle", files="a*")) == found[:1]
    (folder / "later.txt").write_text("")
    assert len(docs) == 4


def test_what_is_missing_is_named(inputs: Callable[..., Inputs], folder: Path) -> None:
    some = inputs(
        gone={"kind": "file", "path": f"{VOLUME}/gone.txt"},
        nowhere={"kind": "folder", "path": f"{VOLUME}/nowhere"},
        docs={"kind": "file", "path": f"{VOLUME}/docs"},
        a={"kind": "folder", "path": f"{VOLUME}/docs/a.txt"},
        child={"kind": "answer", "path": f"{VOLUME}/child.json"},
    )
    calls: list[tuple[Callable[[], Any], str]] = [
        (some["gone"].text, "input 'gone': .*gone.txt is not there"),
        (lambda: some["gone"].size, "input 'gone'"),
        (lambda: len(some["gone"]), "input 'gone'"),
        (lambda: list(some["gone"].lines()), "input 'gone'"),
        (some["docs"].json, "input 'docs': .* is a folder, not a file"),
        (lambda: len(some["nowhere"]), "input 'nowhere': .* is not there"),
        (lambda: some["a"].files(), "input 'a': .* is a file, not a folder"),
        (some["child"].text, "input 'child': .* is not there"),
    ]
    for call, said in calls:
        with pytest.raises(FileNotFoundError, match=said):
            call()
    with pytest.raises(KeyError, match="no input 'x'; the inputs of this run: a, child, docs, gone, nowhere"):
        _ = some["x"]


def test_json_and_bytes(inputs: Callable[..., Inputs], tmp_path: Path) -> None:
    path = tmp_path / "main" / "rlm" / "x.json"
    path.parent.mkdir(parents=True)
    file: File = inputs(x={"kind": "file", "path": "/Volumes/main/rlm/x.json"})["x"]
    path.write_bytes(b'{"a": [1, "\xc3\xa4"]}')
    assert file.json() == {"a": [1, "ä"]}
    assert file.size == 16
    with file.open("rb") as binary, file.open() as text:
        assert binary.read().decode() == text.read()
    path.write_bytes(b"{")
    with pytest.raises(ValueError, match="input 'x' is not a JSON document"):
        file.json()


def test_an_answer(inputs: Callable[..., Inputs], tmp_path: Path) -> None:
    path = tmp_path / "main" / "rlm" / "answer.json"
    child = inputs(c={"kind": "answer", "path": "/Volumes/main/rlm/answer.json"})["c"]
    path.parent.mkdir(parents=True)
    path.write_text('{"run_id": "c1"}')
    with pytest.raises(ValueError, match=r"input 'c': .* is no child's answer: .*'answer'"):
        child.text()
    document = {
        "run_id": "c1", "state": "FAILED", "answer": None, "evidence": None, "reason": "spent", "value": [1]
    }  # fmt: skip
    path.write_text(json.dumps(document))
    assert (child.text(), child.value, child.state, child.evidence, child.reason, child.run_id) == (
        "", [1], "FAILED", None, "spent", "c1"
    )  # fmt: skip


@pytest.fixture(scope="module")
def spark(sail: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from pyspark.sql.connect.session import SparkSession

    session = SparkSession.builder.remote(f"{sail};session_id={uuid.uuid4()}").create()
    create_schema(session, "main.nyc", tmp_path_factory.mktemp("nyc"))
    session.sql("CREATE TABLE main.nyc.flights USING delta AS SELECT 1 AS id, 'a' AS `name`").collect()
    yield session
    session.client.close()


def test_a_table(inputs: Callable[..., Inputs], spark: Any) -> None:
    some = inputs(
        lambda: spark,
        flights={"kind": "table", "name": "main.nyc.flights"},
        gone={"kind": "table", "name": "main.nyc.gone"},
    )
    flights = some["flights"]
    assert (flights.name, flights.columns, flights.count()) == ("main.nyc.flights", ["id", "name"], 1)
    assert [row.asDict() for row in flights.df().collect()] == [{"id": 1, "name": "a"}]
    for use in (some["gone"].df, some["gone"].count, lambda: some["gone"].columns):
        with pytest.raises(LookupError, match=r"input 'gone': table main.nyc.gone cannot be read: .*gone"):
            use()


def test_files_as_data_frames(spark: Any, tmp_path: Path) -> None:
    contents: dict[str, bytes] = {
        "a.csv": b"id,name\n1,x\n2,y\n",
        "b.TSV": b"id\tname\n1,5\tx\n",
        "c.jsonl": b'{"id": 1}\n{"id": 2}\n',
        "d.json": b'{"id": 1}\n{"id": 2}\n',
        "e.txt": b"one\ntwo\n",
        "f.csv.gz": gzip.compress(b"id\n7\n"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    spark.range(3).coalesce(1).write.parquet(str(tmp_path / "g.parquet"))

    def rows(name: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in File(path=str(tmp_path / name), _session=lambda: spark).df().collect()]

    assert rows("a.csv") == [(1, "x"), (2, "y")]
    assert rows("b.TSV") == [("1,5", "x")]
    assert rows("c.jsonl") == rows("d.json") == [(1,), (2,)]
    assert rows("e.txt") == [("one",), ("two",)]
    assert rows("f.csv.gz") == [(7,)]
    part = next((tmp_path / "g.parquet").glob("*.parquet"))
    assert len(rows(f"g.parquet/{part.name}")) == 3
    (tmp_path / "h.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"input 'h': no reader for h.bin .known: .avro, "):
        File(path=str(tmp_path / "h.bin"), _label="input 'h'", _session=lambda: spark).df()


def test_whether_json_is_lines(tmp_path: Path) -> None:
    from executor_harness.rlm.inputs import _is_json_lines

    path = tmp_path / "x.json"
    for content, lines in (
        ('{"a": 1}\n{"a": 2}', True),
        ('{"a": "' + "x" * 200_000 + '"}\n{}', True),
        ('[{"a": 1},\n{"a": 2}]', False),
        ('{\n"a": 1}', False),
        ("[1]\n[2]", True),
        ("[1, 2]", False),
    ):
        path.write_text(content)
        assert _is_json_lines(path) is lines, content[:20]


def test_in_the_real_process(bench: Bench) -> None:
    docs = bench.local(f"{VOLUME}/docs")
    docs.mkdir(parents=True)
    (docs / "long.txt").write_bytes("ä\r\nfind me\r\n".encode() * 1000)
    ended = bench.run(
        "long, question = rlm.inputs['long'], rlm.inputs['question']\n"
        "rlm.finish([len(long), long[2:11], len(list(long.lines())), [m.line for m in long.grep('me', "
        "limit=2)],\n"
        "  len(rlm.inputs['docs']), question.head(3), question[1:3], list(question.lines()), "
        "repr(rlm.inputs)])",
        inputs={
            "long": {"kind": "file", "path": f"{VOLUME}/docs/long.txt"},
            "docs": {"kind": "folder", "path": f"{VOLUME}/docs"},
            "question": {"kind": "text", "text": "why\nso?"},
        },
    )
    assert ended.report["value"] == [
        12_000, "\nfind me\r", 2000, [2, 4], 1, "why", "hy", ["why", "so?"],
        "Inputs(long: File, docs: Folder, question: Text)",
    ], ended.err  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"a": {"kind": "file", "path": "/etc/passwd"}}},
        {"inputs": {"a": {"kind": "folder", "path": "/Volumes/a/../b"}}},
        {"inputs": {"a": {"kind": "answer"}}},
        {"inputs": []},
        {"codebase_dir": "/etc"},
        {"timeout_s": "soon"},
    ],
)
def test_a_request_that_cannot_be_used_is_refused_in_words(bench: Bench, change: dict[str, Any]) -> None:
    ended = bench.run("rlm.finish(1)", **change)
    assert (ended.code, ended.report["error_type"]) == (1, "ManifestMismatch")
    assert "Traceback" not in ended.err


def test_a_request_of_defaults_is_accepted(bench: Bench) -> None:
    ended = bench.run("rlm.finish(1)", models=None, variables=None, scratch_schema="", spawn={})
    assert ended.code == 0, ended.err


def test_a_full_request_is_accepted(bench: Bench) -> None:
    models: protocol.ModelAccess = {
        "endpoint": "m", "concurrency": 4, "per_minute": None, "timeout_s": 60, "max_reply_tokens": 100,
        "prices": {"m": {"input_usd": 1, "output_usd": 0.5}},
        "allowance": {"calls": 0, "tokens": 10, "cost_usd": None}, "calls_table": "main.rlm.model_calls",
    }  # fmt: skip
    ended = bench.run(
        "rlm.finish(1)",
        models=models,
        variables=None,
        scratch_schema="main.rlm_scratch",
        spawn={"max_children": 2},
    )
    assert ended.code == 0, ended.err
