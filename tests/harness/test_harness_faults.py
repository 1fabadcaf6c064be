"""What programs do to their own process and files: nothing is lost in silence, the true reason is told."""

from __future__ import annotations

import os
import stat
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness_support import Bench, Ended, request_of
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.attempts.result import Result, Status
from databricks_rlm_agent.planner.actions import resolve
from executor_harness.redaction import Redactor
from executor_harness.rlm.api import Rlm, reported
from executor_harness.rlm.plain import as_json
from executor_harness.volumes import Volumes


def parsed(ended: Ended) -> Result:
    """The result as the control plane reads it."""
    return Result.parse((ended.folder / "result.json").read_bytes(), where="result.json")


@pytest.fixture
def rlm(tmp_path: Path) -> Rlm:
    return Rlm(request_of(), Volumes(root=str(tmp_path)), lambda: None, Redactor())


# -- A6: texts that UTF-8 has no room for


@pytest.mark.fault("A6")
def test_a_lone_surrogate_anywhere_loses_nothing(bench: Bench) -> None:
    ended = bench.run(
        "import os, sys\nname = os.fsdecode(b'caf\\xe9.csv')\nprint(name); print(name, file=sys.stderr)\n"
        "rlm.vars['kept'] = {name: [name]}\nrlm.log(name); rlm.metric(name, 1)\n"
        "open(name, 'w').write('x'); rlm.artifact(name)\n"
        "rlm.finish({name: [name, 'a\\ud83d', {'b': name}]})\n"
    )
    result = parsed(ended)
    assert result.status is Status.SUCCESS, ended.err
    assert result.value == {"caf\\udce9.csv": ["caf\\udce9.csv", "a\\ud83d", {"b": "caf\\udce9.csv"}]}
    assert (result.log, result.metrics) == (["caf\\udce9.csv"], {"caf\\udce9.csv": 1})
    assert (ended.folder / "stdout.txt").read_text() == "caf\\udce9.csv\n"
    assert result.variables is not None
    assert result.variables.count == 1
    assert result.produced_artifacts[0].path.endswith("/caf\\udce9.csv")


@pytest.mark.fault("A6")
def test_a_lone_surrogate_in_an_error(bench: Bench) -> None:
    program = "class Caf\u00e9(Exception): pass\nrlm.finish('a')\nraise Caf\u00e9('x\\udce9\\ud83d')\n"
    result = parsed(bench.run(program))
    assert result.error_type == "Caf\u00e9"
    assert result.error_summary is not None
    assert result.error_summary.endswith("Caf\u00e9: x\\udce9\\ud83d")
    assert result.value == "a"


# -- A8: values stay exact


@pytest.mark.fault("A8")
@pytest.mark.parametrize(
    ("value", "kept", "shown"),
    [
        (Decimal("12345678901234567890.12"), "12345678901234567890.12", "12345678901234567890.12"),
        (
            Decimal("-0.1234567890123456789012345678901234567"),
            *("-0.1234567890123456789012345678901234567",) * 2,
        ),
        (Decimal("19.99"), 19.99, "19.99"),
        (Decimal("1E-30"), 1e-30, "1e-30"),
        (Decimal("100.00"), 100, "100"),
        (Decimal("9" * 38), 10**38 - 1, "9" * 38),
        ([{"a": (Decimal("12345678901234567.01"),)}], [{"a": ["12345678901234567.01"]}], None),
        ({date(2020, 2, 29): Decimal("1.50"), 2: None}, {"2020-02-29": 1.5, "2": None}, None),
    ],
)
def test_decimals_stay_exact_in_the_value_and_in_an_answer(
    rlm: Rlm, value: Any, kept: Any, shown: str
) -> None:
    rlm.finish(value)
    assert reported(rlm)["value"] == kept
    if shown is not None:
        assert resolve("total {{value}}", kept) == f"total {shown}"


@pytest.mark.fault("A8")
@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=None).filter(lambda d: abs(d.adjusted()) < 60)
)
def test_no_decimal_is_changed(value: Decimal) -> None:
    kept = as_json(value)
    assert Decimal(repr(kept) if isinstance(kept, float) else kept) == value


