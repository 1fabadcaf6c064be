"""The object `rlm`, used by programs in the real process."""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness_support import VOLUME, Bench
from llm_support import access, no_engine

from executor_harness import protocol
from executor_harness.redaction import Redactor
from executor_harness.rlm.api import Rlm, close, reported
from executor_harness.rlm.chat import NoModel
from executor_harness.volumes import Volumes


@pytest.fixture
def rlm(bench: Bench) -> Rlm:
    def none() -> Any:
        raise AssertionError("no Spark here")

    request = protocol.read(protocol.Request, bench.publish(""))
    return Rlm(request, Volumes(root=str(bench.root)), none, Redactor(()))


def test_without_a_model_nothing_is_asked(rlm: Rlm) -> None:
    with pytest.raises(NoModel, match="RLM_SUB_MODEL"):
        rlm.llm_query("p")
    close(rlm)
    assert (reported(rlm)["usage"].calls, reported(rlm)["log"]) == (0, [])


def test_threads_that_begin_at_once_share_one_service_of_models(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them would have two budgets."""
    from executor_harness.rlm import model_calls

    request = protocol.read(protocol.Request, bench.publish("", models=access()))
    rlm = Rlm(request, Volumes(root=str(bench.root)), no_engine, Redactor(()))
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    made: list[object] = []
    begun = threading.Barrier(8)

    class Slow(model_calls.ModelCalls):
        def __init__(self, *arguments: Any) -> None:
            made.append(self)
            time.sleep(0.05)  # the others come meanwhile
            super().__init__(*arguments)

    def use() -> None:
        begun.wait()
        with contextlib.suppress(NoModel):
            rlm.llm_query("?")

    monkeypatch.setattr(model_calls, "ModelCalls", Slow)
    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_inputs_parameters_and_codebase(bench: Bench) -> None:
    notes = bench.local(f"{VOLUME}/notes.txt")
    notes.parent.mkdir(parents=True)
    notes.write_text("grün", "utf-8")
    code = bench.local(f"{VOLUME}/company_codebase")
    code.mkdir()
    (code / "firm.py").write_text("def double(x): return 2 * x\n")
    (code / "json.py").write_text("raise RuntimeError('shadows the library')\n")
    ended = bench.run(
        "import json, firm\nn = rlm.inputs['notes']\n"
        "rlm.finish([sorted(rlm.inputs), n.text(), n.open().read(), rlm.inputs['q'].upper(),\n"
        "rlm.inputs['q'].text(),\n"
        "  rlm.inputs['flights'].name, rlm.parameters['k'], firm.double(2),\n"
        "  __file__ == rlm.path('entrypoint.py')])\n",
        inputs={
            "notes": {"kind": "file", "path": f"{VOLUME}/notes.txt"},
            "q": {"kind": "text", "text": "why"},
            "flights": {"kind": "table", "name": "main.nyc.flights"},
        },
        parameters={"k": 7},
    )
    assert ended.report["value"] == [
        ["flights", "notes", "q"], "grün", "grün", "WHY", "why", "main.nyc.flights", 7, 4, True
    ], ended.err  # fmt: skip


def test_no_engine_fails_only_programs_that_need_one(bench: Bench) -> None:
    assert bench.run("# spark is not needed\n").code == 0


def test_no_engine_says_why(bench: Bench) -> None:
    ended = bench.run("spark.sql('SELECT 1')\n")
    assert ended.report["error_type"] == "RuntimeError"
    assert "there is no Spark session" in ended.report["error_summary"]


def test_unknown_names_list_what_exists(rlm: Rlm) -> None:
    with pytest.raises(
        AttributeError, match=r"rlm has no 'llm'; it has: BudgetExhausted, CallError, CallFailed, artifact, "
    ):
        _ = rlm.llm
    with pytest.raises(KeyError, match="the inputs of this run: none"):
        _ = rlm.inputs["x"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "3", True, None, Decimal("NaN")])
def test_metrics_are_numbers(rlm: Rlm, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        rlm.metric("m", value)


def test_values(rlm: Rlm) -> None:
    import numpy

    rlm.finish(
        {"n": numpy.int64(3), "f": numpy.float32(0.5), "d": date(2013, 1, 2), "c": Decimal("2"), "t": (1,)}
    )
    rlm.metric("np", numpy.int64(4))
    said = reported(rlm)
    assert said["value"] == {"n": 3, "f": 0.5, "d": "2013-01-02", "c": 2, "t": [1]}
    assert said["metrics"] == {"np": 4}


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), "x" * 65536, b"x"])
def test_values_that_are_refused(rlm: Rlm, value: Any) -> None:
    rlm.finish("kept")
    with pytest.raises((TypeError, ValueError), match=r"rlm\.finish: .* use rlm\.table or rlm\.artifact"):
        rlm.finish(value)
    assert reported(rlm)["value"] == "kept"


def test_tables(rlm: Rlm) -> None:
    assert rlm.table("delays") == "main.rlm.delays"
    assert rlm.table("nyc.delays") == "main.nyc.delays"
    assert rlm.table("`a`.b.c") == "a.b.c"
    for wrong in ("", "a.b.c.d", "a; drop", "a b"):
        with pytest.raises(ValueError):
            rlm.table(wrong)


def test_artifacts(rlm: Rlm, bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "plot.png").write_bytes(b"png")
    expected = f"{bench.output_dir}/plot.png"
    assert rlm.artifact(tmp_path / "plot.png") != expected  # below the mount point: recorded where it is
    kept = Path(rlm.path("kept.csv"))
    kept.write_text("a")
    assert (
        rlm.artifact(str(kept))
        == rlm.artifact(f"{bench.output_dir}/kept.csv")
        == f"{bench.output_dir}/kept.csv"
    )
    with pytest.raises(FileNotFoundError):
        rlm.artifact("/nowhere/at/all")


def test_artifact_names_of_the_run_are_refused(bench: Bench) -> None:
    ended = bench.run("open('result.json', 'w').close()\nrlm.artifact('result.json')\n")
    assert "result.json is a name of the run itself" in ended.report["error_summary"]


def test_paths(rlm: Rlm, bench: Bench) -> None:
    assert rlm.path("/Volumes/a/b/c") == f"{bench.root}/a/b/c"
    for wrong in ("../x", "/etc/passwd", "/Volumes/a/../b"):
        with pytest.raises(ValueError):
            rlm.path(wrong)


def test_log_is_bounded(rlm: Rlm) -> None:
    for _ in range(300):
        rlm.log("y" * 5000)
    said = reported(rlm)["log"]
    assert len(said) == 201
    assert len(said[0]) == 1000
    assert said[-1] == "(100 more lines were not kept)"
