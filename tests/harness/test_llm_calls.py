"""A program's model calls against a serving endpoint: order, failures, tries, limits, what is on record."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from harness_support import eventually, request_of
from llm_support import Said, calls_of, no_engine, run_folder, serving, spent

from executor_harness.protocol import Usage
from executor_harness.redaction import Redactor
from executor_harness.report import read_spend
from executor_harness.rlm import client
from executor_harness.rlm.chat import BudgetExhausted, CallError, CallFailed, ModelError, NoModel
from executor_harness.rlm.model_calls import ModelCalls
from executor_harness.volumes import Volumes


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries that a test can wait for; what asks for more is kept."""
    real = client.pause_before
    monkeypatch.setattr(client, "pause_before", lambda *given: min(real(*given), 0.02))


def test_one_question(tmp_path: Path) -> None:
    with serving() as stub:
        calls = calls_of(tmp_path, stub)
        assert calls.query("hello", system="be brief", temperature=0, max_tokens=7) == "re: hello"
        (asked,) = stub.asked
        assert asked.path == "/serving-endpoints/small/invocations"
        assert asked.token == "Bearer dapi-very-secret"
        assert asked.body == {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "hello"},
            ],
            "max_tokens": 7,
            "temperature": 0.0,
        }
        assert calls.query("hello", model="other/one") == "re: hello"
        assert stub.asked[1].path == "/serving-endpoints/other%2Fone/invocations"
        assert calls.usage() == Usage(calls=2, input_tokens=20, output_tokens=4)
        calls.close()


def test_a_batch_keeps_its_order_and_asks_the_same_prompt_once(tmp_path: Path) -> None:
    with serving(latency_s=0.01) as stub:
        calls = calls_of(tmp_path, stub, concurrency=8)
        prompts = [f"p{n % 20}" for n in range(60)]
        assert calls.query_batched(iter(prompts)) == [f"re: {prompt}" for prompt in prompts]
        assert sorted(stub.prompts) == sorted(set(prompts))
        assert 1 < stub.most_busy <= 8
        usage = calls.usage()
        assert (usage.calls, usage.input_tokens, usage.output_tokens) == stub.billed
        assert usage.cached == 40
        assert calls.query_batched(prompts[:3]) == ["re: p0", "re: p1", "re: p2"]
        assert len(stub.asked) == 20
        assert calls.query_batched([]) == []
        calls.close()
        assert spent(tmp_path) == calls.usage()


def test_a_prompt_that_fails_is_a_value_in_its_slot(tmp_path: Path) -> None:
    def rule(prompt: str, _before: int) -> Said:
        return Said(status=400, text="content filter", tokens=None) if prompt == "bad" else Said()

    with serving(rule) as stub:
        calls = calls_of(tmp_path, stub)
        good, bad, again = calls.query_batched(["a", "bad", "b"])
        assert (good, again) == ("ok", "ok")
        assert isinstance(bad, CallError)
        assert not bad
        assert (bad.prompt_index, bad.kind) == (1, "refused")
        assert "content filter" in bad.message
        assert "HTTP 400" in str(bad)
        with pytest.raises(CallFailed, match="refused: small: HTTP 400: content filter"):
            calls.query("bad")
        assert stub.prompts.count("bad") == 2, "a failure is no answer: it is not kept"
        assert calls.usage().calls == 2, "what the server turned down is not billed"
        calls.close()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (Said(status=401, text="no", tokens=None), "refused"),
        (Said(status=403, text="no", tokens=None), "refused"),
        (Said(status=404, text="no", tokens=None), "refused"),
        (Said(status=413, text="no", tokens=None), "refused"),
        (Said(status=302, text="", tokens=None, headers={"Location": "http://127.0.0.1:1/"}), "refused"),
        (Said(status=429, text="slow down", tokens=None), "throttled"),
        (Said(status=503, text="starting", tokens=None), "unavailable"),
        (Said(drop=True), "unavailable"),
        (Said(body=b"<html>"), "reply"),
        (Said(text=""), "reply"),
        (Said(text=None), "reply"),
        (Said(body=b"[]"), "reply"),
    ],
)
def test_failures_for_good(said: Said, kind: str, tmp_path: Path) -> None:
    with serving(lambda prompt, before: said) as stub:
        calls = calls_of(tmp_path, stub)
        (error,) = calls.query_batched(["p"])
        assert (error.kind, bool(error)) == (kind, False)
        assert "dapi-very-secret" not in str(error)
        tries = 7 if kind in ("throttled", "unavailable") else 2 if said.status == 401 else 1
        assert len(stub.asked) == tries
        # What may have been billed counts, at its bound where the server does not tell.
        assert calls.usage().calls == (tries if said.status == 200 or said.drop else 0)
        calls.close()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(status: int, tmp_path: Path) -> None:
    def rule(prompt: str, before: int) -> Said:
        return Said(status=status, tokens=None) if before < 3 else Said()

    with serving(rule) as stub:
        calls = calls_of(tmp_path, stub)
        assert calls.query("p") == "ok"
        assert len(stub.asked) == 4
        assert calls.usage().calls == 1
        calls.close()


