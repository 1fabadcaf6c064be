from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.controller.input_profile import MAX_INPUTS, NOTE_CHARS, InputProfiler, excerpt
from databricks_rlm_agent.errors import (
    Conflict,
    Forbidden,
    NotFound,
    Rejected,
    RlmError,
    Throttled,
    Unauthorized,
    Unreachable,
)
from databricks_rlm_agent.ports import FileEntry

ROOT = "/Volumes/main/rlm/files"


@dataclass
class Workspace:
    """Catalog, warehouse and Volume in memory; ``error`` is raised by the part that it names."""

    columns: Sequence[tuple[str, str]] = (("carrier", "string"), ("delay", "double"))
    rows: Sequence[Mapping[str, Any]] = ({"n": 1_234, "c0": "AA", "c1": "2.5"},)
    files: dict[str, bytes] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    reads: list[tuple[str, int, int | None]] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    listings: int = 0

    def profiler(self) -> InputProfiler:
        return InputProfiler(volume=self, catalog=self, sql=self)  # type: ignore[arg-type]

    def note(self, **given: Any) -> str:
        note = self.profiler().notes({"x": given})["x"]
        assert 0 < len(note) <= NOTE_CHARS
        assert note.encode()
        assert "\n" not in note
        return note

    def _may(self, what: str) -> None:
        if what in self.errors:
            raise self.errors[what]

    def describe(self, table: str) -> Sequence[tuple[str, str]]:
        self._may("describe")
        return self.columns

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Mapping[str, Any]]:
        self.statements.append(sql)
        self._may("count" if "count(*)" in sql else "head")
        return self.rows

    def look(self, path: str) -> FileEntry | None:
        self._may("look")
        if path in self.files:
            return FileEntry(path=path, is_directory=False, size=len(self.files[path]))
        below = any(name.startswith(f"{path}/") for name in self.files)
        return FileEntry(path=path, is_directory=True) if below else None

    def get(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self._may("get")
        self.reads.append((path, offset, length))
        return self.files[path][offset : None if length is None else offset + length]

    def list(self, path: str, *, limit: int | None = None) -> Sequence[FileEntry]:
        self._may("list")
        self.listings += 1
        below = {name.removeprefix(f"{path}/").split("/")[0] for name in self.files if name.startswith(path)}
        entries = [self.look(f"{path}/{name}") for name in sorted(below)]
        return [entry for entry in entries if entry][:limit]


def test_a_table() -> None:
    workspace = Workspace()
    note = workspace.note(kind="table", name="main.rlm.flights")
    assert note == (
        "table main.rlm.flights; 1,234 rows; 2 columns: carrier string, delay double; "
        'first rows: ["AA", "2.5"]'
    )
    count, head = workspace.statements
    assert count == "SELECT count(*) AS n FROM `main`.`rlm`.`flights`"
    assert head == (
        "SELECT substr(CAST(`carrier` AS STRING), 1, 21) AS c0, substr(CAST(`delay` AS STRING), 1, 21) AS c1 "
        "FROM `main`.`rlm`.`flights` LIMIT 3"
    )


def test_a_wide_table_stays_short() -> None:
    columns = [(f"col`{n}" + "x" * n, f"struct<{'a:int,' * n}>") for n in range(200)]
    rows = [{"n": 3, **{f"c{n}": "y" * 21 for n in range(8)}}] * 3
    workspace = Workspace(columns=[("raw", "binary"), *columns], rows=rows)
    note = workspace.note(kind="table", name="main.rlm." + "t" * 250)
    assert "201 columns" in note
    assert " more; first rows of " in note
    assert "`col``0`" in workspace.statements[1]
    assert "raw" not in workspace.statements[1]


def test_a_table_without_rows_or_columns_to_show() -> None:
    assert (
        Workspace(rows=[]).note(kind="table", name="a.b.c").startswith("table a.b.c; rows cannot be counted")
    )
    assert "first rows" not in Workspace(columns=[("raw", "binary")]).note(kind="table", name="a.b.c")
    hidden = Workspace(rows=[{"n": 1, "c0": None, "c1": ""}])
    assert hidden.note(kind="table", name="a.b.c").endswith('first rows: [null, ""]')


def test_a_text() -> None:
    assert Workspace().note(kind="text", text="a\nb") == 'text; 3 characters; 2 lines; all of it: "a\\nb"'
    assert Workspace().note(kind="text", text="") == "text; 0 characters; 0 lines; empty"
    long = Workspace().note(kind="text", text="begin" + '"x\n' * 4_000 + "end")
    assert long.startswith('text; 12,008 characters; 4,001 lines; begins "begin')
    assert long.endswith('end"')


def test_a_file_is_read_at_its_ends_alone() -> None:
    content = ("erste Zeile: größe\n" + "ü" * 1_000_000 + "\nletzte Zeile").encode()
    workspace = Workspace(files={f"{ROOT}/a.txt": content})
    note = workspace.note(kind="file", path=f"{ROOT}/a.txt")
    assert note.startswith(
        f'file {ROOT}/a.txt; {len(content):,} bytes (2.0 MB); begins "erste Zeile: größe\\n'
    )
    assert note.endswith('letzte Zeile"')
    assert "\ufffd" not in note
    assert sum(length or 0 for _, _, length in workspace.reads) <= 1_600


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes; empty"),
        (b"hello", 'all of it: "hello"'),
        (b"PAR1" + b"x" * 5_000, "Parquet, not text"),
        (b"\x1f\x8b" + b"x" * 50, "gzip, not text"),
        (bytes(range(256)) * 20, "binary, not text"),
        ("grüße".encode("utf-16"), "binary, not text"),
        (b"x" * 5_000 + b"\x00\x01" * 300, "binary, not text"),
        ("grüße".encode("latin-1") * 3, "binary, not text"),
        ("a,b\r\n1,grüße\r\n".encode(), 'all of it: "a,b\\r\\n1,grüße\\r\\n"'),
    ],
)
def test_what_a_file_is(content: bytes, says: str) -> None:
    workspace = Workspace(files={f"{ROOT}/f": content})
    assert says in workspace.note(kind="file", path=f"{ROOT}/f")
    assert workspace.note(kind="answer", path=f"{ROOT}/f").startswith("answer of a child run, in ")


