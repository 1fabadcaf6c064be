"""Where the progress of a SQL workflow is shown: a live display, plain lines, JSON, or nowhere."""

from __future__ import annotations

import codecs
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from databricks_rlm_agent.cli.sql.board import Board
from databricks_rlm_agent.cli.sql.report import LineReporter, printable
from databricks_rlm_agent.sqlflow.model import Plan
from databricks_rlm_agent.sqlflow.run.events import WorkflowEvent
from databricks_rlm_agent.sqlflow.run.workflow import now

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

_STYLES = {"✓": "green", "✗": "bold red", "!": "yellow", "-": "dim", "→": "cyan"}
_REFRESH_HZ = 8
_INTERRUPTED = "Interrupted: cancelling what runs (once more ends it now).\n"


class Screen(Protocol):
    """Observes a run, and lets a person be asked in between."""

    def on(self, event: WorkflowEvent) -> None:
        """Show it, if it is worth it."""

    def tell(self, lines: Iterable[str]) -> None:
        """Show lines for a person."""

    def paused(self) -> AbstractContextManager[None]:
        """Show nothing while a person is asked; what happens meanwhile is shown afterwards."""

    def interrupted(self) -> None:
        """Say that the run is being interrupted. Called in a signal handler: it takes no lock."""

    def leave(self) -> None:
        """Leave the terminal whole: the process ends at once. Called in a signal handler."""


class PlainScreen:
    """Plain lines, as a log has them."""

    def __init__(self, write: Callable[[str], None], *, statements: bool = False) -> None:
        self._gate = _Gate(write)
        self._lines = LineReporter(self._gate.write, statements=statements)

    def on(self, event: WorkflowEvent) -> None:
        """Write a line, if it is worth one."""
        self._lines.on(event)

    def tell(self, lines: Iterable[str]) -> None:
        """Write them."""
        for line in lines:
            self._gate.write(line)

    def paused(self) -> AbstractContextManager[None]:
        """Hold lines back."""
        return self._gate.closed()

    def interrupted(self) -> None:
        """Say so."""
        with suppress(OSError):  # the terminal may be gone: that is why
            os.write(2, _INTERRUPTED.encode())

    def leave(self) -> None:
        """There is nothing to leave."""


class JsonScreen(PlainScreen):
    """One JSON document for each event, on a line."""

    def on(self, event: WorkflowEvent) -> None:
        """Write it."""
        self._gate.write(json.dumps(event.to_dict(), default=str))

    def tell(self, lines: Iterable[str]) -> None:
        """Write them elsewhere: who reads JSON should not stumble over them."""
        for line in lines:
            put(printable(line), sys.stdout)


class NoScreen(PlainScreen):
    """Shows nothing of the progress."""

    def on(self, event: WorkflowEvent) -> None:
        """Nothing."""


class LiveScreen:
    """The same lines as when piped, and below them how it stands now, on a terminal. Imports rich."""

    def __init__(self, board: Board, console: Console, *, statements: bool = False) -> None:
        self._board, self._console, self._beat = board, console, 0
        self._gate = _Gate(self._print)
        self._lines = LineReporter(self._gate.write, statements=statements)
        self._live = self._new()

    def on(self, event: WorkflowEvent) -> None:
        """Take note, and write a line, if it is worth one."""
        self._board.on(event)
        self._lines.on(event)

    def tell(self, lines: Iterable[str]) -> None:
        """Write them."""
        for line in lines:
            self._gate.write(line)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the display for a while; it is gone afterwards, and the cursor is there again."""
        self._live.start(refresh=True)
        try:
            yield
        finally:
            with suppress(OSError):  # the terminal is gone
                self._live.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the display away, and hold lines back."""
        with self._gate.closed():
            self._live.stop()
            try:
                yield
            finally:
                self._live = self._new()  # one that is started again would wipe out lines above it
                self._live.start(refresh=True)

    def interrupted(self) -> None:
        """The display says so."""
        self._board.interrupting = True

    def leave(self) -> None:
        """Show the cursor again."""
        with suppress(OSError):
            os.write(self._console.file.fileno(), b"\x1b[?25h\r\n")

    def _new(self) -> Live:
        from rich.live import Live

        return Live(
            console=self._console,
            get_renderable=self._picture,
            refresh_per_second=_REFRESH_HZ,
            transient=True,
            redirect_stdout=False,  # there is nobody else who writes there
            redirect_stderr=sys.stderr.isatty(),  # what is logged stands above the display
        )

    def _picture(self) -> Text:
        from rich.text import Text

        self._beat += 1
        size = self._console.size
        lines = self._board.lines(now(), size.width, size.height, self._beat)
        return Text("\n".join(map(printable, lines)), no_wrap=True, overflow="ellipsis")

    def _print(self, text: str) -> None:
        from rich.text import Text

        whole = Text("\n").join(_styled(line) for line in text.split("\n"))
        self._console.print(whole, soft_wrap=True)  # at once: the display is drawn anew after each print


class _Gate:
    """Lets lines through, or holds them back until it is opened. Safe to use from several threads.

    Where nobody reads any more, it is silent: that is no reason to end a run.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._out, self._lock = write, threading.Lock()
        self._held: list[str] | None = None
        self._gone = False

    def write(self, text: str) -> None:
        """Write it, now or later."""
        with self._lock:
            if self._held is not None:
                self._held.append(text)
            else:
                self._write(text)

    @contextmanager
    def closed(self) -> Iterator[None]:
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
        if not self._gone:
            try:
                self._out(printable(text))
            except OSError:
                self._gone = True


@contextmanager
def screen(plan: Plan, *, how: str | None, statements: bool, document: bool) -> Iterator[Screen]:
    """The screen that the options choose: ``how`` is live, lines, json, none, or left to the place.

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
    """Write a line. Where nobody reads any more, nothing is written, there and from then on."""
    encoding = out.encoding or "utf-8"
    try:  # ✓ is no reason to fail either, where a terminal does not have it
        print(text.encode(encoding, "replace").decode(encoding), file=out, flush=True)
    except OSError:
        with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), out.fileno())


def _live(plan: Plan, out: TextIO, *, statements: bool) -> LiveScreen | None:
    """A live display, where the terminal can have one."""
    if not out.isatty() or codecs.lookup(out.encoding or "utf-8").name != "utf-8":
        return None
    from rich.console import Console

    console = Console(file=out, highlight=False, markup=False, emoji=False)
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    return LiveScreen(Board.of(plan), console, statements=statements)


def _styled(line: str) -> Text:
    from rich.text import Text

    text, mark = Text(line), line.strip()[:1]
    if mark in _STYLES:
        place = line.index(mark)
        text.stylize(_STYLES[mark], place, place + 1)
    return text
