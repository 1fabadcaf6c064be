"""No file of the variables holds a secret of the job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pandas
import pyarrow
import pytest
from harness_support import request_of
from hypothesis import given
from hypothesis import strategies as st

from executor_harness.redaction import Redactor, secrets_of
from executor_harness.rlm.variables import Variables
from executor_harness.volumes import Volumes

CANARY = 'dapi-"cänary"-7f3a'
RUN = "/Volumes/main/rlm/work/scratchpad/run_r1/iter_1"
REQUEST = request_of(output_dir=RUN)

VALUES: dict[str, Callable[[], Any]] = {
    "text": lambda: f"Bearer {CANARY}",
    "long text": lambda: "x" * 5_000 + CANARY,
    "bytes": lambda: b"\x00" + CANARY.encode(),
    "long bytes": lambda: b"x" * 5_000 + CANARY.encode(),
    "utf-16": lambda: CANARY.encode("utf-16"),
    "nested": lambda: {"a": [1, ({"b": {CANARY}},)]},
    "key": lambda: {CANARY: 1},
    "large dict": lambda: {"a": list(range(1_000)), "b": CANARY},
    "numpy": lambda: numpy.array(["a", CANARY]),
    "numpy, other order": lambda: numpy.array(["a", CANARY]).astype(">U40"),
    "numpy bytes": lambda: numpy.array([CANARY.encode()]),
    "numpy field": lambda: numpy.zeros(2, dtype=[(CANARY, "i4")]),
    "arrow": lambda: pyarrow.table({"a": ["b", CANARY]}),
    "arrow dictionary": lambda: pyarrow.table({"a": pyarrow.array([CANARY, "c"]).dictionary_encode()}),
    "pandas": lambda: pandas.DataFrame({"a": ["b", CANARY]}),
    "pandas category": lambda: pandas.DataFrame({"a": pandas.Categorical([CANARY])}),
    "pandas column": lambda: pandas.DataFrame({CANARY: [1]}),
    "pandas index": lambda: pandas.DataFrame({"a": [1]}, index=[CANARY]),
    "series": lambda: pandas.Series(["a", CANARY]),
    "series name": lambda: pandas.Series([1], name=CANARY),
}


def no_engine() -> Any:
    raise AssertionError("no Spark here")


def variables(root: Path) -> Variables:
    return Variables(REQUEST, Volumes(root=str(root)), no_engine, Redactor([CANARY]))


def files_with_canary(root: Path) -> list[Path]:
    found = [path for path in root.rglob("*") if path.is_file()]
    return [path for path in found if "cänary" in path.read_text(errors="replace")]


@pytest.mark.parametrize("name", VALUES)
def test_no_file_has_the_secret(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = variables(tmp_path)
    kept["good"] = "fine"

    def keep() -> None:
        kept["leak"] = VALUES[name]()
        kept.commit()

    with pytest.raises(ValueError, match=r"rlm\.vars\['leak'\]: holds one of the job's secrets") as caught:
        keep()
    assert "nary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert files_with_canary(tmp_path) == []
    assert not (tmp_path / RUN.removeprefix("/Volumes/") / "variables.json").exists(), "all or nothing"


def test_a_secret_that_is_put_into_a_value_later(tmp_path: Path) -> None:
    kept = variables(tmp_path)
    kept["found"] = found = ["a"]
    found.append(CANARY)
    with pytest.raises(ValueError, match=r"rlm\.vars\['found'\]: holds one"):
        kept.commit()
    assert files_with_canary(tmp_path) == []


def test_a_refused_value_leaves_the_others(tmp_path: Path) -> None:
    kept = variables(tmp_path)
    kept["a"] = 1
    with pytest.raises(ValueError, match="holds one"):
        kept["a"] = CANARY
    said = kept.commit()
    assert said is not None
    assert [note.name for note in said.shown] == ["a"]
    assert kept["a"] == 1


def test_the_secrets_are_those_of_the_environment(tmp_path: Path) -> None:
    redactor = Redactor(secrets_of({"DATABRICKS_TOKEN": "dapi0123456789"}))
    kept = Variables(REQUEST, Volumes(root=str(tmp_path)), no_engine, redactor)
    with pytest.raises(ValueError, match="holds one of the job's secrets"):
        kept["x"] = {"headers": {"Authorization": "Bearer dapi0123456789"}}
    with pytest.raises(ValueError, match="holds one of the job's secrets"):
        kept["dapi0123456789"] = 1


@given(before=st.integers(0, 40), after=st.integers(0, 40), read=st.integers(1, 50))
def test_a_secret_over_the_border_of_what_is_read_at_once(before: int, after: int, read: int) -> None:
    import tempfile

    with pytest.MonkeyPatch.context() as patched, tempfile.NamedTemporaryFile() as file:
        patched.setattr("executor_harness.redaction._READ_BYTES", read)
        file.write(b"x" * before + CANARY.encode() + b"x" * after)
        file.flush()
        with pytest.raises(ValueError, match="holds one"):
            Redactor([CANARY]).refuse_file(Path(file.name))
        Redactor([CANARY + "!"]).refuse_file(Path(file.name))
        Redactor().refuse_file(Path(file.name))
