"""What a person sees of a run: its progress, plain lines, and the live display on a real terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlflow_rig import FakeEngine, loop_step, plan, runner, step

from databricks_rlm_agent.cli.sql.lines import Progress, clock
from databricks_rlm_agent.cli.sql.screen import JsonScreen, PlainScreen, printable, screen
from databricks_rlm_agent.errors import Rejected
from databricks_rlm_agent.sqlflow.run.events import EventKind, LineObserver, LineSeverity, WorkflowEvent
from databricks_rlm_agent.sqltext.errors import Cause, Problem, Severity

AT = datetime(2026, 1, 1, tzinfo=UTC)
WAIT_S = 120.0
CHILD = Path(__file__).with_name("sqlflow_on_terminal.py")


def event(kind: EventKind, after: float = 0.0, **what: Any) -> WorkflowEvent:
    return WorkflowEvent(kind=kind, at=AT + timedelta(seconds=after), **what)


def progress() -> Progress:
    made = Progress(total=4, loops=frozenset({"03_l"}))
    for each in (
        event(EventKind.RUN_STARTED, text="w1"),
        event(EventKind.STAGE_STARTED, text="Stage 3: 2 steps"),
        event(EventKind.STEP_KEPT, step="01_a"),
        event(EventKind.STEP_STARTED, 1, step="02_b"),
        event(EventKind.STEP_FAILED, 2, step="02_b"),
        event(EventKind.STEP_STARTED, 3, step="03_l"),
        event(EventKind.ITERATION_STARTED, 3, step="03_l", iteration=1),
        event(EventKind.ITERATION_DONE, 4, step="03_l", iteration=1, changed=None),
        event(EventKind.ITERATION_STARTED, 4, step="03_l", iteration=2),
        event(EventKind.ITERATION_DONE, 5, step="03_l", iteration=2, changed=8120),
        event(EventKind.ITERATION_STARTED, 5, step="03_l", iteration=3),
        event(EventKind.STATEMENT_STARTED, 5, step="03_l", line=7, statement=2, statements=4),
    ):
        made.on(each)
    return made


def shown(made: Progress, after: float, width: int = 200, height: int = 24) -> list[str]:
    return made.lines(AT + timedelta(seconds=after), width, height)


def test_the_progress_says_how_it_stands() -> None:
    whole, loop = shown(progress(), 75)
    assert whole == f"{'━' * 12}{'─' * 12} 2 of 4 steps · 1:15 · 1 failed · Stage 3"
    assert loop.endswith("03_l   1:12  iteration 3  statement 2 of 4, line 7  changed 8,120")


def test_the_progress_counts_changed_rows_after_the_last_statement_of_a_loop() -> None:
    made = progress()
    made.on(event(EventKind.STATEMENT_DONE, 6, step="03_l", statement=4, statements=4))
    assert "counting changed rows" in shown(made, 6)[1]


def test_a_step_that_is_tried_again_has_not_failed() -> None:
    made = progress()
    made.on(event(EventKind.STEP_STARTED, 6, step="02_b"))
    assert "failed" not in shown(made, 6)[0]
    made.on(event(EventKind.RETRY, 6, step="02_b", text="the statement again"))
    assert any("waits, then the statement again" in line for line in shown(made, 6))
    made.on(event(EventKind.STEP_DONE, 7, step="02_b"))
    assert "2 of 4 steps" in shown(made, 7)[0]


def test_the_progress_shows_checks_and_interruption() -> None:
    made = progress()
    made.on(event(EventKind.CHECKING, 6, text="3 tables", statements=3))
    made.on(event(EventKind.CHECKED, 6, text="main.s.a"))
    assert "checking tables: 1 of 3" in shown(made, 7)[1]
    made.interrupting = True
    assert "Ctrl-C again ends it now" in shown(made, 7)[0]


def test_the_progress_keeps_to_the_terminal() -> None:
    made = progress()
    for number in range(30):
        made.on(event(EventKind.STEP_STARTED, 6, step=f"04_{number}_{'x' * 90}"))
    for width, height in ((40, 10), (20, 5), (3, 2)):
        lines = shown(made, 7, width, height)
        assert len(lines) < max(height, 4)
        assert all(len(line) < width for line in lines)


@settings(max_examples=40, derandomize=True, database=None, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda kind, name, number: event(
                kind, step=name, iteration=number, changed=number, statement=number, statements=3, line=1
            ),
            st.sampled_from(list(EventKind)),
            st.sampled_from(["a", "b", None]),
            st.one_of(st.none(), st.integers(0, 10**12)),
        ),
        max_size=30,
    ),
    st.integers(2, 120),
)
def test_no_order_of_events_breaks_the_progress(events: list[WorkflowEvent], width: int) -> None:
    made = Progress(total=2, loops=frozenset({"b"}))
    for each in events:
        made.on(each)
    assert all(len(line) < width for line in shown(made, 1, width))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (59.96, "59.9 s"), (60, "1:00"), (3599.9, "59:59"), (7207, "2:00:07")]
)
def test_the_clock(seconds: float, text: str) -> None:
    assert clock(timedelta(seconds=seconds)) == text


def test_lines_of_statements_are_there_when_they_are_asked_for() -> None:
    done = event(
        EventKind.STATEMENT_DONE, step="01_a", file="01_a.sql", line=3, text="merge", rows=1, seconds=0.25
    )
    lines: list[str] = []
    LineObserver(lines.append).on(done)
    assert lines == []
    LineObserver(lines.append, least=LineSeverity.DETAIL).on(done)
    assert lines == ["    01_a.sql:3 merge 1 row (0.2 s)"]


def test_a_message_of_pages_is_cut() -> None:
    long = Problem(kind=Cause.DATA, severity=Severity.CRITICAL, message="no\n" * 9000, hint="h", file="a.sql")
    lines: list[str] = []
    LineObserver(lines.append).on(event(EventKind.STEP_FAILED, step="01_a", seconds=1.0, problem=long))
    LineObserver(lines.append).on(event(EventKind.RETRY, step="01_a", text="again", problem=long))
    assert len(lines[0]) < 6000
    assert "characters left out" in lines[0]
    assert all(line.startswith("    ") for line in lines[0].splitlines()[1:])
    assert len(lines[1].splitlines()) == 1
    assert len(lines[1]) < 500


def test_any_name_can_be_written_to_any_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"01_\xff.sql")
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    with screen(plan(), how="lines", statements=False, document=False) as made:
        made.on(event(EventKind.STEP_DONE, step=name, seconds=1.0))
    assert out.buffer.getvalue() == b"? 01_?.sql (1.0 s)\n"  # type: ignore[attr-defined]
    out.close()


def test_nothing_that_a_terminal_obeys_gets_through() -> None:
    lines: list[str] = []
    PlainScreen(lines.append).on(event(EventKind.STEP_STARTED, step="01\x1b[2Jx\x07"))
    assert lines == ["• 01\ufffd[2Jx\ufffd"]
    assert printable("a\tb\nç✓") == "a\tb\nç✓"


def test_what_happens_while_a_person_is_asked_is_shown_afterwards() -> None:
    lines: list[str] = []
    made = PlainScreen(lines.append)
    with made.paused():
        made.on(event(EventKind.STEP_STARTED, step="01_a"))
        assert lines == []
    made.on(event(EventKind.STEP_STARTED, step="01_b"))
    assert lines == ["• 01_a", "• 01_b"]


def test_events_as_json_lines() -> None:
    lines: list[str] = []
    JsonScreen(lines.append).on(event(EventKind.ITERATION_DONE, step="a\x1b", iteration=2, changed=0))
    document = json.loads(lines[0])
    assert document["kind"] == "iteration_done"
    assert (document["changed"], document["iteration"], document["step"]) == (0, 2, "a\x1b")


def test_the_report_does_not_stand_among_events(capsys: pytest.CaptureFixture[str]) -> None:
    with screen(plan(), how="json", statements=False, document=False) as made:
        made.write(["a report"])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a report\n", "")


@pytest.mark.parametrize(
    ("how", "document", "out", "err"),
    [
        (None, False, True, False),
        (None, True, False, False),
        ("lines", True, False, True),
        ("none", False, False, False),
        ("json", False, False, True),
        ("live", False, True, False),  # nothing here is a terminal
    ],
)
def test_where_progress_goes(
    how: str | None, document: bool, out: bool, err: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with screen(plan(), how=how, statements=False, document=document) as made:
        made.on(event(EventKind.STEP_STARTED, step="01_a"))
    captured = capsys.readouterr()
    assert ("01_a" in captured.out, "01_a" in captured.err) == (out, err)


def test_the_lines_of_a_run_show_stages_steps_iterations_and_checks() -> None:
    lines: list[str] = []

    def fetch(sql: str) -> list[dict[str, Any]]:
        if sql.startswith("DESCRIBE"):
            raise Rejected("[UNSUPPORTED] no")
        return [{"n": 0}]

    made = plan(
        step("01_a.sql", "CREATE OR REPLACE TABLE a AS SELECT 1 AS id"),
        loop_step("02_l_iter", ["CREATE OR REPLACE TABLE l_1 AS SELECT 1 AS id"], convergence="SELECT 0"),
    )
    runner(made, FakeEngine(on_fetch=fetch), observer=PlainScreen(lines.append)).run()
    text = re.sub(r"\(\d.*?\)", "()", "\n".join(lines))
    for line in (
        "Stage 1: 1 step",
        "• 01_a.sql",
        "✓ 01_a.sql 1 row ()",
        "  • 02_l_iter iteration 1: 0 rows changed ()",
        "✓ 02_l_iter 1 row ()",
        "checking 2 tables and views",
    ):
        assert line in text.splitlines()


def test_a_reader_that_has_gone_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    made = plan(step("01_a.sql", "CREATE OR REPLACE TABLE a AS SELECT 1 AS id"))
    with os.fdopen(write, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with screen(made, how=None, statements=True, document=False) as display:
            assert runner(made, FakeEngine(), observer=display).run().exit_code == 0
        display.write(["the report"])


class Terminal:
    """A child on a terminal of its own, and all that it wrote."""

    def __init__(self, *arguments: str, columns: int = 80, **environ: str) -> None:
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        given = {"PATH": os.environ["PATH"], "TERM": "xterm", "PYTHONUTF8": "1"} | environ
        command = [sys.executable, str(CHILD), *arguments]
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=given, start_new_session=True
        )
        os.close(slave)
        self.wrote = ""

    def until(self, wanted: Callable[[str], bool]) -> str:
        """Read until it is so, or nothing more comes."""
        end = time.monotonic() + WAIT_S
        while not wanted(self.wrote) and time.monotonic() < end:
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.wrote += os.read(self._master, 65536).decode(errors="replace")
                except OSError:  # the other end is closed
                    break
        assert wanted(self.wrote), self.wrote
        return self.wrote

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """Read to the end; the exit code."""
        end = time.monotonic() + WAIT_S
        while self._process.poll() is None and time.monotonic() < end:
            self._drain(0.05)
        self._drain(0.0)
        assert self._process.poll() is not None, self.wrote
        os.close(self._master)
        return self._process.returncode

    def _drain(self, wait: float) -> None:
        while select.select([self._master], [], [], wait)[0]:
            try:
                got = os.read(self._master, 65536)
            except OSError:
                return
            if not got:
                return
            self.wrote += got.decode(errors="replace")


def plain(text: str) -> str:
    """What stays, without commands to the terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def cursor_shown(text: str) -> bool:
    return text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")


