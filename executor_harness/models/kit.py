"""What it takes to ask models, put together for one program."""

from __future__ import annotations

import contextlib
import heapq
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from executor_harness import protocol
from executor_harness.models import chat, credentials, shapes, spend
from executor_harness.models.answers import Answers, Places
from executor_harness.models.asking import Answer, Asker, Question
from executor_harness.models.chat import Options
from executor_harness.models.client import Line
from executor_harness.models.credentials import Credentials
from executor_harness.models.errors import NoModel
from executor_harness.models.journal import Journal, Record
from executor_harness.models.meter import NOTHING, Meter, amount_of
from executor_harness.models.pace import Pace
from executor_harness.models.pool import Pool
from executor_harness.protocol import ModelAccess, Request, Usage
from executor_harness.redaction import Redactor
from executor_harness.report import iso
from executor_harness.volumes import Volumes

_ANNOUNCED = 8  # questions from which on their use is put on record at once
_RECORD_S = 60.0  # for a batch's answers to be on record before the program goes on
_TABLE_S = 90.0  # for the table to take the answers; the journal keeps what it does not


class Kit:
    """What it takes to ask, put together for one program. Nothing is started or written yet."""

    def __init__(
        self,
        request: Request,
        access: ModelAccess,
        volumes: Volumes,
        session: Callable[[], Any],
        redactor: Redactor,
        note: Callable[[str], None],
        environ: Mapping[str, str] | None,
    ) -> None:
        self.request = request
        self.access = access
        self.volumes = volumes
        self.session = session
        self.redactor = redactor
        self.note = note
        self.login = Login(environ)
        self.stop = threading.Event()
        home = request["output_dir"]
        folder = f"{protocol.run_folder(home)}/{protocol.CALLS_FOLDER}"
        self.journal = Journal(volumes, folder, f"{request['iter_n']}_{request['attempt']}", note)
        places = Places(table=access["calls_table"], folder=folder)
        self.answers = Answers(places, volumes, session, self.journal, note)
        before = amount_of(spend.read(volumes, home))
        self.meter = Meter(access["allowance"], _declarer(volumes, home, note), before)
        self.pace = Pace(access["per_minute"], time.monotonic)
        self.asker = Asker(
            endpoint=lambda model: self.login.get().endpoint(model, access["timeout_s"]),
            account=self.meter,
            pace=self.pace,
            prices=access["prices"],
            redactor=redactor,
            note=note,
            stop=self.stop,
        )
        self.pool = Pool(access["concurrency"], self._connect, self._work)

    def options(
        self,
        model: str | None,
        schema: dict[str, Any] | None,
        system: str | None,
        temperature: float | None,
        max_tokens: int | None,
    ) -> Options:
        """The options of a call. Raises TypeError or ValueError for what makes no sense."""
        longest = self.access["max_reply_tokens"]
        if max_tokens is not None and not 1 <= max_tokens <= longest:
            raise ValueError(
                f"max_tokens is {max_tokens}; a reply may have 1 to {longest} tokens in this run"
            )
        if schema is not None and not isinstance(schema, dict):
            raise TypeError(f"schema must be a JSON schema (a dict), not {type(schema).__name__}")
        name = model or self.access["endpoint"]
        return Options(
            model=name,
            max_tokens=int(max_tokens or longest),
            system=system,
            schema=schema,
            temperature=None if temperature is None else float(temperature),
        )

    def _connect(self) -> Line:
        return Line(self.login.get().host, self.access["timeout_s"])

    def _work(self, question: Question, line: Line) -> Answer:
        started = time.monotonic()
        answer = self.asker.ask(question, line)
        if answer.text is not None:
            self.answers.keep(record_of(self.request, question, answer, time.monotonic() - started))
        return answer

    def find(self, questions: list[Question]) -> dict[str, Any]:
        """The answers that are there, as values, by key."""
        by_key = {question.key: question for question in questions}
        found: dict[str, Any] = {}
        for key, text in self.answers.find(by_key, self._prepare).items():
            try:
                found[key] = value_of(text, by_key[key].options)
            except shapes.Misshapen:
                continue  # not one of ours: ask
        return found

    def ask(self, questions: list[Question]) -> dict[str, Answer]:
        """Ask them all; what was answered is on record when this returns."""
        self.login.get()  # raises before anything is set in motion
        announced = len(questions) >= _ANNOUNCED
        if announced:
            bounds = [self.asker.bound(question) for question in questions]
            # Twice what is asked at once: so the next round finds itself on record already.
            block = 2 * max(_ANNOUNCED, self.access["concurrency"])
            largest = heapq.nlargest(block, bounds, key=lambda bound: bound.tokens)
            self.meter.announce(sum(bounds, NOTHING), sum(largest, NOTHING))
        answers = self.pool.ask(questions)
        if announced:
            self.meter.exact()
        self.answers.flush(_RECORD_S)
        return answers

    def _prepare(self, questions: int) -> None:
        """Get ready to ask while the engine looks for answers."""

        def work() -> None:
            with contextlib.suppress(NoModel):  # `ask` says so, if it comes to that
                self.login.get()
                self.pool.prepare(questions)

        if questions >= _ANNOUNCED:
            threading.Thread(target=work, name="rlm-prepare", daemon=True).start()

    def close(self) -> None:
        """End what runs, and leave everything on record."""
        self.stop.set()
        self.meter.stop()
        self.pool.close()
        self.journal.close(_RECORD_S)
        self.meter.exact()
        spend.tidy(self.volumes, self.request["output_dir"])
        self.answers.close(_TABLE_S)


class Login:
    """The credentials, looked for when they are first needed."""

    def __init__(self, environ: Mapping[str, str] | None) -> None:
        self._environ = environ
        self._lock = threading.Lock()
        self._found: Credentials | None = None

    def get(self) -> Credentials:
        """The credentials; NoModel when there are none."""
        with self._lock:
            if self._found is None:
                self._found = credentials.find(os.environ if self._environ is None else self._environ)
            return self._found


def _declarer(volumes: Volumes, home: str, note: Callable[[str], None]) -> Callable[[Usage], None]:
    def declare(usage: Usage) -> None:
        try:
            spend.write(volumes, home, usage)
        except OSError as error:
            note(
                f"{home}/{protocol.SPEND_FILE} could not be written ({error}): if the job is killed, its "
                "model calls may not count"
            )

    return declare


def question_of(prompt: str, options: Options) -> Question:
    """The question that asks one prompt."""
    messages = chat.messages_of(prompt, options)
    return Question(key=chat.key_of(messages, options), messages=messages, options=options)


def value_of(text: str, options: Options) -> Any:
    """What a program gets for an answer's text. Raises Misshapen, for answers of others."""
    return text if options.schema is None else shapes.read(text, options.schema)


def record_of(request: Request, question: Question, answer: Answer, seconds: float) -> Record:
    """An answer as it is kept."""
    used = answer.used.usage(0)
    return {
        "call_key": question.key,
        "run_id": request["run_id"],
        "iter_n": request["iter_n"],
        "attempt": request["attempt"],
        "model": question.options.model,
        "answer": answer.text or "",
        "error": None,
        "input_tokens": used["input_tokens"],
        "output_tokens": used["output_tokens"],
        "cost_usd": used["cost_usd"],
        "seconds": round(seconds, 3),
        "at": iso(time.time()),
    }
