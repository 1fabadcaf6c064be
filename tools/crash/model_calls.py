"""A run whose program asks models many times, and what must be true of its questions, whatever happened."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from databricks_rlm_agent.layout import MANIFEST
from executor_harness import protocol
from executor_harness.rlm import journal
from executor_harness.rlm.chat import Options, Question
from executor_harness.volumes import Volumes
from tools.crash.audit import Audit, Expected, audit
from tools.crash.controller import Controller
from tools.crash.executor import Attempt, kill
from tools.crash.points import Case, recovery
from tools.crash.programs import (
    ASKED_TOKENS,
    MARK,
    PROMPT,
    SAID_TOKENS,
    SAYS,
    finish,
    program,
)
from tools.crash.rig import CONCURRENCY, GIVE_UP_S, ORCHESTRATE, Rig, eventually

PROMPTS = 200
BATCH = 2  # the iteration that something happens to; the next one runs the same program
_FIRST = f"{MARK}rlm.vars['total'] = 42\n"
# ``tried`` counts the good programs before: those that failed must have left nothing behind.
_ASKING = """{mark}rlm.vars["tried"] = rlm.vars.get("tried", 0) + 1
tag, count = rlm.inputs["tag"].text(), {count}
answers = rlm.llm_query_batched([{prompt!r}.format(tag, n) for n in range(count)])
assert answers == [{says!r}.format(tag, n) for n in range(count)], answers
rlm.vars["answers"] = answers
rlm.finish({{"total": rlm.vars["total"], "tried": rlm.vars["tried"]}})
"""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A run that asks so many prompts."""

    rig: Rig
    run_id: str
    prompts: int = PROMPTS

    @property
    def folder(self) -> Path:
        """That of the iteration that something happens to."""
        return self.rig.volume / "scratchpad" / f"run_{self.run_id}" / f"iter_{BATCH}"

    @property
    def journal(self) -> Path:
        return self.folder.parent / protocol.CALLS_FOLDER

    def submit(self) -> None:
        asking = _ASKING.format(mark=MARK, count=self.prompts, prompt=PROMPT, says=SAYS)
        planner = [
            program(_FIRST),
            program(asking),
            program(asking),
            finish("The total is {{value.total}}."),
        ]
        path = self.rig.root.parent / f"batch-{self.run_id}.json"
        path.write_text(json.dumps({"planner": planner}))
        self.rig.submit(self.run_id, script=path)

    def texts(self) -> list[str]:
        return [PROMPT.format(self.run_id, n) for n in range(self.prompts)]

    def asked(self) -> Counter[str]:
        """How often the stub has answered each prompt so far, by its digest."""
        mine = {digest(text) for text in self.texts()}
        return Counter(sha for entry in self.rig.log() if (sha := entry["prompt_sha256"]) in mine)

    def keys(self) -> list[str]:
        """The answers in the table."""
        statement = "SELECT call_key FROM main.rlm.model_calls WHERE run_id = :run"
        rows = self.rig.app.warehouse.fetch(statement, {"run": self.run_id})
        return [row["call_key"] for row in rows]

    def on_record(self) -> set[str]:
        """The prompts (by digest) whose answers are in the run's journal or in the table."""
        volumes = Volumes(root=str(self.rig.root / "Volumes"))
        home = self.rig.app.settings.namespace.run_dir(self.run_id)
        records, _ = journal.read(volumes, f"{home}/{protocol.CALLS_FOLDER}")
        keys = {*records, *self.keys()}
        access = json.loads((self.folder / MANIFEST).read_text())["request"]["models"]
        options = Options(model=access["endpoint"], max_tokens=access["max_reply_tokens"])
        return {digest(text) for text in self.texts() if Question.of(text, options).key in keys}


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """What was known when it fell: prompts asked until then, and those with an answer on record (digests).

    ``log_lost``: the workspace was started again, and its request log begins anew; what was asked at its end
    is in neither of them.
    """

    asked: Counter[str] = field(default_factory=Counter)
    on_record: frozenset[str] = frozenset()
    log_lost: bool = False


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def audit_batch(batch: Batch, interruption: Interruption, status: str) -> Audit:
    """Compare a run with what is expected when an attempt of its batch ended with ``status``."""
    expected = {
        "SUCCESS": _expected((BATCH, 1, "SUCCESS"), tried=2),
        "FAILED": _expected((BATCH, 1, "FAILED"), tried=1),
        "LOST": _expected((BATCH, 1, "LOST"), (BATCH, 2, "SUCCESS"), tried=2),
    }[status]
    found = audit(batch.rig, batch.run_id, expected)
    count = batch.asked() + (interruption.asked if interruption.log_lost else Counter())
    repeated = {prompt for prompt, times in count.items() if times > 1}
    again = len(repeated & interruption.on_record)
    problems = _kept(batch) + _paid(batch, count.total(), status)
    if len(repeated) > CONCURRENCY or count.total() > batch.prompts + CONCURRENCY:
        problems.append(f"{len(repeated)} prompts were asked again, {count.total()} calls in all")
    if not interruption.log_lost and len(count) != batch.prompts:
        problems.append(f"{len(count)} prompts of {batch.prompts} were asked")
    if again:
        problems.append(
            f"{again} of {len(interruption.on_record)} prompts with an answer on record were asked again"
        )
    return Audit(
        duplicates=found.duplicates + again,
        lost=found.lost + bool(problems),
        problems=(*found.problems, *problems),
        unspent=found.unspent,
    )