def test_on_a_terminal_a_display_asks_and_goes_on() -> None:
    child = Terminal("token and ask")
    child.until(lambda text: "Access token: " in text)
    child.type("dapi-secret\n")
    child.until(lambda text: "[s]top?" in text)
    child.type("what\n")
    child.until(lambda text: text.count("[s]top?") == 2)
    child.type("r\n")
    child.until(lambda text: text.count("[s]top?") == 3)
    child.type("c\n")
    assert child.end() == 1
    text = plain(child.wrote)
    assert "dapi-secret" not in text
    assert "11 characters" in text
    assert "━" in text
    assert "statement 1 of 1, line 1" in text  # of the step that went on meanwhile
    assert "at 01_bad.sql:1" in text
    assert "✓ 01_slow" in text
    assert cursor_shown(child.wrote)


@pytest.mark.parametrize("point", ["at the question", "while it runs"])
def test_an_interruption_leaves_the_terminal_whole(point: str) -> None:
    child = Terminal("ask" if point == "at the question" else "slow", columns=50, NO_COLOR="1")
    child.until(lambda text: ("[s]top?" if point == "at the question" else "01_slow  ") in text)
    child.signal(signal.SIGINT if point == "at the question" else signal.SIGHUP)
    assert child.end() == 130
    assert "interrupted, " in plain(child.wrote)
    assert cursor_shown(child.wrote)
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9]m", child.wrote)  # NO_COLOR


def test_a_second_ctrl_c_ends_it_at_once_and_shows_the_cursor() -> None:
    child = Terminal("stuck")
    child.until(lambda text: "01_slow  " in text)
    child.signal(signal.SIGINT)
    child.until(lambda text: "interrupting" in text)
    child.signal(signal.SIGINT)
    assert child.end() == 130
    assert cursor_shown(child.wrote)


def test_a_dumb_terminal_gets_plain_lines() -> None:
    child = Terminal("quick", TERM="dumb")
    assert child.end() == 0
    assert "\x1b" not in child.wrote
    assert "✓ 01_slow" in child.wrote
