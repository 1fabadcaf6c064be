"""``init``, ``doctor``, ``tick``, ``orchestrate``, ``secrets check``: keep it running.

``doctor`` looks at everything that a controller and its programs need, and says what to do. It works from a
laptop and inside of a job. It changes nothing that is kept: one file is written into the Volume and deleted
again, and a model is asked for one word.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from types import FrameType
from typing import Any

from databricks_rlm_agent.app import App
from databricks_rlm_agent.cli.inspect import emit
from databricks_rlm_agent.cli.workspace import app_at, command_line, say
from databricks_rlm_agent.controller import bundle
from databricks_rlm_agent.controller.tick import TickReport
from databricks_rlm_agent.errors import ConfigError, InvalidData, NotFound, RlmError, UsageError
from databricks_rlm_agent.models import parse_models, sub_endpoint
from databricks_rlm_agent.storage.schema import faults

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


MAX_SKEW_S = 60.0
_PROBE = b"A file of rlm-agent doctor, which deletes it again.\n"


def doctor(options: argparse.Namespace) -> int:
    """Check one thing after the other; the exit code is the worst one's."""
    with app_at(options) as app:
        checks = [_run(name, check) for name, check in _checks(app, options)]
        lines = [f"{'✓' if check['ok'] else '✗'} {check['check']}: {check['detail']}" for check in checks]
        emit(
            {"ok": all(check["ok"] for check in checks), "checks": checks},
            as_json=options.json,
            text="\n".join(lines),
        )
        return int(max(check["exit_code"] for check in checks))


def _run(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"check": name, "ok": True, "detail": check(), "exit_code": 0}
    except RlmError as error:
        return {"check": name, "ok": False, "detail": str(error), "exit_code": error.exit_code}
    except Exception as error:  # noqa: BLE001 - one check that breaks must not hide the others
        detail = f"The check itself failed: {type(error).__name__}: {error}"
        return {"check": name, "ok": False, "detail": detail, "exit_code": 1}


def _checks(app: App, options: argparse.Namespace) -> list[tuple[str, Callable[[], str]]]:
    return [
        ("workspace", lambda: f"{app.workspace.host} as {app.workspace.identity()}"),
        ("warehouse", lambda: _warehouse(app)),
        ("clock", lambda: _clock(app)),
        ("tables", lambda: _tables(app, command_line(options, "init"))),
        ("volume", lambda: _volume(app)),
        ("harness", lambda: bundle.verify(app.volume, app.settings.namespace)),
        ("work table", lambda: _work_table(app)),
        ("secrets", lambda: _secrets(app)),
        ("model", lambda: _model(app)),
        ("sub-model", lambda: _sub_model(app)),
        ("jobs", lambda: app.jobs.probe()),
    ]


def _warehouse(app: App) -> str:
    app.warehouse.fetch("SELECT 1 AS one")
    return str(app.settings.warehouse_http_path)


def _clock(app: App) -> str:
    """Compare this machine's clock with the warehouse's, by which leases end and runs become due."""
    before = time.time()
    row = app.warehouse.fetch("SELECT unix_micros(current_timestamp()) AS now_us")[0]
    after = time.time()
    theirs = int(row["now_us"]) / 1e6
    skew = max(before - theirs, theirs - after, 0.0)
    if skew > MAX_SKEW_S:
        raise ConfigError(
            f"This machine's clock and the warehouse's differ by {skew:.0f} s.",
            fix="Set the clock (NTP): times in the tables would contradict each other.",
        )
    return f"differs from the warehouse's by at most {max(skew, after - before):.1f} s"


def _tables(app: App, init: str) -> str:
    names = app.settings.namespace
    if found := faults(app.warehouse, names):
        raise InvalidData("; ".join(found) + ".", where=f"{names.catalog}.{names.schema}", fix=f"Run: {init}")
    return f"{names.catalog}.{names.schema}, {app.store.unfinished()} unfinished runs"


def _volume(app: App) -> str:
    root = app.settings.namespace.volume_root
    path = f"{root}/{app.new_id('doctor-')}"
    app.volume.put(path, _PROBE, overwrite=True)
    try:
        if app.volume.get(path) != _PROBE:
            raise InvalidData("A file reads differently from what was written.", where=path)
    finally:
        app.volume.delete(path)
    return f"{root}: written, read, deleted"


def _work_table(app: App) -> str:
    if app.intake is None:
        return "none is configured"
    return f"{app.intake.table.mapping.table}, {len(app.intake.table.read().items)} open items seen"


def _secrets(app: App) -> str:
    found = app.secrets(app.model).check()
    names = ", ".join(f"{key} ({source})" for key, source in found.sources.items())
    return f"scope {found.scope!r}: {names or 'none is there, and none is required'}"


def _model(app: App) -> str:
    from databricks_rlm_agent.planner.planner import probe

    seconds = probe(app.planner_for(app.model))
    return f"{app.model}: {'a script' if seconds is None else f'answered in {seconds:.1f} s'}"


def _sub_model(app: App) -> str:
    """The serving endpoint that programs ask: its own setting, or the planner's if that is an endpoint."""
    if not app.settings.sub_model and parse_models(app.model)[0].provider == "scripted":
        return "a script, wherever the workspace was started with one"
    endpoint = app.settings.sub_model or sub_endpoint(app.model)
    if endpoint is None:
        return "none is configured: programs cannot ask a model (RLM_SUB_MODEL)"
    try:
        state = app.workspace.call(
            f"serving endpoint {endpoint}", lambda client: client.serving_endpoints.get(endpoint).state
        )
    except NotFound as error:
        raise NotFound(error.what, where=f"RLM_SUB_MODEL={endpoint}", fix="Name one that exists.") from None
    ready = getattr(getattr(state, "ready", None), "value", None)
    if ready not in {None, "READY"}:
        raise ConfigError(f"The serving endpoint {endpoint} is {ready}.", fix="Wait for it, or name another.")
    return f"{endpoint}: {ready or 'there'}"
