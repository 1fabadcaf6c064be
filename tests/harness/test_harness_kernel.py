"""As a notebook kernel runs it: no `__file__`, streams that are objects, a process that lives on."""

from __future__ import annotations

from harness_support import Bench

KERNEL = """
import io, os, signal, sys, threading, types
sys.modules["IPython"] = types.ModuleType("IPython")
main = sys.argv[1]
sys.argv = [sys.argv[2], *sys.argv[3:]]
shown, real = io.StringIO(), sys.stdout
sys.stdout = sys.stderr = shown
def cell():
    try:
        exec(compile(open(main).read(), "<cell>", "exec"), {"__name__": "__main__"})
    except SystemExit as leaving:
        shown.write(f"exit {leaving.code}")
if os.environ.get("IN_THREAD"):
    worker = threading.Thread(target=cell)
    worker.start()
    worker.join()
else:
    cell()
assert sys.stdout is shown
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
assert signal.set_wakeup_fd(-1) == -1
real.write("alive\\n" + shown.getvalue())
"""


def run(bench: Bench, program: str, **changes: object) -> tuple[int, str]:
    bench.publish(program, **changes)
    main, copy = bench.root / "harness" / "main.py", bench.root / "elsewhere.py"
    main.rename(copy)
    main.write_text(KERNEL)  # what `start` runs; the harness is found by its argument alone
    arguments = [*bench.arguments(), "--harness", str(main.parent)]
    ended = bench.wait(bench.start(str(copy), "ipykernel_launcher.py", *arguments))
    return ended.code, ended.out + ended.err


def test_success_returns_and_the_kernel_lives_on(bench: Bench) -> None:
    code, out = run(bench, "import threading, time\nprint('hello')\nrlm.finish(1)\n")
    assert code == 0, out
    assert out.startswith("alive\nhello\n")
    assert "exit" not in out
    assert (bench.read_result() or {})["value"] == 1


def test_failure_is_a_system_exit(bench: Bench) -> None:
    code, out = run(bench, "raise ValueError('x')\n")
    assert code == 0, out
    assert out.endswith("exit 1")


def test_outside_of_the_main_thread(bench: Bench) -> None:
    bench.env = {"IN_THREAD": "1"}
    code, out = run(bench, "while True: pass\n", timeout_s=0.3)
    assert code == 0, out
    assert out.endswith("exit 124")
    assert (bench.read_result() or {})["status"] == "TIMEOUT"
