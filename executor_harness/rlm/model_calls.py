"""Model calls as a program makes them: `rlm.llm_query`, `rlm.llm_query_batched`, `rlm.llm_map`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from executor_harness.protocol import LOG_LINE_CHARS, Request, Usage
from executor_harness.redaction import Redactor
from executor_harness.report import shortened
from executor_harness.rlm.asker import CallResult
from executor_harness.rlm.chat import BudgetExhausted, CallError, CallFailed, ModelError, NoModel, Question
from executor_harness.rlm.model_service import ModelService, value_of
from executor_harness.volumes import Volumes

_NOTES = 20


class ModelCalls:
    """The models that one program may ask. Threads and connections are made when they are first needed."""

    def __init__(
        self,
        request: Request,
        volumes: Volumes,
        session: Callable[[], Any],
        redactor: Redactor,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._redactor = redactor
        self._home = os.getpid()
        self._notes: dict[str, None] = {}
        self._service: ModelService | None = None
        if request.models:
            self._service = ModelService(
                request, request.models, volumes, session, redactor, self.note, environ
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
        service = self._ready()
        chosen = service.options(**options)
        questions = [Question.of(prompt, chosen) for prompt in _texts(prompts)]
        found = service.find(questions)
        missing = list({one.key: one for one in questions if one.key not in found}.values())
        asked = service.ask(missing) if missing else {}
        answers = self._in_order(questions, found, asked)
        answered = sum(not isinstance(answer, CallError) for answer in answers)
        service.meter.count_cached(answered - sum(answer.text is not None for answer in asked.values()))
        return answers

    def map(self, df: Any, template: str, output_col: str, **options: Any) -> Any:
        """A DataFrame with a column of answers; see `map.llm_map`."""
        from executor_harness.rlm.map import llm_map

        return llm_map(self._ready(), df, template, output_col, **options)

    def usage(self) -> Usage:
        """Return the usage so far; calls in flight count as the most they may use."""
        return self._service.meter.usage() if self._service else Usage()

    def note(self, line: str) -> None:
        """Take a line for the log; the same one once."""
        if len(self._notes) < _NOTES:
            self._notes.setdefault(shortened(self._redactor.text(line), LOG_LINE_CHARS))

    def close(self) -> list[str]:
        """End all threads and store the answers. Lines for the log; raises nothing."""
        if self._service is not None and os.getpid() == self._home:
            try:
                self._service.close()
            except Exception as error:  # noqa: BLE001 -- noted in the log; the program's result must not fail
                self.note(f"model calls were not closed properly: {type(error).__name__}: {error}")
        return list(self._notes)

    def _ready(self) -> ModelService:
        if self._service is None:
            raise NoModel(
                "this run has no model that programs may ask: give it one with RLM_SUB_MODEL (the name of a "
                "serving endpoint), or work without rlm.llm_query"
            )
        if os.getpid() != self._home:
            raise ModelError("models cannot be asked from a child process: ask them in the program itself")
        return self._service

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
                slots.append(value_of(answer.text, question.options))
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
