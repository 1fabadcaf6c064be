"""``run``, ``follow``, ``submit``, ``answer``, ``cancel``: give work and inputs to the agent."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal

from pydantic import ValidationError

from databricks_rlm_agent.app import App
from databricks_rlm_agent.attempts.records import EventRow, answer_seq
from databricks_rlm_agent.cli.arguments import BUDGET
from databricks_rlm_agent.cli.inspect import (
    DONE,
    emit,
    emit_outcome,
    loop_of,
    outcome,
    outcome_text,
    run_summary,
)
from databricks_rlm_agent.cli.workspace import app_at, command_line, resolved_model
from databricks_rlm_agent.databricks.services import WorkspaceVolume
from databricks_rlm_agent.errors import Conflict, Forbidden, RunNotFound, UsageError
from databricks_rlm_agent.runs.budget import Budget
from databricks_rlm_agent.runs.checks import parse_checks
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import Run, new_run
from databricks_rlm_agent.values import check_id, check_table_name, check_volume_path, clip, storable
from executor_harness.protocol import Input

MAX_TEXT_CHARS = 4_000
"""The longest text that is kept with the run itself; longer ones become files."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SUFFIX = re.compile(r"[^.](\.[A-Za-z0-9]{1,10})?(?:\.(?:gz|bz2|xz|zst))?$")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """An input as it was written: a table, a ``path`` in a Volume, a ``local`` file or a text.

    It becomes a handle (``executor_harness.protocol.Input``): the data itself stays where it is.
    """

    name: str
    kind: Literal["table", "path", "local", "text"]
    value: str


def parse_inputs(texts: Sequence[str]) -> list[InputSpec]:
    """``NAME=VALUE`` each; raise UsageError for one that is none, and for a name that is given twice."""
    found = [parse_input(text) for text in texts]
    names = [given.name for given in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"--input {name} is given {names.count(name)} times.", fix="Name each input once."
            )
    return found


def parse_input(text: str) -> InputSpec:
    """``NAME=VALUE``: a Volume path, ``@`` and a file of this machine, a three-level table name, or text."""
    name, found, value = text.partition("=")
    if not found or not _NAME.fullmatch(name):
        raise UsageError(
            f"--input {text[:80]!r} is not NAME=VALUE.",
            fix="For example --input flights=main.nyc.flights; a name has up to 64 letters, digits and '_'.",
        )
    if value.startswith("/Volumes/"):
        return InputSpec(name=name, kind="path", value=_path(value))
    if value.startswith("@"):
        return InputSpec(name=name, kind="local", value=value[1:])
    try:
        return InputSpec(name=name, kind="table", value=check_table_name(value))
    except UsageError:
        return InputSpec(name=name, kind="text", value=value)


def upload_path(run_dir: str, name: str, file_name: str) -> str:
    """Where an input is kept that had to be brought along: the suffix tells a program how to read it."""
    found = _SUFFIX.search(file_name)
    return f"{run_dir}/inputs/{name}{found[0][1:] if found else ''}"


def _path(value: str) -> str:
    """The normal form of a path; a slash at its end stays, since it says that this is a folder."""
    clean = check_volume_path(value)
    return f"{clean}/" if value.endswith("/") else clean


EVENT_CHARS = 1_000  # of an answer, in its event
_MAX_BYTES = 5 << 30  # of one request of the Files API


@dataclass(frozen=True, kw_only=True)
class InputUploader:
    """The inputs of one run. ``handles`` only reads; ``send`` uploads.

    A crash after ``send`` leaves files without a run, which the same command with the same run id replaces.
    """

    volume: WorkspaceVolume
    run_dir: str
    given: Sequence[InputSpec]

    def handles(self) -> dict[str, Input]:
        """The handle of each input; raise UsageError for a path or file that is not there."""
        return {given.name: self._handle(given) for given in self.given}

    def send(self) -> None:
        """Bring files of this machine and long texts into the run's folder."""
        for given in self.given:
            path = self._destination(given)
            if path and given.kind == "local":
                self.volume.upload(path, _local(given), overwrite=True)
            elif path:
                self.volume.put(path, given.value.encode(), overwrite=True)

    def _handle(self, given: InputSpec) -> Input:
        path = self._destination(given)
        if path:
            return {"kind": "file", "path": path}
        if given.kind == "table":
            return {"kind": "table", "name": given.value}
        if given.kind == "path":
            return {"kind": self._kind(given), "path": given.value.rstrip("/")}
        return {"kind": "text", "text": given.value}

    def _destination(self, given: InputSpec) -> str | None:
        """Where an input is brought to; None for one that is not."""
        if given.kind == "local":
            return upload_path(self.run_dir, given.name, _local(given).name)
        if given.kind == "text" and len(given.value) > MAX_TEXT_CHARS:
            if storable(given.value) != given.value:
                raise UsageError(f"--input {given.name} is not valid UTF-8.", fix="Check how it was typed.")
            return upload_path(self.run_dir, given.name, "input.txt")
        return None

    def _kind(self, given: InputSpec) -> str:
        wanted = "folder" if given.value.endswith("/") else None
        try:
            found = self.volume.look(given.value.rstrip("/"))
        except Forbidden:  # Job B has an identity of its own, which may read what ours may not
            return wanted or "file"
        if found is None:
            raise UsageError(
                f"--input {given.name}: there is nothing at {given.value}.",
                fix="Check the path; a file of this machine is given as NAME=@FILE.",
            )
        if wanted and not found.is_directory:
            raise UsageError(
                f"--input {given.name}: {given.value} is a file.", fix="Leave out the last slash."
            )
        return "folder" if found.is_directory else "file"