def _expected(*attempts: tuple[int, int, str], tried: int) -> Expected:
    every = ((1, 1, "SUCCESS"), *attempts, (BATCH + 1, 1, "SUCCESS"))
    value = {"total": 42, "tried": tried}
    return Expected(attempts=every, tables=False, calls=BATCH + 2, values={BATCH + 1: value})


def _kept(batch: Batch) -> list[str]:
    """Every answer is in the table once, the journal is gone, and the variables are the last program's."""
    keys = batch.keys()
    problems = []
    if not len(keys) == len(set(keys)) == batch.prompts:
        problems.append(f"the table holds {len(keys)} answers to {len(set(keys))} prompts")
    left = [path.name for path in batch.journal.glob("*")] if batch.journal.is_dir() else []
    problems += [f"the journal still has {left}"] if left else []
    variables = batch.rig.app.store.get(batch.run_id).capsule.variables
    names = [] if variables is None else sorted(note.name for note in variables.shown)
    if names != ["answers", "total", "tried"]:
        problems.append(f"the variables are {names}")
    return problems


def _paid(batch: Batch, calls: int, status: str) -> list[str]:
    """No call is missing from the budget, which is kept; without a kill it is exact."""
    budget = batch.rig.app.store.get(batch.run_id).budget
    used = budget.sub_usage
    least = (calls, calls * ASKED_TOKENS, calls * SAID_TOKENS)
    told = (used.calls, used.input_tokens, used.output_tokens)
    wrong = told != least if status == "SUCCESS" else any(t < u for t, u in zip(told, least, strict=True))
    if (
        wrong
        or used.calls > budget.max_sub_calls
        or used.input_tokens + used.output_tokens > budget.max_tokens
    ):
        return [f"{used} was paid for {calls} calls"]
    return []


# process, group, all: of the harness, as in executor.py. both: its process, and the controller. machine:
# everything but the controller, which is another one's.
Victim = Literal["process", "group", "all", "controller", "both", "workspace", "machine"]
# So many prompts have been answered; or all have, and their answers are in the table.
Moment = int | Literal["in the table"]
MOMENTS: tuple[tuple[Victim, tuple[Moment, ...]], ...] = (
    ("process", (0, 1, 30, 100, 170, 199, 200, "in the table")),
    ("group", (30, 170)),
    ("all", (30, 170, 200)),
    ("controller", (0, 30, 100, 199, "in the table")),
    ("both", (1, 100, 200)),
    ("workspace", (30, 100, 170)),
    ("machine", (1, 100, 170)),
)
# A workspace that starts ends the processes that its forerunner left behind.
_ENDS = {"controller": "SUCCESS", "machine": "LOST"}


def interrupt(rig: Rig, victim: Victim, moment: Moment, run_id: str, *, prompts: int = 200) -> Case:
    """Kill what is to be killed at a moment of the batch; the run goes on, and asks the same once more."""
    batch = Batch(rig=rig, run_id=run_id, prompts=prompts)
    batch.submit()
    rig.fault()
    controller = rig.controller(*ORCHESTRATE)
    _wait(batch, moment)
    attempt = Attempt(rig=rig, run_id=run_id)
    pid = eventually(attempt.process, GIVE_UP_S)
    os.kill(pid, signal.SIGSTOP)
    reached = not (batch.folder / protocol.RESULT_FILE).exists()
    interruption = Interruption(
        asked=batch.asked(),
        on_record=frozenset(batch.on_record()),
        log_lost=victim in {"workspace", "machine"},
    )
    killed, controller = _kill_victim(rig, victim, pid, controller)
    finished = controller.wait(GIVE_UP_S) and controller.exit_code == 0
    return Case(
        name=f"{victim} at {moment}",
        group=victim,
        reached=reached,
        finished=finished,
        recovery_s=recovery(rig.log(), killed),
        audit=audit_batch(batch, interruption, _ENDS.get(victim, "FAILED")),
    )


def _wait(batch: Batch, moment: Moment) -> None:
    """Until the batch is at that moment."""
    eventually(lambda: any(batch.folder.glob("spend*")) or None, GIVE_UP_S)
    wanted = batch.prompts if moment == "in the table" else moment
    eventually(lambda: len(batch.asked()) >= wanted or None, GIVE_UP_S)
    if moment == "in the table":
        deadline = time.monotonic() + GIVE_UP_S
        while any(batch.journal.glob("*.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.001)


def _kill_victim(rig: Rig, victim: Victim, pid: int, controller: Controller) -> tuple[float, Controller]:
    """Kill; the time of it, and the controller that goes on."""
    if victim == "controller":
        os.kill(pid, signal.SIGCONT)
        return controller.kill(), rig.controller(*ORCHESTRATE)
    if victim == "both":
        controller.kill()
        return kill(pid, "process"), rig.controller(*ORCHESTRATE)
    if victim == "workspace":
        os.kill(pid, signal.SIGCONT)
        return rig.kill_workspace(), controller
    if victim == "machine":
        # Nobody sees the executor die: the server stands still meanwhile.
        os.kill(rig.spawned.process.pid, signal.SIGSTOP)
        kill(pid, "all")
        return rig.kill_workspace(), controller
    return kill(pid, victim), controller
