"""How a program ended is what result.json, the exit code and the streams say. No Spark here."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from harness_support import Bench, Ended, eventually


def assert_failed(ended: Ended, error_type: str, *said: str, code: int = 1) -> None:
    report = ended.report
    assert (report["status"], report["error_type"]) == ("FAILED", error_type), (report, ended.err)
    assert ended.code == report["exit_code"] == code
    for text in said:
        assert text in report["error_summary"]


def test_success_reports_everything(bench: Bench) -> None:
    ended = bench.run(
        "import sys, os\nprint('hello')\nprint('oops', file=sys.stderr)\n"
        "rlm.metric('n', 3)\nrlm.metric('share', 0.5)\nrlm.log('half way')\nrlm.finish('no')\n"
        "assert __name__ == '__main__' and sys.argv == [__file__], sys.argv\n"
        "open('table.csv', 'w').write('a')\nrlm.artifact('table.csv')\nrlm.finish({'a': [1, None]})\n"
    )
    report = ended.report
    assert ended.code == 0, ended.err
    assert report["status"] == "SUCCESS"
    assert report["value"] == {"a": [1, None]}
    assert report["metrics"] == {"n": 3, "share": 0.5}
    assert report["log"] == ["half way"]
    assert report["produced_artifacts"][0]["path"] == f"{bench.output_dir}/table.csv"
    assert (ended.folder / "table.csv").read_text() == "a"
    assert (ended.folder / "stdout.txt").read_text() == "hello\n" == ended.out
    assert (ended.folder / "stderr.txt").read_text() == "oops\n"
    assert report["stdout"] == {
        "path": f"{bench.output_dir}/stdout.txt", "bytes": 6, "truncated": False,
        "head": "hello\n", "tail": ""
    }  # fmt: skip
    assert report["error_type"] is report["traceback"] is None
    assert report["started_at"] <= report["finished_at"]
    # Without Spark there is no row, and that is said; the result stands.
    assert "the row was not added" in ended.err
    assert list((bench.root / "tmp").iterdir()) == []


def test_exception_names_the_line_and_hides_the_harness(bench: Bench) -> None:
    ended = bench.run("def f():\n    return {}['k' * 3]\n\n\nf()\n")
    assert_failed(ended, "KeyError", "line 2 of entrypoint.py: KeyError: 'kkk'")
    trace = ended.report["traceback"]
    assert "return {}['k' * 3]" in trace, trace
    assert f"{bench.output_dir}/entrypoint.py" in trace
    assert "executor_harness" not in trace


def test_chained_and_hostile_exceptions(bench: Bench) -> None:
    program = (
        "class Odd(Exception):\n    def __str__(self):\n        raise SystemExit(0)\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise Odd() from e\n"
    )
    ended = bench.run(program)
    assert_failed(ended, "Odd", "its text could not be made")
    assert "ZeroDivisionError" in ended.report["traceback"]


@pytest.mark.parametrize(
    ("program", "error_type"),
    [
        ("def f(:\n", "SyntaxError"),
        (b"x = '\xff'\n", "SyntaxError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit('x')", "GeneratorExit"),
        ("class Own(BaseException): pass\nraise Own('x')", "Own"),
        ("def f(): f()\nf()", "RecursionError"),
        ("import sys\nsys.setrecursionlimit(60)\ndef f(): f()\nf()", "RecursionError"),
        ("x = bytearray(1 << 60)", "MemoryError"),
        ("rlm.nothing", "AttributeError"),
    ],
)
def test_everything_raised_is_reported(bench: Bench, program: str | bytes, error_type: str) -> None:
    assert_failed(bench.run(program), error_type)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("sys.exit(3)", 3),
        ("sys.exit('no luck')", 1),
        ("sys.exit(-1)", 255),
        ("sys.exit(256)", 1),
        ("os._exit(4)", 4),
        ("raise SystemExit(True)", 1),
    ],
)
def test_exits_that_fail(bench: Bench, call: str, code: int) -> None:
    ended = bench.run(f"import sys, os\nprint('before')\n{call}\n")
    assert_failed(ended, "SystemExit", "line 3 of entrypoint.py", code=code)
    assert ended.out == "before\n"


@pytest.mark.parametrize("call", ["sys.exit()", "sys.exit(0)", "os._exit(0)", "sys.exit(None)"])
def test_exits_that_succeed(bench: Bench, call: str) -> None:
    ended = bench.run(f"import sys, os\nrlm.finish(1)\n{call}\n")
    assert (ended.code, ended.report["status"], ended.report["value"]) == (0, "SUCCESS", 1)


def test_os_exit_in_a_thread_ends_the_program(bench: Bench) -> None:
    ended = bench.run(
        "import threading, time, os\nthreading.Thread(target=lambda: os._exit(7)).start()\ntime.sleep(60)\n"
    )
    assert_failed(ended, "SystemExit", "os._exit(7)", code=7)


@pytest.mark.parametrize(
    "death",
    [
        "import ctypes; ctypes.string_at(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import ctypes; ctypes.CDLL(None)._exit(0)",
        "import os; os.abort()",
        "import os; os.execv('/bin/sh', ['sh', '-c', 'exit 0'])",
    ],
)
def test_a_dead_process_still_leaves_a_result(bench: Bench, death: str) -> None:
    bench.publish(f"print('last words', flush=True)\n{death}\n")
    process = bench.start()
    bench.wait(process)
    report = eventually(bench.read_result)
    assert (report["status"], report["error_type"]) == ("FAILED", "ProcessDied")
    assert report["stdout"]["head"] == "last words\n"
    assert (bench.folder / "stdout.txt").read_text() == "last words\n"
    assert report["reported_by"] == "executor"


def test_segfault_says_where(bench: Bench) -> None:
    bench.publish("import ctypes\n\nctypes.string_at(0)\n")
    bench.wait(bench.start())
    report = eventually(bench.read_result)
    assert "Segmentation fault" in report["error_summary"], report
    assert "line 3" in report["stderr"]["head"]


class TestTimeout:
    """Whatever the program does, it ends with TIMEOUT and 124."""

    def check(self, ended: Ended, *said: str) -> None:
        report = ended.report
        assert (report["status"], report["error_type"]) == ("TIMEOUT", "Timeout"), (report, ended.err)
        assert "stopped after 0.5 s (timeout_s)" in report["error_summary"]
        for text in said:
            assert text in report["error_summary"]
        assert report["exit_code"] == 124

    @pytest.mark.parametrize(
        ("program", "where"),
        [
            ("import time\nprint('a')\ntime.sleep(100)\n", "line 3"),
            ("while True:\n    pass\n", "line"),
            (
                (
                    "import time\nwhile True:\n    try:\n        time.sleep(100)\n"
                    "    except BaseException: pass\n"
                ),
                "line",
            ),
            ("import threading\nthreading.Event().wait()\n", "line 2"),
            ("import subprocess\nsubprocess.run(['sleep', '100'])\n", "line 2"),
            (
                "import signal, time\nsignal.signal(signal.SIGUSR2, signal.SIG_IGN)\ntime.sleep(100)\n",
                "line 3",
            ),
            ("import ctypes\nctypes.CDLL(None).sleep(100)\nctypes.CDLL(None).sleep(100)\n", ""),
            ("import os\nos.closerange(3, 200)\nwhile True: pass\n", "line"),
        ],
    )
    def test_stops(self, bench: Bench, program: str, where: str) -> None:
        ended = bench.run(program, timeout_s=0.5)
        self.check(ended, where)
        assert ended.code == 124

    def test_program_that_holds_the_interpreter_is_killed(self, bench: Bench) -> None:
        bench.publish(
            "import ctypes\nprint('in')\nctypes.PyDLL(None).sleep(600)\n",
            timeout_s=0.5,
            limits={"grace_s": 0.1},
        )
        process = bench.start()
        ended = bench.wait(process)
        assert ended.code == -signal.SIGKILL
        self.check(ended, "killed")
        assert ended.report["stdout"]["head"] == "in\n"

    def test_children_and_threads_end_too(self, bench: Bench) -> None:
        ended = bench.run(
            "import subprocess, threading, time\n"
            "child = subprocess.Popen(['sleep', '300'])\n"
            "open(rlm.path('pid'), 'w').write(str(child.pid))\n"
            "threading.Thread(target=time.sleep, args=(300,)).start()\n"
            "time.sleep(300)\n",
            timeout_s=0.5,
        )
        self.check(ended)
        assert any("1 child processes" in line for line in ended.report["log"])
        assert any("1 threads" in line for line in ended.report["log"])
        assert_gone(int((ended.folder / "pid").read_text()))

    def test_result_of_a_program_that_finishes_in_the_grace_is_still_timeout(self, bench: Bench) -> None:
        ended = bench.run(
            "import time\ntry:\n    time.sleep(100)\nexcept BaseException:\n    rlm.finish('cleaned up')\n",
            timeout_s=0.5,
        )
        self.check(ended)
        assert ended.report["value"] == "cleaned up"


def assert_gone(pid: int) -> None:
    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # A zombie has ended; nobody has collected it yet.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    eventually(gone)


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize(
    "program",
    [
        "import time\ntime.sleep(100)",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ],
)
def test_sigterm_is_cancelled(bench: Bench, program: str, group: bool) -> None:
    bench.publish("open(rlm.path('ready'), 'w').close()\n" + program)
    process = bench.start()
    eventually((bench.folder / "ready").exists)
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    ended = bench.wait(process)
    assert ended.code == 143
    assert (ended.report["status"], ended.report["error_type"]) == ("CANCELLED", "Cancelled")


def test_killed_while_it_is_cancelled_is_cancelled(bench: Bench) -> None:
    """The platform waits only so long; the watcher then says what it was told."""
    bench.publish(
        "import time\nwhile True:\n    try:\n        open(rlm.path('ready'), 'w').close()\n"
        "        time.sleep(100)\n    except BaseException:\n        open(rlm.path('asked'), 'w').close()\n",
        limits={"grace_s": 60},
    )
    process = bench.start()
    eventually((bench.folder / "ready").exists)
    os.killpg(process.pid, signal.SIGTERM)
    eventually((bench.folder / "asked").exists)
    os.killpg(process.pid, signal.SIGKILL)
    ended = bench.wait(process)
    assert ended.code == -signal.SIGKILL
    assert (ended.report["status"], ended.report["error_type"]) == ("CANCELLED", "Cancelled")
    assert ended.report["exit_code"] == 143


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGKILL])
def test_a_result_that_was_complete_before_the_kill_is_kept(bench: Bench, first: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # an engine that never answers: the row takes long
        bench.env = {"SPARK_REMOTE": f"sc://127.0.0.1:{deaf.getsockname()[1]}"}
        bench.publish("rlm.finish('made it')\n")
        process = bench.start()
        path = bench.folder / "result.json"
        eventually(lambda: path.exists() and path.read_bytes().endswith(b"}\n"))
        os.killpg(process.pid, first)
        os.killpg(process.pid, signal.SIGKILL)
        ended = bench.wait(process)
    assert ended.code == -signal.SIGKILL
    assert (ended.report["status"], ended.report["value"]) == ("SUCCESS", "made it")


def test_terminating_a_worker_does_not_cancel_the_run(bench: Bench) -> None:
    ended = bench.run(
        "import multiprocessing as m, time\n"
        "ctx = m.get_context('fork')\n"
        "p = ctx.Process(target=time.sleep, args=(100,))\np.start()\ntime.sleep(0.2)\n"
        "p.terminate()\np.join()\n"
        "q = ctx.Pool(2)\nrlm.finish(q.map(abs, [-1, 2]))\nq.terminate()\nq.join()\n"
        "assert p.exitcode == -15, p.exitcode\n"
    )
    assert (ended.code, ended.report["value"]) == (0, [1, 2]), ended.err


def test_ending_workers_as_they_start_does_not_cancel_the_run(bench: Bench) -> None:
    ended = bench.run(
        "import os, signal, time\nfor _ in range(300):\n    pid = os.fork()\n"
        "    if not pid:\n        time.sleep(50)\n"
        "    os.kill(pid, signal.SIGTERM)\n    os.waitpid(pid, 0)\nrlm.finish('done')\n"
    )
    assert (ended.code, ended.report["value"]) == (0, "done"), ended.err


def test_a_fork_that_runs_off_the_end_does_not_report(bench: Bench) -> None:
    ended = bench.run(
        "import os, sys\npid = os.fork()\n"
        "if pid:\n    rlm.finish(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n    print('parent')\n"
        "else:\n    sys.exit(5)\n"
    )
    assert (ended.report["status"], ended.report["value"]) == ("SUCCESS", 5), ended.err
    assert ended.out == "parent\n"


def test_leftovers_do_not_keep_the_job_alive(bench: Bench) -> None:
    ended = bench.run(
        "import threading, time, atexit, subprocess\n"
        "for daemon in (True, False):\n"
        "    threading.Thread(target=time.sleep, args=(300,), daemon=daemon).start()\n"
        "atexit.register(time.sleep, 300)\n"
        "open(rlm.path('pid'), 'w').write(str(subprocess.Popen(['sleep', '300']).pid))\nprint('end')\n"
    )
    assert (ended.code, ended.report["status"]) == (0, "SUCCESS")
    assert any(line.startswith("2 threads") for line in ended.report["log"])
    assert ended.out == "end\n"
    assert_gone(int((ended.folder / "pid").read_text()))


@pytest.mark.parametrize(
    "mischief",
    [
        "import sys, io; sys.stdout = io.StringIO(); print('lost')",
        "import sys; sys.stdout = sys.stderr = None",
        "import sys; sys.stdout.close()",
        "import os; os.close(1); os.close(2)",
        "import os; os.chdir('/')",
        "import os, shutil; d = os.getcwd(); os.chdir('/'); shutil.rmtree(d)",
        "import os; os.rmdir(os.getcwd())",
        "import shutil; shutil.rmtree(rlm.path('x').rsplit('/', 1)[0])",
        (
            "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            "signal.signal(signal.SIGUSR2, signal.SIG_DFL)"
        ),
        "import sys; sys.setrecursionlimit(40)",
        "import sys; sys.path.clear(); sys.argv.clear()",
        "import os; os.environ.clear()",
        "import asyncio; asyncio.run(asyncio.sleep(0))",
        "import sys; sys.settrace(lambda *a: None); sys.setswitchinterval(10)",
        "open(rlm.path('result.json'), 'w').write('forged')",
    ],
)
def test_mischief_still_ends_in_success(bench: Bench, mischief: str) -> None:
    ended = bench.run(mischief + "\nrlm.finish('made it')\n")
    assert (ended.code, ended.report["status"], ended.report["value"]) == (0, "SUCCESS", "made it"), ended.err
    assert "Traceback" not in ended.err
