"""Variables between real processes: success, failure, time-out and kill; DataFrames as tables."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_support import Bench, Ended, create_schema, eventually, keep_session, request_of

from executor_harness import protocol

SCRATCH = "main.rlm_scratch"


class Chain:
    """The iterations of a run: each begins with the variables of the last one that succeeded."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ref: dict[str, Any] | None = None
        bench.iter_n = 0

    def run(self, program: str, **changes: Any) -> Ended:
        self.bench.iter_n += 1
        return self.attempt(program, **changes)

    def attempt(self, program: str, **changes: Any) -> Ended:
        ended = self.bench.run(program, variables=self.ref, scratch_schema=SCRATCH, **changes)
        return self.ended(ended)

    def ended(self, ended: Ended) -> Ended:
        said = ended.report["variables"]
        assert (said is None) or ended.report["status"] == "SUCCESS"
        self.ref = said["ref"] if said else self.ref
        return ended

    def value(self, program: str, **changes: Any) -> Any:
        ended = self.run(program, **changes)
        assert ended.code == 0, ended.err
        return ended.report["value"]


@pytest.fixture
def chain(bench: Bench) -> Chain:
    return Chain(bench)


def test_from_one_process_to_the_next(chain: Chain) -> None:
    ended = chain.run("rlm.vars['seen'] = {1, 2}\nrlm.vars['long'] = 'ä' * 5000\n")
    assert ended.code == 0, ended.err
    index = chain.bench.local(f"{chain.bench.output_dir}/variables.json").read_bytes()
    assert ended.report["variables"] == {
        "ref": {
            "path": f"{chain.bench.output_dir}/variables.json",
            "sha256": hashlib.sha256(index).hexdigest(),
            "iter_n": 1,
        },
        "count": 2,
        "shown": [
            {"name": "seen", "type": "set", "size": "2 items"},
            {"name": "long", "type": "str", "size": "5,000 characters"},
        ],
    }
    assert chain.value("rlm.vars['seen'].add(3)\nrlm.finish(len(rlm.vars['long']))") == 5000
    assert chain.value("rlm.finish(sorted(rlm.vars['seen']))") == [1, 2, 3]


def test_a_failure_in_between(chain: Chain) -> None:
    chain.run("rlm.vars['x'] = [1]")
    failed = chain.run("rlm.vars['x'].append(2)\nrlm.vars['y'] = 3\nraise ValueError('no')")
    assert (failed.report["status"], failed.report["variables"]) == ("FAILED", None)
    assert chain.value("rlm.finish([rlm.vars['x'], list(rlm.vars)])") == [[1], ["x"]]


def test_a_value_that_cannot_be_kept_fails_its_program(chain: Chain) -> None:
    ended = chain.run("rlm.finish(1)\nrlm.vars['f'] = lambda: 1")
    assert ended.report["error_type"] == "TypeError"
    assert "rlm.vars['f']: function cannot be kept" in ended.report["error_summary"]
    ended = chain.run("rlm.vars['l'] = []\nrlm.vars['l'].append(print)")
    assert (ended.code, ended.report["error_type"], chain.ref) == (1, "TypeError", None)


@pytest.mark.parametrize("attempt_keeps", [True, False])
def test_a_kill_in_between(chain: Chain, attempt_keeps: bool) -> None:
    chain.run("rlm.vars['x'] = ['good'] * 2000")
    bench = chain.bench
    bench.iter_n += 1
    # The second way is a kill in the middle of keeping: the files are there, the index is not.
    stop = (
        "open(rlm.path('ready'), 'w').close()\nimport time\ntime.sleep(60)\n"
        if attempt_keeps
        else "def stuck(*_):\n    open(rlm.path('ready'), 'w').close()\n    import time\n    time.sleep(60)\n"
        "rlm.vars._tables.drop = stuck\n"
    )
    bench.publish(f"rlm.vars['x'][0] = 'bad'\nrlm.vars['y'] = 'y' * 5000\n{stop}", variables=chain.ref)
    process = bench.start()
    eventually((bench.folder / "ready").exists)
    os.kill(process.pid, signal.SIGKILL)
    bench.wait(process)
    killed = eventually(bench.read_result)
    assert (killed["status"], killed["error_type"], killed["variables"]) == ("FAILED", "ProcessDied", None)
    bench.attempt = 2
    again = chain.attempt("rlm.finish([set(rlm.vars['x']) == {'good'}, list(rlm.vars)])\nrlm.vars['z'] = 1")
    assert again.report["value"] == [True, ["x"]], again.err
    bench.attempt = 1
    assert chain.value("rlm.finish(list(rlm.vars))") == ["x", "z"]