def test_billed_failures_count_as_the_server_says(tmp_path: Path) -> None:
    def rule(prompt: str, before: int) -> Said:
        return Said(status=500, tokens=(7, 0)) if before == 0 else Said(tokens=(7, 3))

    with serving(rule) as stub:
        calls = calls_of(tmp_path, stub, prices={"small": {"input_usd": 3.0, "output_usd": 15.0}})
        calls.query_batched(["a", "b"])
        usage = calls.usage()
        assert (usage.calls, usage.input_tokens, usage.output_tokens) == stub.billed == (4, 28, 6)
        assert usage.cost_usd == pytest.approx((28 * 3 + 6 * 15) / 1e6)
        calls.close()


def test_retry_after_holds_everybody_back(tmp_path: Path) -> None:
    def rule(prompt: str, before: int) -> Said:
        busy = prompt == "p0" and before == 0
        return Said(status=429, tokens=None, headers={"Retry-After": "1"}) if busy else Said()

    with serving(rule) as stub:
        calls = calls_of(tmp_path, stub, concurrency=1)
        assert calls.query_batched(["p0", "p1"]) == ["ok", "ok"]
        assert stub.asked[1].at - stub.asked[0].at >= 0.95
        calls.close()


def test_no_reply_in_time(tmp_path: Path) -> None:
    with serving(latency_s=0.4) as stub:
        calls = calls_of(tmp_path, stub, timeout_s=0.1)
        with pytest.raises(CallFailed, match=r"no reply within 0.1 s \(tried 2 times\)"):
            calls.query("p")
        assert calls.usage().calls == 2, "both may have been billed"
        calls.close()


def test_a_connection_that_the_server_closed_meanwhile(tmp_path: Path) -> None:
    def rule(prompt: str, before: int) -> Said:
        return Said(headers={"Connection": "close"}) if prompt == "a" else Said()

    with serving(rule) as stub:
        calls = calls_of(tmp_path, stub, concurrency=1)
        assert [calls.query(prompt) for prompt in "abc"] == ["ok", "ok", "ok"]
        assert calls.usage().calls == len(stub.asked) == 3
        calls.close()


def test_nobody_there(tmp_path: Path) -> None:
    with serving() as stub:
        pass
    calls = calls_of(tmp_path, stub)
    with pytest.raises(CallFailed, match="unavailable"):
        calls.query("p")
    assert calls.usage().calls == 0
    calls.close()


# -- structured answers ------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["cat", "dog"]}, "sure": {"type": "number"}},
    "required": ["label"],
}


def test_json_answers(tmp_path: Path) -> None:
    with serving(lambda prompt, before: Said(text='```json\n{"label": "cat", "sure": 1}\n```')) as stub:
        calls = calls_of(tmp_path, stub)
        assert calls.query("p", schema=SCHEMA) == {"label": "cat", "sure": 1}
        asked = stub.asked[0].body["response_format"]
        assert asked == {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        }
        assert calls.query("p", schema=SCHEMA) == {"label": "cat", "sure": 1}
        assert len(stub.asked) == 1
        calls.close()


def test_a_misshapen_answer_is_repaired_once(tmp_path: Path) -> None:
    def rule(prompt: str, before: int) -> Said:
        if prompt == "p" or "never" in prompt:
            return Said(text='{"label": "cow never"}')
        return Said(text='{"label": "dog"}')

    with serving(rule) as stub:
        calls = calls_of(tmp_path, stub)
        assert calls.query_batched(["p", "q"], schema=SCHEMA)[1] == {"label": "dog"}
        calls.close()
    fixes = [one for one in stub.asked if len(one.body["messages"]) == 3]
    assert len(fixes) == 1
    assert "not one of" in fixes[0].prompt
    assert calls.usage().calls == 3 == stub.billed[0]


def test_a_misshapen_answer_twice_is_an_error(tmp_path: Path) -> None:
    with serving(lambda prompt, before: Said(text="sorry")) as stub:
        calls = calls_of(tmp_path, stub)
        (error,) = calls.query_batched(["p"], schema=SCHEMA)
        assert error.kind == "schema"
        assert calls.usage().calls == 2
        assert not list((run_folder(tmp_path)).glob("calls/*"))
        calls.close()


# -- budget ------------------------------------------------------------------------------------------


