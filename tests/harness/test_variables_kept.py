"""Variables from one program to the next: what is kept, what is not written again, what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pandas
import pyarrow
import pytest
from harness_support import request_of
from hypothesis import given
from hypothesis import strategies as st

from executor_harness import protocol
from executor_harness.redaction import Redactor
from executor_harness.rlm import values
from executor_harness.rlm.values import VariablesError
from executor_harness.rlm.variables import Variables
from executor_harness.volumes import Volumes

RUN = "/Volumes/main/rlm/work/scratchpad/run_r1"


def no_engine() -> Any:
    raise AssertionError("no Spark here")


class Run:
    """The programs of one run, one after the other."""

    def __init__(self, root: Path) -> None:
        self.volumes = Volumes(root=str(root))
        self.ref: protocol.VariablesRef | None = None
        self.iter_n = 0
        self.said: protocol.KeptVariables | None = None

    def request(self, **changes: Any) -> Any:
        ref = protocol.plain(self.ref) if self.ref else None
        return request_of(
            iter_n=self.iter_n, output_dir=f"{RUN}/iter_{self.iter_n}", **({"variables": ref} | changes)
        )

    def begin(self) -> Variables:
        self.iter_n += 1
        return Variables(self.request(), self.volumes, no_engine, Redactor())

    def do(self, work: Callable[[Variables], Any]) -> Any:
        variables = self.begin()
        found = work(variables)
        self.said = variables.commit()
        self.ref = self.said.ref if self.said else self.ref
        return found

    def keep(self, **values: Any) -> None:
        self.do(lambda kept: kept.update(values))

    def read(self, name: str = "x") -> Any:
        return self.do(lambda kept: kept[name])

    def files(self) -> list[str]:
        root = self.volumes.local(RUN)
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


VALUES: list[Any] = [
    None, 3, -0.5, "short", "läng\r\n" * 1000, b"\x00\xff" * 1000, [1, {"a": (2, {3})}],
    {"n": list(range(2000))}, "lone \ud800" * 500, "", b"", {},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_plain_values(run: Run, value: Any) -> None:
    run.keep(x=value)
    found = run.read()
    assert found == value
    assert type(found) is type(value)
    before = run.files()
    run.keep(x=value)
    assert run.files() == before  # neither a file nor an index for the same again


ARRAYS: list[Any] = [
    numpy.arange(12, dtype="int16").reshape(3, 4), numpy.asfortranarray([[1.5, 2], [3, numpy.nan]]),
    numpy.array(3.0), numpy.zeros((0, 3)), numpy.array(["a", "bcd"]), numpy.array([True]),
    numpy.array(["2024-01-01"], dtype="datetime64[s]"), numpy.arange(3, dtype=">i4"),
    numpy.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]), numpy.arange(20)[::3],
]  # fmt: skip


@pytest.mark.parametrize("value", ARRAYS, ids=lambda value: str(value.dtype))
def test_arrays(run: Run, value: Any) -> None:
    run.keep(x=value)
    found = run.read()
    assert found.dtype == value.dtype
    numpy.testing.assert_array_equal(found, value)
    assert found.flags.writeable


FRAMES: list[Any] = [
    pandas.DataFrame({"a": [1, 2], "b": ["x", None], "c": [0.5, float("nan")]}),
    pandas.DataFrame({"a": [1, 2]}, index=pandas.Index(["r", "s"], name="key")),
    pandas.DataFrame({"t": pandas.to_datetime(["2024-01-01", None]).tz_localize("Europe/Berlin")}),
    pandas.DataFrame({"c": pandas.Categorical(["a", "b", "a"])}).set_index(pandas.Index([3, 4, 5])),
    pandas.DataFrame({"i": pandas.array([1, None], dtype="Int64")}),
    pandas.DataFrame({"s": pandas.array(["a", None], dtype="string")}),
    pandas.DataFrame({("a", 1): [1], ("a", 2): [2]}),
    pandas.DataFrame({0: [1], 1: [2]}),
    pandas.DataFrame({"a": [1]}, index=pandas.MultiIndex.from_tuples([("a", 1)], names=["k", None])),
    pandas.DataFrame(),
    pandas.DataFrame({"a": []}),
    pandas.Series([1.5, 2.5], name="s", index=["p", "q"]),
    pandas.Series([1, 2], name=("a", 1)),
    pandas.Series(["x", None]),
    pandas.Series(pandas.to_timedelta([1, 2], unit="s"), index=pandas.date_range("2024-01-01", periods=2)),
]  # fmt: skip


@pytest.mark.parametrize("value", FRAMES)
def test_tables_of_pandas(run: Run, value: Any) -> None:
    run.keep(x=value)
    found = run.read()
    assert type(found) is type(value)
    equal = pandas.testing.assert_series_equal if found.ndim == 1 else pandas.testing.assert_frame_equal
    equal(found, value, check_freq=False)
    before = run.files()
    run.keep(x=value)
    assert run.files() == before
    if len(found.columns if found.ndim == 2 else found):
        found.iloc[:1] = found.iloc[:1]  # it can be changed in place


@pytest.mark.parametrize(
    "value",
    [
        pandas.DataFrame({"a": [1, "x"]}), pandas.DataFrame({"a": [object()]}),
        pandas.DataFrame({"a": [{1}]}), pandas.DataFrame({"a": [[1]]}), pandas.DataFrame({"a": [{"b": 1}]}),
        pandas.DataFrame([[1, 2]], columns=["a", "a"]), pandas.DataFrame({"a": [1, None]}, dtype=object),
        pandas.DataFrame({1: [1], "a": [2]}), pandas.Series([1 + 2j]), pandas.Series([1], name=pandas.NaT),
        numpy.array([object()]), numpy.ma.masked_array([1], [True]), numpy.array([(1, None)], dtype="i4,O"),
    ],
)  # fmt: skip
def test_what_would_not_come_back_the_same_is_refused(run: Run, value: Any) -> None:
    kept = run.begin()
    with pytest.raises(TypeError, match=r"^rlm.vars\['x'\]: (pandas|numpy)\."):
        kept["x"] = value
    assert kept.changed() == []
    assert kept.commit() is None


def test_arrow_tables_are_mapped(run: Run) -> None:
    table = pyarrow.table({"a": range(100_000), "b": ["x"] * 100_000}).slice(10)
    run.keep(x=table)
    before = pyarrow.total_allocated_bytes()
    found = run.read()
    assert found.equals(table)
    assert pyarrow.total_allocated_bytes() - before < 100_000
    assert run.ref is not None
    size = "99,990 rows \u00d7 2 columns: a, b"
    assert run.said == protocol.KeptVariables(
        ref=replace(run.ref, iter_n=1),
        count=1,
        shown=[protocol.VariableNote(name="x", type="Arrow table", size=size)],
    )


def test_changes_in_place_count(run: Run) -> None:
    run.keep(items=[1], frame=pandas.DataFrame({"a": [1]}), array=numpy.zeros(2), text="t" * 5000)

    def change(kept: Variables) -> None:
        kept["items"].append(2)
        kept["frame"].loc[0, "a"] = 7
        kept["array"][1] = 5
        assert kept["items"] is kept["items"]

    run.do(change)
    assert run.read("items") == [1, 2]
    assert run.read("frame")["a"].tolist() == [7]
    assert run.read("array").tolist() == [0, 5]
    assert [name for name in run.files() if name.startswith("iter_2")] == [
        "iter_2/variables.json", *(f for f in run.files() if f.startswith("iter_2/variables/array-")),
        *(f for f in run.files() if f.startswith("iter_2/variables/frame-")),
    ]  # fmt: skip
    text = json.loads(run.volumes.local(f"{RUN}/iter_2/variables.json").read_bytes())["variables"]["text"]
    assert text["path"].startswith(f"{RUN}/iter_1/variables/text-")


def test_nothing_is_read_before_it_is_asked_for(run: Run) -> None:
    run.keep(x=[0] * 5000, y=1)
    for path in run.volumes.local(f"{RUN}/iter_1/variables").iterdir():
        path.unlink()

    def look(kept: Variables) -> Any:
        return ("x" in kept, "z" in kept, len(kept), list(kept), repr(kept), kept.get("z", 5), kept["y"])

    assert run.do(look) == (True, False, 2, ["x", "y"], "Variables(x, y)", 5, 1)
    with pytest.raises(VariablesError, match=r"rlm.vars\['x'\]: its file cannot be read"):
        run.read()
    untouched = run.begin()
    assert untouched._base is None


def test_deleting_and_the_order(run: Run) -> None:
    run.keep(a=1, b=2, c=3)

    def change(kept: Variables) -> None:
        del kept["b"]
        kept["a"] = 4
        kept["d"] = kept.pop("c")
        with pytest.raises(KeyError, match="no variable 'b' to delete"):
            del kept["b"]
        with pytest.raises(KeyError, match="no variable 'b'; the variables of this run: a, d"):
            _ = kept["b"]
        assert kept.changed() == ["b", "a", "c", "d"]

    run.do(change)
    assert run.do(dict) == {"a": 4, "d": 3}
    run.do(lambda kept: kept.clear())
    assert run.said is not None
    assert (run.said.count, run.said.shown, run.do(len)) == (0, [], 0)


def test_a_program_that_does_not_commit_changes_nothing(run: Run) -> None:
    run.keep(x=[1])
    before = run.files()
    failed = run.begin()
    failed["x"].append(2)
    failed["y"] = "y" * 5000
    assert failed.changed() == ["y"]
    failed.discard()
    assert run.files() == before
    assert run.do(dict) == {"x": [1]}


def test_untouched_variables_stay_where_they_are(run: Run) -> None:
    run.do(lambda kept: None)
    assert run.said is None
    assert run.do(lambda kept: "x" in kept) is False
    assert run.said is None
    run.keep(x=1)
    ref = run.ref
    run.do(lambda kept: None)
    assert run.said is None
    run.do(len)
    assert run.said is not None
    assert (run.said.ref, run.said.count, run.said.shown) == (
        ref, 1, [protocol.VariableNote(name="x", type="int")]
    )  # fmt: skip


def test_bounds(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = run.begin()
    for name in ("", "1a", "ä", "a b", "a" * 65, 3):
        with pytest.raises(ValueError, match="is no name"):
            kept[name] = 1  # type: ignore[index]
    for at in range(protocol.VARIABLES):
        kept[f"v{at}"] = at
    with pytest.raises(ValueError, match=r"rlm.vars\['more'\]: there are 200 variables already"):
        kept["more"] = 1
    kept["v0"] = 5
    monkeypatch.setattr(values, "MAX_BYTES", 3000)
    for value in ("x" * 3001, b"x" * 3001, "ä" * 1600, numpy.zeros(400), [0] * 2000,
                  pyarrow.table({"a": range(400)}), pandas.Series(range(400))):  # fmt: skip
        with pytest.raises(
            ValueError, match=r"rlm.vars\['v0'\]: 3,\d\d\d bytes|4,\d\d\d bytes, and a variable has"
        ):
            kept["v0"] = value
    said = kept.commit()
    assert said is not None
    assert (said.count, len(said.shown)) == (200, protocol.VARIABLES_SHOWN)
    assert [note.name for note in said.shown][-2:] == ["v199", "v0"]
    with pytest.raises(RuntimeError, match="the program has ended"):
        kept["v1"] = 1


def test_a_change_in_place_that_cannot_be_kept(run: Run) -> None:
    kept = run.begin()
    kept["good"] = 1
    kept["items"] = []
    kept["items"].append(print)
    with pytest.raises(
        TypeError, match=r"rlm.vars\['items'\]: builtin_function_or_method cannot be kept; keep plain"
    ):
        kept.commit()
    assert run.files() == []


def test_an_index_that_was_changed_is_not_believed(run: Run) -> None:
    run.keep(x=1)
    path = run.volumes.local(f"{RUN}/iter_1/variables.json")
    path.write_bytes(path.read_bytes().replace(b'"text": "1"', b'"text": "2"'))
    for use in (lambda kept: kept["x"], len, lambda kept: kept.update(y=1), list):
        with pytest.raises(VariablesError, match=r"iteration 1, .* has SHA-256 .*clear\(\) starts without"):
            use(run.begin())
    path.unlink()
    with pytest.raises(VariablesError, match="cannot be read"):
        run.read()
    assert run.begin().commit() is None, "who does not look at them does not fail"
    run.do(lambda kept: kept.clear())
    assert run.said is not None
    assert run.said.count == 0
    assert run.do(dict) == {}


def test_a_file_that_was_changed_is_not_believed(run: Run) -> None:
    run.keep(x="x" * 5000)
    (path,) = run.volumes.local(f"{RUN}/iter_1/variables").iterdir()
    path.write_bytes(b"y" * 5000)
    with pytest.raises(VariablesError, match=r"rlm.vars\['x'\]: .*/text|x-.* has SHA-256 .* kept was"):
        run.read()
    run.keep(x=2)
    assert run.read() == 2


def test_threads(run: Run) -> None:
    run.keep(shared=[0] * 3000)
    kept = run.begin()
    found: list[Any] = []

    def work(at: int) -> None:
        found.append(kept["shared"])
        for step in range(20):
            kept[f"v{at}"] = [at, step]

    threads = [threading.Thread(target=work, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(item is found[0] for item in found)
    kept.commit()
    assert {name: kept[name] for name in kept if name != "shared"} == {f"v{at}": [at, 19] for at in range(8)}


@given(st.lists(st.text(min_size=1, max_size=60), max_size=80), st.integers(0, 10**12))
def test_words_are_few(columns: list[str], rows: int) -> None:
    said = values.shape_in_words(rows, columns)
    assert len(said) <= 100
    assert said.startswith(f"{rows:,} row")


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (3, ("int", "")), ("é", ("str", "1 character")), ([1, 2, 3], ("list", "3 items")),
        ({}, ("dict", "0 keys")), (b"ab", ("bytes", "2 bytes")),
        (numpy.zeros((2, 1000)), ("numpy array", "float64, 2 \u00d7 1,000")),
        (pandas.DataFrame({"a": [1], "b": 2}), ("pandas DataFrame", "1 row \u00d7 2 columns: a, b")),
        (pandas.Series([1.0]), ("pandas Series", "1 value, float64")),
    ],
)  # fmt: skip
def test_notes(run: Run, value: Any, note: tuple[str, str]) -> None:
    run.keep(x=value)
    assert run.said is not None
    assert run.said.shown == [protocol.VariableNote(name="x", type=note[0], size=note[1])]