def test_a_time_out_in_between(chain: Chain) -> None:
    chain.run("rlm.vars['x'] = 1")
    ended = chain.run("rlm.vars['x'] = 2\nimport time\ntime.sleep(60)", timeout_s=1)
    assert (ended.report["status"], ended.report["variables"]) == ("TIMEOUT", None)
    assert chain.value("rlm.finish(rlm.vars['x'])") == 1


def test_a_changed_index_fails_the_program_that_asks(chain: Chain) -> None:
    chain.run("rlm.vars['x'] = 1")
    assert chain.ref is not None
    path = chain.bench.local(chain.ref["path"])
    path.write_bytes(path.read_bytes().replace(b'"1"', b'"2"'))
    ended = chain.run("rlm.finish(rlm.vars['x'])")
    assert ended.report["error_type"] == "VariablesError"
    assert "rlm.vars.clear() starts without those variables" in ended.report["error_summary"]


@pytest.fixture(scope="module")
def shared(sail: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A session that programs share, for its catalog is in memory."""
    from pyspark.sql.connect.session import SparkSession

    remote = f"{sail};session_id={uuid.uuid4()}"
    spark = SparkSession.builder.remote(remote).create()
    create_schema(spark, SCRATCH, tmp_path_factory.mktemp("scratch"))
    yield spark, remote
    spark.client.close()


@pytest.fixture
def frames(chain: Chain, shared: Any) -> Chain:
    chain.bench.env = {"SPARK_REMOTE": shared[1]}
    chain.bench.run_id = "r" + uuid.uuid4().hex[:8]
    keep_session(chain.bench)
    return chain


def tables(shared: Any) -> set[str]:
    return {f"{SCRATCH}.{row[1]}" for row in shared[0].sql(f"SHOW TABLES IN {SCRATCH}").collect()}


def named(chain: Chain) -> set[str]:
    assert chain.ref is not None
    index = json.loads(chain.bench.local(chain.ref["path"]).read_bytes())
    return {entry["table"] for entry in index["variables"].values() if "table" in entry}


def test_data_frames(frames: Chain, shared: Any) -> None:
    before = tables(shared)
    ended = frames.run("rlm.vars['Flights'] = spark.range(1200).selectExpr('id', 'id * 2 AS twice')\n")
    assert ended.code == 0, ended.err
    assert ended.report["variables"]["shown"] == [
        {"name": "Flights", "type": "DataFrame", "size": "1,200 rows \u00d7 2 columns: id, twice"}
    ]
    first = named(frames)
    assert tables(shared) - before == first
    (name,) = first
    assert name.startswith(f"{SCRATCH}.v_")
    assert name.endswith("_flights")
    total = "rlm.vars['Flights'].selectExpr('sum(twice)').collect()[0][0]"
    assert frames.value(f"rlm.finish({total})") == 1200 * 1199
    assert named(frames) == first
    # Replaced by what is computed from it, twice in one program; a plain value lives beside it.
    assert frames.value(
        "for _ in range(2):\n"
        "    old = rlm.vars['Flights']\n"
        "    rlm.vars['Flights'] = old.filter(f'id < {old.count() // 2}')\n"
        "    assert old.count() > rlm.vars['Flights'].count()\n"
        "rlm.vars['Flights'] = rlm.vars['Flights']\n"
        f"rlm.vars['n'] = 1\nrlm.finish({total})"
    ) == 2 * sum(range(300))
    second = named(frames)
    # Another attempt might have begun with the first: it is dropped by the program after.
    assert tables(shared) - before == first | second
    assert frames.value("del rlm.vars['n']\nspark.sql('SELECT 1').collect()\nrlm.finish(1)") == 1
    assert tables(shared) - before == second
    frames.run("del rlm.vars['Flights']\n")
    assert tables(shared) - before == second
    # Without Spark nothing is dropped, and nothing forgotten.
    frames.run("rlm.vars['a'] = 1\n")
    assert tables(shared) - before == second
    frames.run("rlm.vars['a'] = spark.sql('SELECT 2').collect()[0][0]\n")
    assert tables(shared) == before


def test_a_failed_program_leaves_the_last_good_tables(frames: Chain, shared: Any) -> None:
    frames.run("rlm.vars['d'] = spark.range(3)")
    good = named(frames)
    failed = frames.run("rlm.vars['d'] = spark.range(9)\nraise ValueError('no')")
    assert failed.report["status"] == "FAILED"
    assert named(frames) == good
    assert frames.value("rlm.finish(rlm.vars['d'].count())") == 3


def test_what_goes_wrong_with_tables_is_said(frames: Chain, shared: Any) -> None:
    ended = frames.run("rlm.vars['d'] = spark.range(1)")
    shared[0].sql(f"DROP TABLE {next(iter(named(frames)))}").collect()
    ended = frames.run("rlm.vars['d']")
    assert ended.report["error_type"] == "LookupError"
    assert "rlm.vars['d']: table main.rlm_scratch.v_" in ended.report["error_summary"]
    ended = frames.run("rlm.vars['e'] = spark.sql('SELECT nothing FROM absent')")
    assert "rlm.vars['e']: the DataFrame could not be kept as table" in ended.report["error_summary"]


def test_without_a_scratch_schema(bench: Bench, shared: Any) -> None:
    bench.env = {"SPARK_REMOTE": shared[1]}
    ended = bench.run("rlm.vars['d'] = spark.range(1)")
    assert "no scratch schema to keep a DataFrame in" in ended.report["error_summary"]


def test_only_tables_of_variables_are_ever_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    from executor_harness.rlm.variables import ScratchTables

    request = request_of(scratch_schema=SCRATCH)
    said: list[str] = []

    class Spark:
        def sql(self, text: str) -> Any:
            said.append(text)
            return self

        def collect(self) -> None: ...

    wanted = f"{SCRATCH}.v_0123456789ab_x"
    ours = [wanted, "main.rlm.run_state", f"{SCRATCH}.users", "other.rlm_scratch.v_0123456789ab_x"]
    monkeypatch.setitem(sys.modules, "pyspark", sys)
    assert ScratchTables(request, Spark).drop(ours) == []
    assert said == ["DROP TABLE IF EXISTS `main`.`rlm_scratch`.`v_0123456789ab_x`"]


def test_what_cannot_be_dropped_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from executor_harness.rlm.variables import ScratchTables

    request = request_of(scratch_schema=SCRATCH)

    def broken() -> Any:
        raise ConnectionError("no engine")

    monkeypatch.setitem(sys.modules, "pyspark", sys)
    tables = [f"{SCRATCH}.v_0123456789ab_{name}" for name in "ab"]
    assert ScratchTables(request, broken).drop(tables) == [tables[1], tables[0]]
    assert "could not be dropped yet: no engine" in capsys.readouterr().err
    assert ScratchTables(request, broken).drop([]) == []


def test_the_index_is_a_reserved_name() -> None:
    assert protocol.VARIABLES_FILE in protocol.RESERVED_FILES
    assert Path(protocol.VARIABLES_FILE).stem == protocol.VARIABLES_FOLDER