def test_a_budget_that_is_used_up_midway(tmp_path: Path) -> None:
    with serving(latency_s=0.01) as stub:
        calls = calls_of(tmp_path, stub, allowance={"calls": 5, "tokens": 10**6, "cost_usd": None})
        answers = calls.query_batched([f"p{n}" for n in range(8)])
        assert sum(map(bool, answers)) == 5 == len(stub.asked)
        unpaid = [answer for answer in answers if isinstance(answer, CallError)]
        assert {error.kind for error in unpaid} == {"budget"}
        with pytest.raises(BudgetExhausted, match=r"0 of 5 calls are left.*Finish with what there is"):
            calls.query("another")
        done = next(n for n, answer in enumerate(answers) if answer)
        assert calls.query(f"p{done}") == f"re: p{done}", "what was answered is there for nothing"
        assert any("3 of 8 prompts were not asked" in line for line in calls.close())
        assert len(stub.asked) == 5
        assert spent(tmp_path).calls == 5


def test_tokens_and_dollars_are_bounded_before_they_are_spent(tmp_path: Path) -> None:
    with serving() as stub:
        calls = calls_of(tmp_path, stub, allowance={"calls": 9, "tokens": 150, "cost_usd": None})
        with pytest.raises(BudgetExhausted, match=r"tokens .* and 150 of 150 are left"):
            calls.query("p")
        assert calls.query("p", max_tokens=20) == "re: p"
        prices = {"small": {"input_usd": 0.0, "output_usd": 1000.0}}
        calls = calls_of(
            tmp_path, stub, prices=prices, allowance={"calls": 9, "tokens": 10**6, "cost_usd": 0.05}
        )
        with pytest.raises(BudgetExhausted, match=r"may cost \$0.1000, and \$0.0500 of \$0.0500 are left"):
            calls.query("q")
        assert calls.query("q", max_tokens=50) == "re: q"
        assert len(stub.asked) == 2


