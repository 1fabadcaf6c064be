"""Model calls of one program: `rlm.llm_query`, `rlm.llm_query_batched`, and the account, rate, connections
and answers behind them, which `rlm.llm_map` shares.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from executor_harness import protocol
from executor_harness.protocol import LOG_LINE_CHARS, Request, Usage
from executor_harness.redaction import Redactor
from executor_harness.report import read_spend, remove_spend_twin, shortened, write_spend
from executor_harness.rlm import chat, client
from executor_harness.rlm.answers import Answers
from executor_harness.rlm.asker import Asker, CallResult, Pool
from executor_harness.rlm.chat import (
    BudgetExhausted,
    CallError,
    CallFailed,
    ModelError,
    NoModel,
    Options,
    Question,
)
from executor_harness.rlm.client import Connection, Credentials, Endpoint
from executor_harness.rlm.journal import AttemptId, Journal, record_of
from executor_harness.rlm.meter import NOTHING, Meter, RateLimit, amount_of
from executor_harness.volumes import Volumes

_NOTES = 20
_ANNOUNCED = 8  # questions from which on their use is put on record at once
_RECORD_S = 60.0  # for a batch's answers to be on record before the program goes on
_TABLE_S = 90.0  # for the table to take the answers; the journal keeps what it does not


class ModelCalls:
    """The models that one program may ask. Nothing is started or written before it is used; NoModel where the
    run has none.
    """

    def __init__(
        self,
        request: Request,
        volumes: Volumes,
        session: Callable[[], Any],
        redactor: Redactor,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        if request.models is None:
            raise NoModel(
                "this run has no model that programs may ask: give it one with RLM_SUB_MODEL (the name of a "
                "serving endpoint), or work without rlm.llm_query"
            )
        self.access = access = request.models
        self.attempt = AttemptId(run_id=request.run_id, iter_n=request.iter_n, attempt=request.attempt)
        self.volumes = volumes
        self.session = session
        self.redactor = redactor
        self.folder = f"{protocol.run_folder(request.output_dir)}/{protocol.CALLS_FOLDER}"
        self.answers = Answers(
            table=access.calls_table,
            folder=self.folder,
            volumes=volumes,
            session=session,
            journal=Journal(volumes, self.folder, f"{request.iter_n}_{request.attempt}", self.note),
            note=self.note,
        )
        self.meter = Meter(
            access.allowance, self._declare, amount_of(read_spend(volumes, request.output_dir))
        )
        self.rate = RateLimit(access.per_minute, time.monotonic)
        self.pool = Pool(access.concurrency, self._connect, self._answer)
        self._output_dir = request.output_dir
        self._environ = os.environ if environ is None else environ
        self._home = os.getpid()
        self._notes: dict[str, None] = {}
        self._login = threading.Lock()
        self._credentials: Credentials | None = None
        self._stop = threading.Event()
        self._asker = Asker(
            endpoint=self._endpoint,
            meter=self.meter,
            rate=self.rate,
            prices=access.prices,
            redactor=redactor,
            note=self.note,
            stop=self._stop,
        )

    def query(self, prompt: str, **options: Any) -> Any:
        """The model's answer to one prompt; options as in `query_batched`.

        Raises BudgetExhausted, CallFailed with the reason, NoModel, and TypeError or ValueError for misuse.
        """
        if not isinstance(prompt, str):
            raise TypeError(f"rlm.llm_query: the prompt must be a text, not {type(prompt).__name__}")
        answer = self.query_batched([prompt], **options)[0]
        if isinstance(answer, CallError):
            raise CallFailed(answer)
        return answer

    def query_batched(self, prompts: Iterable[str], **options: Any) -> list[Any]:
        """The answers to many prompts, in their order; a `CallError`, which is falsy, for each that failed.

        Options: `model` is another serving endpoint; with `schema` (a JSON schema) answers are JSON values of
        that shape, else texts; `system` is a system prompt; `temperature`; `max_tokens` limits a reply.
        Prompts that were answered before are not asked again. Raises BudgetExhausted when not one prompt
        could be answered for want of budget.
        """
        self.check_process()
        chosen = self.options(**options)
        questions = [Question.of(prompt, chosen) for prompt in _texts(prompts)]
        found = self._find(questions)
        missing = list({one.key: one for one in questions if one.key not in found}.values())
        asked = self._ask(missing) if missing else {}
        answers = self._in_order(questions, found, asked)
        answered = sum(not isinstance(answer, CallError) for answer in answers)
        self.meter.count_cached(answered - sum(answer.text is not None for answer in asked.values()))
        return answers

    def usage(self) -> Usage:
        """Return the usage so far; calls in flight count as the most they may use."""
        return self.meter.usage()

    def note(self, line: str) -> None:
        """Take a line for the log; the same one once."""
        if len(self._notes) < _NOTES:
            self._notes.setdefault(shortened(self.redactor.text(line), LOG_LINE_CHARS))

    def close(self) -> list[str]:
        """End all threads and leave everything on record. Lines for the log; raises nothing."""
        if os.getpid() == self._home:
            try:
                self._close()
            except Exception as error:  # noqa: BLE001 -- noted in the log; the program's result must not fail
                self.note(f"model calls were not closed properly: {type(error).__name__}: {error}")
        return list(self._notes)

    def check_process(self) -> None:
        """Raise ModelError in a fork of the program's process."""
        if os.getpid() != self._home:
            raise ModelError("models cannot be asked from a child process: ask them in the program itself")

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

    def _find(self, questions: list[Question]) -> dict[str, Any]:
        """The answers that are there, as values, by key."""
        by_key = {question.key: question for question in questions}
        found: dict[str, Any] = {}
        for key, text in self.answers.find(by_key, self._prepare).items():
            with contextlib.suppress(chat.SchemaMismatch):  # not one of ours: ask
                found[key] = chat.value_of(text, by_key[key].options)
        return found

    def _ask(self, questions: list[Question]) -> dict[str, CallResult]:
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
        self.answers.journal.flush(_RECORD_S)
        return answers

    def _close(self) -> None:
        self._stop.set()
        self.meter.stop()
        self.pool.close()
        self.answers.journal.close(_RECORD_S)
        self.meter.record_spent()
        remove_spend_twin(self.volumes, self._output_dir)
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
            write_spend(self.volumes, self._output_dir, usage)
        except OSError as error:
            self.note(
                f"{self._output_dir}/{protocol.SPEND_FILE} could not be written ({error}): if the job is "
                "killed, its model calls may not count"
            )

    def _in_order(
        self, questions: list[Question], found: dict[str, Any], asked: dict[str, CallResult]
    ) -> list[Any]:
        slots: list[Any] = []
        for index, question in enumerate(questions):
            if question.key in found:
                slots.append(found[question.key])
                continue
            answer = asked[question.key]
            if answer.text is None:
                slots.append(CallError(prompt_index=index, kind=answer.kind, message=answer.message))
            else:
                slots.append(chat.value_of(answer.text, question.options))
        unpaid = [slot for slot in slots if isinstance(slot, CallError) and slot.kind == "budget"]
        if unpaid and len(unpaid) == len(slots):
            raise BudgetExhausted(unpaid[0].message)
        if unpaid:
            self.note(f"{len(unpaid)} of {len(slots)} prompts were not asked: {unpaid[0].message}")
        return slots


def _texts(prompts: Iterable[Any]) -> list[str]:
    if isinstance(prompts, (str, bytes)):
        raise TypeError("rlm.llm_query_batched: prompts must be a list of texts; for one use rlm.llm_query")
    texts = list(prompts)
    for index, prompt in enumerate(texts):
        if not isinstance(prompt, str):
            kind = type(prompt).__name__
            raise TypeError(f"rlm.llm_query_batched: prompt {index} must be a text, not {kind}")
    return texts