@pytest.mark.fault("A8")
def test_scalars_of_libraries_are_exact_or_refused(rlm: Rlm) -> None:
    import numpy
    import pandas

    when = "2020-01-01T00:00:00.123456789"
    values = {
        "int": numpy.int64(2**62 + 1),
        "wide": numpy.longdouble("0.1"),
        "nanoseconds": numpy.datetime64(when),
        "timestamp": pandas.Timestamp(when),
        "none": [pandas.NaT, pandas.NA],
        "bool": numpy.bool_(True),
        "text": numpy.str_("a"),
        "single": numpy.float32(0.5),
    }
    rlm.finish(values)
    kept = reported(rlm)["value"]
    assert kept["int"] == 2**62 + 1
    assert kept["nanoseconds"] == kept["timestamp"] == when
    assert (kept["none"], kept["bool"], kept["text"], kept["single"]) == ([None, None], True, "a", 0.5)
    for wrong in (
        b"x",
        timedelta(1),
        {1, 2},
        {1: "a", "1": "b"},
        Decimal("NaN"),
        [float("inf")],
        {(1, 2): 3},
    ):
        with pytest.raises((TypeError, ValueError), match=r"rlm\.finish: the value is not JSON"):
            rlm.finish(wrong)
    assert reported(rlm)["value"] == kept


# -- A12: the true reason


@pytest.mark.fault("A12")
def test_a_value_that_is_too_deep_or_within_itself_is_refused_where_it_is_given(rlm: Rlm) -> None:
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    within: dict[str, Any] = {}
    within["self"] = [within]
    for value in (deep, within):
        with pytest.raises(TypeError, match="nested more than 100 deep, or within itself"):
            rlm.finish(value)


BREAKS = [
    """import json, os, time
json.dumps = json.loads = json.JSONEncoder.encode = None
time.time = lambda: 'now'""",
    """import os, time, threading
time.monotonic = os.open = os.fdopen = os.write = os.getpid = None
threading.Thread.start = threading.Thread = None""",
    """import builtins
for name in ('open', 'len', 'isinstance', 'getattr', 'dict', 'str', '__import__', 'print'):
    setattr(builtins, name, None)""",
    """import os
for name in ('close', 'dup2', 'read', 'fsync', 'listdir', 'unlink'):
    delattr(os, name)""",
    """import sys
for name in list(sys.modules):
    if name.startswith(('executor_harness', 'json', 'pathlib', 'tempfile')):
        del sys.modules[name]""",
    """import pathlib, contextlib, traceback, re
pathlib.Path.mkdir = contextlib.suppress = None
traceback.TracebackException.format = re.compile = None""",
    "import atexit, sys; atexit.register(sys.exit, 3)",
    "import os; os.close(0); os.close(1); os.close(2)",
    "import os; os.closerange(1, 200)",
    "import signal, time; signal.setitimer(signal.ITIMER_REAL, 0.3)",
    "import sys; sys.setprofile(lambda *a: None); sys.setrecursionlimit(60)",
]


@pytest.mark.fault("A12")
@pytest.mark.parametrize("damage", BREAKS)
def test_a_damaged_process_still_reports(bench: Bench, damage: str) -> None:
    ended = bench.run(f"rlm.vars['x'] = 1\nrlm.finish('made it')\n{damage}\n")
    assert (ended.code, ended.report["status"], ended.report["value"]) == (0, "SUCCESS", "made it"), ended.err
    assert ended.report["variables"]["count"] == 1