def test_what_may_be_spent_is_on_record_before_in_blocks(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def rule(prompt: str, before: int) -> Said:
        home = "/Volumes/main/rlm/work/scratchpad/run_r1/iter_1"
        on_record = read_spend(Volumes(root=str(tmp_path)), home).calls  # it may be being written
        seen.append((len(seen) + 1, on_record))
        return Said()

    with serving(rule, latency_s=0.02) as stub:
        calls = calls_of(tmp_path, stub, concurrency=10)
        calls.query_batched([f"p{n}" for n in range(100)])
        assert len(seen) == 100
        assert all(asked <= on_record for asked, on_record in seen), seen
        assert all(on_record <= asked + 3 * 10 for asked, on_record in seen), seen
        assert spent(tmp_path) == calls.usage(), "and what was spent, after"
        calls.close()


def test_a_minute_has_its_limit(tmp_path: Path) -> None:
    with serving() as stub:
        calls = calls_of(tmp_path, stub, per_minute=3)
        done: list[Any] = []
        thread = threading.Thread(target=lambda: done.extend(calls.query_batched(["a", "b", "c", "d", "e"])))
        thread.start()
        eventually(lambda: len(stub.asked) == 3)
        time.sleep(0.2)
        assert len(stub.asked) == 3
        calls.close()
        thread.join()
        assert sorted(error.kind for error in done if not error) == ["stopped", "stopped"]


# -- what is there already ---------------------------------------------------------------------------


def test_the_next_program_of_the_run_finds_the_answers(tmp_path: Path) -> None:
    with serving() as stub:
        first = calls_of(tmp_path, stub)
        first.query_batched(["a", "b"])
        notes = first.close()
        assert any("could not be looked up in main.rlm.model_calls" in line for line in notes)
        assert any("2 answers of models are not in main.rlm.model_calls yet" in line for line in notes)
        second = calls_of(tmp_path, stub, attempt=2)
        assert second.query_batched(["b", "a", "c"]) == ["re: b", "re: a", "re: c"]
        assert stub.prompts.count("a") == stub.prompts.count("b") == 1
        assert (second.usage().calls, second.usage().cached) == (1, 2)
        second.close()


def test_secrets_are_in_no_file_and_no_answer(tmp_path: Path) -> None:
    with serving() as stub:
        calls = calls_of(tmp_path, stub, secrets=("hunter2hunter2",))
        assert calls.query("say hunter2hunter2") == "re: say ***"
        calls.close()
        texts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
        assert any("re: say" in text for text in texts)
        assert not any("hunter2" in text or "dapi-very-secret" in text for text in texts)


def test_what_is_said_in_the_log(tmp_path: Path) -> None:
    with serving(lambda prompt, before: Said(tokens=None, finish="length")) as stub:
        calls = calls_of(tmp_path, stub)
        calls.query_batched(["a", "b"], max_tokens=9)
        usage = calls.usage()
        assert (usage.calls, usage.output_tokens) == (2, 18), "the most that they may have used"
        notes = calls.close()
        assert sum("cut off at max_tokens=9" in line for line in notes) == 1
        assert sum("reports no usage" in line for line in notes) == 1


# -- threads and endings -----------------------------------------------------------------------------


def test_threads_are_used_again(tmp_path: Path) -> None:
    with serving(latency_s=0.05) as stub:
        calls = calls_of(tmp_path, stub, concurrency=4)
        calls.query_batched([f"p{n}" for n in range(40)])
        assert len(calls.pool._threads) == 4
        calls.query_batched([f"q{n}" for n in range(40)])
        assert (len(calls.pool._threads), calls.pool._busy, stub.most_busy) == (4, 0, 4)
        calls.close()


def test_threads_of_the_program_share_the_limit_and_the_answers(tmp_path: Path) -> None:
    with serving(latency_s=0.05) as stub:
        calls = calls_of(tmp_path, stub, concurrency=4)
        threads = [
            threading.Thread(target=calls.query_batched, args=([f"p{n}" for n in range(10)],))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert stub.most_busy <= 4
        assert len(stub.asked) == 10
        calls.close()


def test_close_ends_what_runs(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with serving(latency_s=5) as stub:
        calls = calls_of(tmp_path, stub, concurrency=3)
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.extend(calls.query_batched(list("abcdef"))))
        thread.start()
        eventually(lambda: len(stub.asked) == 3)
        calls.close()
        thread.join(60)
        assert [error.kind for error in got] == ["stopped"] * 6
        assert calls.usage().calls == 3, "they were sent: they may be billed"
        assert spent(tmp_path).calls == 3
        with pytest.raises(CallFailed, match="stopped"):
            calls.query("more")
        named = [one.name for one in threading.enumerate() if one not in before]
        assert not [name for name in named if name.startswith("rlm-")]


def test_an_interruption_drops_what_waits(tmp_path: Path) -> None:
    class Interrupted(BaseException):
        pass

    with serving(latency_s=0.2) as stub:
        calls = calls_of(tmp_path, stub, concurrency=2)

        def interrupted(*_: object) -> None:
            eventually(lambda: len(stub.asked) == 2)
            raise Interrupted

        original = calls.pool._submit

        def submit(*given: Any) -> None:
            original(*given)
            interrupted()

        calls.pool._submit = submit  # type: ignore[method-assign]
        with pytest.raises(Interrupted):
            calls.query_batched(list("abcdefgh"))
        calls.pool._submit = original  # type: ignore[method-assign]
        assert calls.query("z") == "re: z"
        assert len(stub.asked) == 3, "six were dropped"
        calls.close()
        assert calls.usage().calls == 3
        assert len(list(run_folder(tmp_path).glob("calls/*"))) >= 1


def test_misuse(tmp_path: Path) -> None:
    with serving() as stub:
        calls = calls_of(tmp_path, stub)
        with pytest.raises(TypeError, match="must be a list of texts"):
            calls.query_batched("one text")
        with pytest.raises(TypeError, match="prompt 1 must be a text, not int"):
            calls.query_batched(["a", 1])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="must be a text, not list"):
            calls.query(["a"])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="1 to 100 tokens"):
            calls.query("a", max_tokens=101)
        with pytest.raises(TypeError, match="JSON schema"):
            calls.query("a", schema="object")
        assert not stub.asked
        assert calls.close() == []
        assert not run_folder(tmp_path).exists(), "nothing is written for nothing"


def test_no_model_and_no_access(tmp_path: Path) -> None:
    with pytest.raises(NoModel, match="RLM_SUB_MODEL"):
        ModelCalls(request_of(models=None), Volumes(root=str(tmp_path)), no_engine, Redactor())
    lost = calls_of(tmp_path, None, environ={})
    with pytest.raises(NoModel, match="DATABRICKS_HOST and DATABRICKS_TOKEN"):
        lost.query("p")


def test_a_fork_may_not_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as stub:
        calls = calls_of(tmp_path, stub)
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(ModelError, match="child process"):
            calls.query("p")


def test_answers_that_were_cut_short_in_the_journal(tmp_path: Path) -> None:
    with serving() as stub:
        calls = calls_of(tmp_path, stub)
        calls.query_batched(["a", "b", "c"])
        calls.close()
        files = sorted(run_folder(tmp_path).glob("calls/*"))
        whole = b"".join(file.read_bytes() for file in files)
        for file in files[1:]:
            file.unlink()
        files[0].write_bytes(whole[:-40] + b'\n{"call_key": 1}\n\xff\xfe')
        assert len(json.loads(whole.split(b"\n")[0])) == 12
        calls_of(tmp_path, stub, attempt=2).query_batched(["a", "b", "c"])
        assert len(stub.asked) == 4, "only the one that was cut off is asked again"
