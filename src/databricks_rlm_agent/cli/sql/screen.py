"""Shows the progress of a SQL workflow: as a live display, plain lines, JSON, or not at all."""

from __future__ import annotations

import codecs
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from databricks_rlm_agent.cli.sql.lines import Progress
from databricks_rlm_agent.sqlflow.model import Plan
from databricks_rlm_agent.sqlflow.run.events import LineObserver, LineSeverity, WorkflowEvent
from databricks_rlm_agent.sqlflow.run.workflow import now

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

_STYLES = {"✓": "green", "✗": "bold red", "!": "yellow", "-": "dim", "→": "cyan"}
_REFRESH_HZ = 8
_INTERRUPTED = "Interrupted: cancelling what runs (once more ends it now).\n"


class PlainScreen:
    """Observes a run, and lets a person be asked in between.

    It shows plain lines, as in a log; those of single statements only with ``statements``.
    """

    def __init__(self, write: Callable[[str], None], *, statements: bool = False) -> None:
        self._output = _PausableOutput(write)
        self._lines = _line_observer(self._output, statements=statements)

    def on(self, event: WorkflowEvent) -> None:
        """Write the line of an event."""
        self._lines.on(event)

    def write(self, lines: Iterable[str]) -> None:
        """Write lines."""
        for line in lines:
            self._output.write(line)

    def paused(self) -> AbstractContextManager[None]:
        """Show nothing while a person is asked; lines of that time are shown afterwards."""
        return self._output.paused()

    def interrupted(self) -> None:
        """Show that the run is being interrupted. Called in a signal handler: it takes no lock."""
        with suppress(OSError):  # the terminal may be gone, which is why
            os.write(2, _INTERRUPTED.encode())

    def leave(self) -> None:
        """Restore the terminal, because the process ends at once. Called in a signal handler."""


class JsonScreen(PlainScreen):
    """Writes each event as a JSON document on one line."""

    def on(self, event: WorkflowEvent) -> None:
        """Write an event."""
        self._output.write(json.dumps(event.to_dict(), default=str))

    def write(self, lines: Iterable[str]) -> None:
        """Write lines to standard output, away from the JSON."""
        for line in lines:
            put(printable(line), sys.stdout)


class NoScreen(PlainScreen):
    """Shows no events."""

    def on(self, event: WorkflowEvent) -> None:
        """Do nothing."""


class LiveScreen(PlainScreen):
    """Shows the plain lines, and below them the progress, on a terminal. Imports rich."""

    def __init__(self, progress: Progress, console: Console, *, statements: bool = False) -> None:
        self._progress, self._console, self._frame = progress, console, 0
        super().__init__(self._print, statements=statements)
        self._live = self._new_display()

    def on(self, event: WorkflowEvent) -> None:
        """Update the progress, and write the line of an event."""
        self._progress.on(event)
        self._lines.on(event)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the display for a while; remove it afterwards, and show the cursor again."""
        self._live.start(refresh=True)
        try:
            yield
        finally:
            with suppress(OSError):  # the terminal is gone
                self._live.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remove the display, and hold lines back."""
        with self._output.paused():
            self._live.stop()
            try:
                yield
            finally:
                self._live = self._new_display()  # one that is started again would wipe out lines above it
                self._live.start(refresh=True)

    def interrupted(self) -> None:
        """Let the display show that the run is being interrupted."""
        self._progress.interrupting = True

    def leave(self) -> None:
        """Show the cursor again."""
        with suppress(OSError):
            os.write(self._console.file.fileno(), b"\x1b[?25h\r\n")

    def _new_display(self) -> Live:
        from rich.live import Live

        return Live(
            console=self._console,
            get_renderable=self._frame_text,
            refresh_per_second=_REFRESH_HZ,
            transient=True,
            redirect_stdout=False,  # nobody else writes there
            redirect_stderr=sys.stderr.isatty(),  # log lines appear above the display
        )

    def _frame_text(self) -> Text:
        from rich.text import Text

        self._frame += 1
        size = self._console.size
        lines = self._progress.lines(now(), size.width, size.height, self._frame)
        return Text("\n".join(map(printable, lines)), no_wrap=True, overflow="ellipsis")

    def _print(self, text: str) -> None:
        from rich.text import Text

        styled = Text("\n").join(_styled(line) for line in text.split("\n"))
        self._console.print(styled, soft_wrap=True)  # at once: the display is drawn again after each print


class _PausableOutput:
    """Writes lines, or holds them back while it is paused. Safe to use from several threads.

    If nobody reads any more, nothing is written: that is no reason to end a run.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._out, self._lock = write, threading.Lock()
        self._held: list[str] | None = None
        self._closed = False

    def write(self, text: str) -> None:
        """Write a line, now or after the pause."""
        with self._lock:
            if self._held is not None:
                self._held.append(text)
            else:
                self._write(text)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold lines back."""
        with self._lock:
            self._held = []
        try:
            yield
        finally:
            with self._lock:
                held, self._held = self._held, None
                for text in held or ():
                    self._write(text)

    def _write(self, text: str) -> None:
        if not self._closed:
            try:
                self._out(printable(text))
            except OSError:
                self._closed = True


def _line_observer(output: _PausableOutput, *, statements: bool) -> LineObserver:
    return LineObserver(output.write, least=LineSeverity.DETAIL if statements else LineSeverity.INFO)


def printable(text: str) -> str:
    """Replace the characters that a terminal would take for a command: messages may hold anything."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


@contextmanager
def screen(plan: Plan, *, how: str | None, statements: bool, document: bool) -> Iterator[PlainScreen]:
    """Provide the screen that the options choose: ``how`` is live, lines, json, none, or None for a default.

    With ``document`` standard output is for one JSON document, and progress goes to standard error.
    """
    out = sys.stderr if document or how == "json" else sys.stdout
    if how is None:
        how = "none" if document else "live"
    if how == "live" and (live := _live(plan, out, statements=statements)) is not None:
        with live.shown():
            yield live
        return
    kinds = {"json": JsonScreen, "none": NoScreen}
    yield kinds.get(how, PlainScreen)(lambda text: put(text, out), statements=statements)


def put(text: str, out: TextIO) -> None:
    """Write a line. If nobody reads any more, nothing is written there from then on."""
    encoding = out.encoding or "utf-8"
    try:  # ✓ is no reason to fail either, where a terminal does not have it
        print(text.encode(encoding, "replace").decode(encoding), file=out, flush=True)
    except OSError:
        with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), out.fileno())


def _live(plan: Plan, out: TextIO, *, statements: bool) -> LiveScreen | None:
    if not out.isatty() or codecs.lookup(out.encoding or "utf-8").name != "utf-8":
        return None
    from rich.console import Console

    console = Console(file=out, highlight=False, markup=False, emoji=False)
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    return LiveScreen(Progress.of(plan), console, statements=statements)


def _styled(line: str) -> Text:
    from rich.text import Text

    text, mark = Text(line), line.strip()[:1]
    if mark in _STYLES:
        at = line.index(mark)
        text.stylize(_STYLES[mark], at, at + 1)
    return text