@pytest.mark.fault("A12")
@pytest.mark.parametrize(
    ("program", "kind", "reason"),
    [
        ("del rlm.vars", "AttributeError", "rlm.vars cannot be deleted"),
        ("rlm.vars = None", "AttributeError", "vars"),
        ("import posix; posix._exit(5)", "SystemExit", "os._exit(5)"),
        ("import os; os._exit(6)", "SystemExit", "os._exit(6)"),
        ("rlm._log = None", "ProcessDied", "its result could not be made: TypeError"),
        ("rlm._vars = None", "ProcessDied", "AttributeError: 'NoneType'"),
        (
            "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))",
            "ProcessDied",
            "result.json could not be written",
        ),
        ("import json; json.dumps = None; raise ValueError('mine')", "ValueError", "mine"),
        ("import sys; sys._getframe = sys.exc_info = None; raise ValueError('mine')", "ValueError", "mine"),
        ("import os; os.abort()", "ProcessDied", "crashed in native code: Fatal Python error: Aborted"),
        (
            "class E(Exception):\n def __getattribute__(self, name):\n  raise OSError('mine')\nraise E()",
            "ProcessDied",
            "how the program ended cannot be said: OSError: mine",
        ),
    ],
)
def test_the_true_reason_is_reported(bench: Bench, program: str, kind: str, reason: str) -> None:
    ended = bench.run(program)
    assert (ended.report["status"], ended.report["error_type"]) == ("FAILED", kind), ended.err
    assert reason in ended.report["error_summary"]
    assert "killed, out of memory" not in ended.report["error_summary"]
    assert ended.code != 0


@pytest.mark.fault("A12")
def test_a_program_that_replaced_functions_is_still_stopped_in_time(bench: Bench) -> None:
    damage = "import os, select, threading, time\nsleep = time.sleep\n"
    damage += "time.monotonic = os.read = select.select = threading.Thread = None\nsleep(60)\n"
    ended = bench.run(damage, timeout_s=1)
    assert (ended.report["status"], ended.code) == ("TIMEOUT", 124), ended.err


# -- A13: regular files only


def _occupy(path: Path, kind: str, elsewhere: Path) -> str:
    """The lines of a program that puts something else in the place of a file."""
    return {
        "fifo": f"os.mkfifo({str(path)!r})",
        "link": f"os.symlink({str(elsewhere)!r}, {str(path)!r})",
        "folder": f"os.makedirs({str(path / 'inside')!r})",
        "device": f"os.symlink('/dev/full', {str(path)!r})",
    }[kind]


@pytest.mark.fault("A13")
@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "device"])
def test_what_lies_in_the_place_of_a_file_is_replaced(bench: Bench, tmp_path: Path, kind: str) -> None:
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("untouched")
    names = ["result.json", "stdout.txt", "stderr.txt", "variables.json"]
    lines = [_occupy(bench.folder / name, kind, elsewhere) for name in names]
    ended = bench.run(
        "\n".join(["import os", *lines, "print('out')", "rlm.vars['x'] = 'v'", "rlm.finish(1)"])
    )
    assert (ended.code, ended.report["value"]) == (0, 1), ended.err
    for name in names:
        assert stat.S_ISREG((bench.folder / name).lstat().st_mode), name
    assert (bench.folder / "stdout.txt").read_text() == "out\n"
    assert elsewhere.read_text() == "untouched"


@pytest.mark.fault("A13")
def test_a_folder_that_is_a_link_is_not_written_through(bench: Bench, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = f"import os\nos.rename({str(bench.folder)!r}, {str(bench.folder)!r} + '_')\n"
    ended = bench.run(f"{program}os.symlink({str(elsewhere)!r}, {str(bench.folder)!r})\n")
    assert list(elsewhere.iterdir()) == []
    assert ended.code != 0
    assert "is below a link" in ended.err


@pytest.mark.fault("A13")
@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "device"])
def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path, kind: str) -> None:
    volumes = Volumes(root=str(tmp_path))
    path = "/Volumes/a/b/c/file"
    volumes.put(path, b"12345")
    assert volumes.read(path) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        volumes.read(path, most=4)
    local = volumes.local(path)
    local.unlink()
    (tmp_path / "x").write_text("x")
    exec(_occupy(local, kind, tmp_path / "x"), {"os": os})
    with pytest.raises(OSError, match=r"regular file|symbolic|directory"):
        volumes.read(path)