def _local(given: InputSpec) -> Path:
    """The file that an input names; raise UsageError if it cannot be sent."""
    path = Path(given.value).expanduser()
    try:
        stat = path.stat()
        if S_ISREG(stat.st_mode):  # not a pipe: a request may have to be sent again
            path.open("rb").close()
            reason = "it has more than 5 GiB" if stat.st_size > _MAX_BYTES else None
        else:
            reason = "it is not a plain file"
    except (OSError, ValueError) as error:  # the latter for a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
    if reason is None:
        return path
    raise UsageError(
        f"--input {given.name}: {given.value[:200]!r} cannot be sent: {reason}.",
        fix="Give a file of this machine after the @; a folder belongs in a Volume.",
    )


def run(options: argparse.Namespace) -> int:
    """Store a run, then tick until it is done."""
    with app_at(options) as app:
        model = resolved_model(app, options.model)
        app.planner_for(model)  # a missing key or an unreadable script is known before anything is stored
        return emit_outcome(app, accept(app, options, model=model), options)


def follow(options: argparse.Namespace) -> int:
    """Stay with a run that exists until it is done, and carry it out where no other controller does."""
    with app_at(options) as app:
        run = app.store.get(check_id(options.run_id))
        if not run.fsm_state.terminal:
            app.planner_for(run.model or app.model)  # a missing key ends the command, not the run
        return emit_outcome(app, run, options)


def submit(options: argparse.Namespace) -> int:
    """Store a run."""
    with app_at(options) as app:
        model = resolved_model(app, options.model) if options.model else None
        stored = accept(app, options, model=model)
        command = command_line(options, "follow", stored.run_id)
        text = f"Run {stored.run_id} is {stored.fsm_state}. A controller carries it out, or: {command}"
        emit(run_summary(stored), as_json=options.json, text=text)
        return DONE


def answer(options: argparse.Namespace) -> int:
    """Answer a waiting run."""
    with app_at(options) as app:
        waiting = app.store.get(check_id(options.run_id))
        after = waiting.answered(options.text)
        event = EventRow(
            run_id=waiting.run_id,
            seq=answer_seq(waiting.lease_epoch),
            at=app.clock(),
            kind="answered",
            actor=app.controller,
            epoch=waiting.lease_epoch,
            payload=json.dumps({"text": clip(storable(options.text), EVENT_CHARS)}, ensure_ascii=False),
        )
        app.ledger.append([event])
        saved = app.store.save([after], write_id=app.new_id("w"))
        changed = app.store.get(waiting.run_id)
        # A controller may have claimed the run before we could read what our own statement did.
        if not saved and after.capsule.constraints[-1] not in changed.capsule.constraints:
            raise Conflict(
                f"Run {waiting.run_id} was changed at the same time.", fix="Look at it and answer again."
            )
        emit(
            run_summary(changed),
            as_json=options.json,
            text=f"Run {changed.run_id} goes on: {changed.fsm_state}.",
        )
        return DONE


def cancel(options: argparse.Namespace) -> int:
    """Put the intent on record, then see to it, whether or not a controller is running."""
    with app_at(options) as app:
        run_id = check_id(options.run_id)
        wanted = app.store.request_cancel(run_id, reason=options.reason)
        if wanted and not options.no_wait:
            deadline = time.monotonic() + options.wait
            loop_of(app, run_id).run(
                done=lambda _: time.monotonic() > deadline or app.store.get(run_id).fsm_state.terminal
            )
        document = outcome(app, app.store.get(run_id))
        emit(document, as_json=options.json, text=_cancel_text(document, options, wanted=wanted))
        return DONE


def _cancel_text(document: dict[str, Any], options: argparse.Namespace, *, wanted: bool) -> str:
    if document["state"] == State.CANCELLED:
        return outcome_text(document, options)
    if not wanted or State(document["state"]).terminal:
        return f"It had ended before it could be cancelled.\n{outcome_text(document, options)}"
    return (
        f"The cancellation of run {document['run_id']} is on record; it is {document['state']} until its job "
        f"run is over. A controller sees to it. When it has: "
        f"{command_line(options, 'status', document['run_id'])}"
    )


def accept(app: App, options: argparse.Namespace, *, model: str | None) -> Run:
    """Store a new run and its inputs."""
    run_id = check_id(options.run_id or app.new_id("r"))
    uploader = InputUploader(
        volume=app.volume,
        run_dir=app.settings.namespace.run_dir(run_id),
        given=parse_inputs(options.input),
    )
    fresh = new_run(
        options.task,
        run_id=run_id,
        clock=app.clock,
        inputs=uploader.handles(),
        checks=parse_checks(options.check),
        budget=_budget(options),
        model=model,
    )
    return _stored(app, fresh, uploader, named=bool(options.run_id))


def _stored(app: App, fresh: Run, uploader: InputUploader, *, named: bool) -> Run:
    """The run as it is stored; one that exists already is left as it is, and so are its inputs."""
    if named:
        with suppress(RunNotFound):
            return app.store.get(fresh.run_id)
    uploader.send()
    app.store.insert([fresh])
    return app.store.get(fresh.run_id)


def _budget(options: argparse.Namespace) -> Budget:
    given = {name: getattr(options, name) for name, *_ in BUDGET}
    try:
        return Budget(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        name = str(problem["loc"][0])
        raise UsageError(f"--{name.replace('_', '-')} is {given[name]}.", fix=f"{problem['msg']}.") from None
