"""``init``, ``tick``, ``orchestrate``, ``secrets check``: keep it running."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from types import FrameType

from databricks_rlm_agent.app import App
from databricks_rlm_agent.cli.output import emit
from databricks_rlm_agent.cli.workspace import app_at, say
from databricks_rlm_agent.controller.tick import TickReport
from databricks_rlm_agent.errors import UsageError

INTERRUPTED = 130
GRACE_S = 20.0


@dataclass(kw_only=True)
class Stopping:
    """A request to stop. ``abandon`` is called when the grace is over, right before the process ends."""

    abandon: Callable[[], None]
    grace_s: float = GRACE_S
    _asked: threading.Event = field(default_factory=threading.Event)

    @property
    def asked(self) -> bool:
        """Return whether somebody asked."""
        return self._asked.is_set()

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until somebody asks."""
        self._asked.wait(seconds)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT for the request; a second one ends the process at once."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            self._end()
        self._asked.set()
        say(f"Stopping after this tick (within {self.grace_s:.0f} s; once more ends it now).")
        timer = threading.Timer(self.grace_s, self._end)
        timer.daemon = True
        timer.start()

    def _end(self) -> None:
        self.abandon()
        os._exit(INTERRUPTED)


def init(options: argparse.Namespace) -> int:
    """Create what is missing and repair what is damaged; to run it again changes nothing."""
    with app_at(options) as app:
        done = app.init()
        applied = [{"number": item.number, "summary": item.summary} for item in done.migrations]
        document = {
            "workspace": app.workspace.host,
            "created": done.created,
            "migrations": applied,
            "repaired": done.repaired,
            "harness": done.harness,
        }
        texts = [*done.created, *(f"migration {item['number']} ({item['summary']})" for item in applied)]
        texts += [f"repaired: {text}" for text in done.repaired]
        emit(
            document,
            as_json=options.json,
            text=f"{', '.join(texts) or 'Nothing to do'}. Harness: {done.harness}",
        )
        return 0


def tick(options: argparse.Namespace) -> int:
    """One pass."""
    with app_at(options) as app:
        app.publish_harness()
        if app.intake is not None:
            app.intake()
        report = app.tick()
        if app.intake is not None and report.advanced:
            app.intake.poll()  # the statuses of the items
        emit(
            asdict(report), as_json=options.json, text=f"{report.advanced} of {report.due} due runs went on."
        )
        return 0


def orchestrate(options: argparse.Namespace) -> int:
    """The loop."""
    if options.max_ticks is not None and options.max_ticks < 1:
        raise UsageError(f"--max-ticks is {options.max_ticks}.", fix="Give 1 or more.")
    with app_at(options) as app:
        app.publish_harness()
        max_wait_s = 1.0 if options.until_idle else 5.0
        limit = 1 if options.once else options.max_ticks
        stopping = Stopping(abandon=app.tick.leases.release)
        idle = _done(app, until_idle=options.until_idle)
        with stopping.on_signals():
            loop = replace(
                app.loop(max_wait_s=max_wait_s),
                intake=app.intake,
                sleep=stopping.sleep,
                stopped=lambda: stopping.asked,
            )
            ticks = loop.run(done=idle, max_ticks=limit)
        left = app.store.unfinished()
        emit(
            {"ticks": ticks, "unfinished": left},
            as_json=options.json,
            text=f"{ticks} ticks; {left} runs unfinished.",
        )
        return INTERRUPTED if stopping.asked else 0


def secrets_check(options: argparse.Namespace) -> int:
    """Which secrets are found, and where."""
    with app_at(options) as app:
        found = app.secrets(app.model if options.model or app.settings.model else None)
        document = {
            "scope": found.scope,
            "found": dict(found.sources),
            "required": list(found.required),
            "missing": list(found.missing),
            "problems": list(found.problems),
        }
        lines = [f"✓ {key}: {source}" for key, source in found.sources.items()]
        lines += [
            f"✗ {key}: required, and found neither in the environment nor in scope {found.scope!r}"
            for key in found.missing
        ]
        emit(
            document, as_json=options.json, text="\n".join(lines) or "No secret is set, and none is required."
        )
        if not options.json:
            found.check()
        return 2 if found.missing else 0


def _done(app: App, *, until_idle: bool) -> Callable[[TickReport], bool]:
    if not until_idle:
        return lambda _: False

    def done(report: TickReport) -> bool:
        if report.due or app.store.unfinished():
            return False
        return app.intake is None or app.intake.poll().idle

    return done
