"""What the models say: the same programs in each contender's words, and the messages that carry them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
PRINTED = 30_000
TASK = "How many foxes are there?"
LINE = "The quick brown fox jumps over the lazy dog; nothing is hidden in here.\n"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one contender names its context and a batch of sub-calls, and what spawns a child."""

    context: str
    batch: str
    child: str

    def peek(self) -> str:
        """Look at a hundred characters of the context."""
        return f"print({self.context}[1000:1100])"

    def sub_calls(self, count: int, note: str, about: str) -> str:
        """Ask ``count`` prompts ``about`` something, and leave the seconds it took in the file ``note``."""
        return (
            "import time\n"
            f"prompts = [f'{{n}}: is there a fox in {about}?' for n in range({count})]\n"
            "begun = time.perf_counter()\n"
            f"answers = {self.batch}(prompts)\n"
            f"open({note!r}, 'w').write(str(time.perf_counter() - begun))\n"
            "assert all(answer == 'yes' for answer in answers), answers[:3]\n"
            "print(len(answers))"
        )

    def chatter(self, turn: int) -> str:
        """Print 30,000 characters."""
        return f"print('turn {turn}: ' + 'some output. ' * {PRINTED // 13})"


_ITS_OWN = {"context": "context", "batch": "llm_query_batched"}
RLMS = Dialect(
    **_ITS_OWN,
    child="print(rlm_query('How many foxes are in this text? The fox.'))",
)
DSPY = Dialect(
    **_ITS_OWN,
    child="import dspy\nchild = dspy.RLM('context, query -> answer')\n"
    "print(child(context='The fox.', query='How many foxes?'))",
)
OURS = Dialect(
    context="rlm.inputs['context']",
    batch="rlm.llm_query_batched",
    child="rlm.spawn([{'name': 'foxes', 'task': 'How many foxes are in this text? The fox.'}])",
)


def context(size: int) -> str:
    """A text of so many characters."""
    return (LINE * (size // len(LINE) + 1))[:size]


def rlms_messages(programs: Sequence[str], children: int) -> list[Message]:
    """Code blocks in text. A child asks the same model in its turn, and ends at once."""
    end = "answer['content'] = '42'\nanswer['ready'] = True"
    return [
        {"content": f"Going on.\n```repl\n{program}\n```"} for program in [*programs, *[end] * (children + 1)]
    ]


def dspy_messages(programs: Sequence[str], children: int) -> list[Message]:
    """The fields of dspy's chat format."""
    return [
        {
            "content": "[[ ## reasoning ## ]]\nGoing on.\n\n[[ ## code ## ]]\n"
            f"```python\n{program}\n```\n\n[[ ## completed ## ]]"
        }
        for program in [*programs, *["SUBMIT('42')"] * (children + 1)]
    ]


def our_messages(programs: Sequence[str], children: int) -> tuple[list[Message], Message]:
    """Calls of tools, and what the summarizer says of a long output."""
    actions = [("run_python", {"code": program, "purpose": "going on"}) for program in programs]
    actions += [("finish", {"answer": "42", "evidence": "the last result"})] * (children + 1)
    messages = [_call(name, arguments, number) for number, (name, arguments) in enumerate(actions)]
    return messages, _call("remember", {"digest": "It printed some output."})


def _call(name: str, arguments: Mapping[str, Any], number: int = 0) -> Message:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "content": None,
        "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}],
    }
