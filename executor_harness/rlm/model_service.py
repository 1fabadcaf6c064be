"""The service of model calls, put together for one program: account, rate, connections, answers."""

from __future__ import annotations

import contextlib
import heapq
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from executor_harness import protocol
from executor_harness.protocol import ModelAccess, Request, Usage
from executor_harness.redaction import Redactor
from executor_harness.rlm import client, schema_check, spend
from executor_harness.rlm.amounts import NOTHING, amount_of
from executor_harness.rlm.answers import Answers
from executor_harness.rlm.asker import Asker, CallResult, RateLimit
from executor_harness.rlm.chat import NoModel, Options, Question
from executor_harness.rlm.client import Connection, Credentials, Endpoint
from executor_harness.rlm.journal import AttemptId, Journal, record_of
from executor_harness.rlm.meter import Meter
from executor_harness.rlm.pool import Pool
from executor_harness.volumes import Volumes

_ANNOUNCED = 8  # questions from which on their use is put on record at once
_RECORD_S = 60.0  # for a batch's answers to be on record before the program goes on
_TABLE_S = 90.0  # for the table to take the answers; the journal keeps what it does not


class ModelService:
    """Asks models for one program. Nothing is started or written before it is used."""

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
        self.attempt: AttemptId = {
            "run_id": request.run_id,
            "iter_n": request.iter_n,
            "attempt": request.attempt,
        }
        self.access = access
        self.volumes = volumes
        self.session = session
        self.redactor = redactor
        self.note = note
        self.folder = f"{protocol.run_folder(request.output_dir)}/{protocol.CALLS_FOLDER}"
        self.answers = Answers(
            access.calls_table,
            self.folder,
            volumes,
            session,
            journal := Journal(volumes, self.folder, f"{request.iter_n}_{request.attempt}", note),
            note,
        )
        self.meter = Meter(
            access.allowance, self._declare, amount_of(spend.read(volumes, request.output_dir))
        )
        self.rate = RateLimit(access.per_minute, time.monotonic)
        self.pool = Pool(access.concurrency, self._connect, self._answer)
        self._journal = journal
        self._environ = os.environ if environ is None else environ
        self._home = request.output_dir
        self._login = threading.Lock()
        self._credentials: Credentials | None = None
        self._stop = threading.Event()
        self._asker = Asker(
            endpoint=self._endpoint,
            meter=self.meter,
            rate=self.rate,
            prices=access.prices,
            redactor=redactor,
            note=note,
            stop=self._stop,
        )

    def options(
        self,
        model: str | None = None,
        schema: dict[str, Any] | None = None,
        system: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Options:
        """The options of a call. Raises TypeError or ValueError for what makes no sense."""
        longest = self.access.max_reply_tokens
        if max_tokens is not None and not 1 <= max_tokens <= longest:
            raise ValueError(
                f"max_tokens is {max_tokens}; a reply may have 1 to {longest} tokens in this run"
            )
        if schema is not None and not isinstance(schema, dict):
            raise TypeError(f"schema must be a JSON schema (a dict), not {type(schema).__name__}")
        return Options(
            model=model or self.access.endpoint,
            max_tokens=int(max_tokens or longest),
            system=system,
            schema=schema,
            temperature=None if temperature is None else float(temperature),
        )

    def credentials(self) -> Credentials:
        """The credentials, looked for when they are first needed; NoModel when there are none."""
        with self._login:
            if self._credentials is None:
                self._credentials = client.find_credentials(self._environ)
            return self._credentials

    def find(self, questions: list[Question]) -> dict[str, Any]:
        """The answers that are there, as values, by key."""
        by_key = {question.key: question for question in questions}
        found: dict[str, Any] = {}
        for key, text in self.answers.find(by_key, self._prepare).items():
            with contextlib.suppress(schema_check.SchemaMismatch):  # not one of ours: ask
                found[key] = value_of(text, by_key[key].options)
        return found

    def ask(self, questions: list[Question]) -> dict[str, CallResult]:
        """Ask them all; what was answered is on record when this returns."""
        self.credentials()  # raises before anything is set in motion
        announced = len(questions) >= _ANNOUNCED
        if announced:
            bounds = [self._asker.bound(question) for question in questions]
            # Twice what is asked at once: so the next round is on record already.
            block = 2 * max(_ANNOUNCED, self.access.concurrency)
            largest = heapq.nlargest(block, bounds, key=lambda bound: bound.tokens)
            self.meter.announce(sum(bounds, NOTHING), sum(largest, NOTHING))
        answers = self.pool.ask(questions)
        if announced:
            self.meter.record_spent()
        self.answers.flush(_RECORD_S)
        return answers

    def close(self) -> None:
        """End what runs, and leave everything on record."""
        self._stop.set()
        self.meter.stop()
        self.pool.close()
        self._journal.close(_RECORD_S)
        self.meter.record_spent()
        spend.remove_twin(self.volumes, self._home)
        self.answers.close(_TABLE_S)

    def _endpoint(self, model: str) -> Endpoint:
        endpoint = self.credentials().endpoint(model, self.access.timeout_s)
        self.redactor.add(endpoint.headers.get("Authorization", "").rpartition(" ")[2])
        return endpoint

    def _connect(self) -> Connection:
        return Connection(self.credentials().host, self.access.timeout_s)

    def _answer(self, question: Question, connection: Connection) -> CallResult:
        started = time.monotonic()
        answer = self._asker.ask(question, connection)
        if answer.text is not None:
            record = record_of(
                self.attempt,
                key=question.key,
                model=question.options.model,
                answer=answer.text,
                used=answer.used,
                seconds=time.monotonic() - started,
            )
            self.answers.keep(record)
        return answer

    def _prepare(self, questions: int) -> None:
        """Open connections while the engine looks for answers."""

        def prepare() -> None:
            with contextlib.suppress(NoModel):  # `ask` says so, if it comes to that
                self.credentials()
                self.pool.prepare(questions)

        if questions >= _ANNOUNCED:
            threading.Thread(target=prepare, name="rlm-prepare", daemon=True).start()

    def _declare(self, usage: Usage) -> None:
        try:
            spend.write(self.volumes, self._home, usage)
        except OSError as error:
            self.note(
                f"{self._home}/{protocol.SPEND_FILE} could not be written ({error}): if the job is killed, "
                "its model calls may not count"
            )


def value_of(text: str, options: Options) -> Any:
    """Return the value of an answer's text for the program. Raises SchemaMismatch, for answers of others."""
    return text if options.schema is None else schema_check.read(text, options.schema)
