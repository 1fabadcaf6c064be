from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.cli.work import InputSpec, parse_input, parse_inputs, upload_path
from databricks_rlm_agent.errors import UsageError


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("flights=main.nyc.flights", "table", "main.nyc.flights"),
        ("f=/Volumes/a/b/c/d.csv", "path", "/Volumes/a/b/c/d.csv"),
        ("f=/Volumes/a/b/c//d/", "path", "/Volumes/a/b/c/d/"),
        ("f=@notes.txt", "local", "notes.txt"),
        ("f=@", "local", ""),
        ("f=a = b", "text", "a = b"),
        ("f=", "text", ""),
        ("f=main.nyc", "text", "main.nyc"),
        ("f=Volumes/a", "text", "Volumes/a"),
    ],
)
def test_what_an_input_is(text: str, kind: str, value: str) -> None:
    assert parse_input(text) == InputSpec(name=text.partition("=")[0], kind=kind, value=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "novalue", "=x", "a b=x", "1a=x", "größe=x", "a/../b=x", "a" * 65 + "=x"]
)
def test_what_is_no_input(text: str) -> None:
    with pytest.raises(UsageError, match="NAME=VALUE"):
        parse_input(text)


def test_a_path_stays_in_the_volumes() -> None:
    with pytest.raises(UsageError, match="not a path in a Volume"):
        parse_input("f=/Volumes/a/b/c/../../../etc")


def test_a_name_is_given_once() -> None:
    assert [item.name for item in parse_inputs(["a=1", "b=2"])] == ["a", "b"]
    with pytest.raises(UsageError, match="--input a is given 2 times"):
        parse_inputs(["a=1", "b=2", "a=3"])


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.csv", "x.csv"),
        ("report.2024.CSV", "x.CSV"),
        ("logs.json.gz", "x.json.gz"),
        ("logs.gz", "x.gz"),
        ("archive.tar.gz", "x.tar.gz"),
        ("README", "x"),
        (".bashrc", "x"),
        ("a.b c", "x"),
        ("a.", "x"),
        ("a.ä", "x"),
        ("", "x"),
    ],
)
def test_where_a_local_file_goes(file: str, name: str) -> None:
    assert upload_path("/Volumes/a/b/c/run_r", "x", file) == f"/Volumes/a/b/c/run_r/inputs/{name}"


@given(st.text(), st.text())
def test_any_text_is_an_input_or_wrong_usage(name: str, file: str) -> None:
    try:
        found = parse_input(f"{name}={file}")
    except UsageError:
        return
    path = upload_path("/Volumes/a/b/c/run_r", found.name, file)
    assert path.count("/") == 7
    assert ".." not in path
    assert path.isascii()