def test_a_folder() -> None:
    files = {f"{ROOT}/in/day{n}/part-{m}.json": b"x" * 1_000 for n in range(3) for m in range(2)}
    note = Workspace(files=files | {f"{ROOT}/in/README": b"y"}).note(kind="folder", path=f"{ROOT}/in")
    assert note.startswith(
        f"folder {ROOT}/in; 7 files, 6,001 bytes (6.0 KB); 6 of .json, 1 of no suffix; such as "
    )
    assert '"README"' in note
    assert '"day0/part-0.json"' in note


def test_a_folder_is_counted_within_bounds() -> None:
    flat = Workspace(files={f"{ROOT}/in/{n}.csv": b"1" for n in range(2_500)})
    assert "at least 2,000 files, at least 2,000 bytes" in flat.note(kind="folder", path=f"{ROOT}/in")
    deep = Workspace(files={f"{ROOT}/in/{n}/a.csv": b"1" for n in range(100)})
    assert "at least 19 files" in deep.note(kind="folder", path=f"{ROOT}/in")
    assert deep.listings == 20


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"kind": "table", "name": "no such name"},
            "table; it cannot be looked at: 'no such name' is not a full",
        ),
        ({"kind": "table"}, "table; it cannot be looked at: KeyError"),
        ({"kind": "file", "path": f"{ROOT}/none"}, "file; it cannot be looked at: There is nothing at"),
        ({"kind": "file", "path": f"{ROOT}"}, "it is a folder"),
        ({"kind": "text", "text": 5}, "text; it cannot be looked at"),
        ({"kind": "secret"}, "not a handle"),
        ({}, "not a handle"),
    ],
)
def test_a_strange_input_gets_a_note(given: dict, says: str) -> None:
    assert says in Workspace(files={f"{ROOT}/a": b"1"}).note(**given)


def test_inputs_that_are_no_handles_at_all() -> None:
    notes = Workspace().profiler().notes({"a": None, "b": "main.rlm.flights", "c": [1]})
    assert set(notes.values()) == {"not a handle of a known kind"}


@pytest.mark.parametrize("part", ["describe", "count", "head", "look", "get", "list"])
@pytest.mark.parametrize("error", [Unreachable, Throttled, Unauthorized, Conflict])
def test_a_passing_fault_passes_through(part: str, error: type[RlmError]) -> None:
    workspace = Workspace(files={f"{ROOT}/a/b": b"1"}, errors={part: error("Later.")})
    path = f"{ROOT}/a/b" if part in {"look", "get"} else f"{ROOT}/a"
    kind = "file" if part in {"look", "get"} else "folder" if part == "list" else "table"
    with pytest.raises(error):
        workspace.note(kind=kind, path=path, name="a.b.c")


@pytest.mark.parametrize(
    "error", [Forbidden("Not for you."), NotFound("Not here."), Rejected("Bad."), KeyError(21)]
)
def test_any_other_fault_is_a_note(error: Exception) -> None:
    word = str(error)
    for part in ("describe", "count", "head"):
        assert word in Workspace(errors={part: error}).note(kind="table", name="a.b.c")
    whole = Workspace(errors={"head": error}).note(kind="table", name="a.b.c")
    assert "1,234 rows; 2 columns: carrier string" in whole


def test_at_most_sixteen_inputs_are_looked_at() -> None:
    workspace = Workspace()
    notes = workspace.profiler().notes({f"t{n}": {"kind": "table", "name": "a.b.c"} for n in range(40)})
    assert list(notes) == [f"t{n}" for n in range(MAX_INPUTS)]
    assert len(workspace.statements) == 2 * MAX_INPUTS


@given(st.text(max_size=900))
def test_any_text_has_a_short_excerpt(text: str) -> None:
    assert len(excerpt(text, text)) <= 440
    Workspace().note(kind="text", text=text)


@given(st.binary(max_size=2_000))
def test_any_file_has_a_short_note(content: bytes) -> None:
    Workspace(files={f"{ROOT}/f": content}).note(kind="file", path=f"{ROOT}/f")
