"""The storm's own parts: the provider of models, and who is below a process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest

from tools.crash.provider import Provider, serve
from tools.crash.storm import command_of, descendants


def asked(provider: Provider, prompt: str) -> Any:
    body = {"model": "storm", "messages": [{"role": "user", "content": prompt}]}
    request = urllib.request.Request(
        f"{provider.url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        content = reply.read()
    call = json.loads(content)["choices"][0]["message"]["tool_calls"][0]["function"]
    return call["name"], json.loads(call["arguments"])


def test_the_provider_does_the_next_step_and_answers_after_the_last() -> None:
    with serve(random.Random(1)) as provider:
        name, first = asked(provider, "Do all steps of storm-7-of-2.")
        assert (name, first["purpose"]) == ("run_python", "step 1")
        name, second = asked(provider, 'Do all steps of storm-7-of-2. Last result: {"finished": 1}')
        assert (name, second["purpose"]) == ("run_python", "step 2")
        name, answer = asked(provider, 'storm-7-of-2 {"finished": 1} {"finished": 2}')
        assert (name, answer["answer"]) == ("finish", "storm-7-of-2 is done.")
        assert (provider.asked, provider.refused) == (3, 0)


@pytest.mark.parametrize("outage", ["429", "500", "page", "closed"])
def test_an_outage_answers_no_question(outage: str) -> None:
    with serve(random.Random(1)) as provider:
        provider.outage = outage
        with pytest.raises((urllib.error.HTTPError, ValueError, OSError)) as refused:
            asked(provider, "storm-1-of-1")
        if isinstance(refused.value, urllib.error.HTTPError):
            assert (refused.value.code, refused.value.headers["Retry-After"]) == (int(outage), "2")
            refused.value.close()
        assert provider.refused == 1


def test_processes_below_one_are_found() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()  # grandchild'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        while not (found := [pid for pid in descendants(child.pid) if "grandchild" in command_of(pid)]):
            assert child.poll() is None
        assert len(found) == 1
        child.communicate(b"\n")
    assert command_of(child.pid) == ""
