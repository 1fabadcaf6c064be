"""What the models say: the same programs in each contender's words, and the messages that carry them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
PRINTED = 30_000


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one contender names its context, a batch of sub-calls and the end."""

    context: str
    batch: str
    child: str
    end: str

    def peek(self) -> str:
        """Look at a hundred characters of the context."""
        return f"print({self.context}[1000:1100])"

    def sub_calls(self, count: int, note: str) -> str:
        """Ask ``count`` prompts, and leave the time that it took, in seconds, in the file ``note``."""
        return (
            "import time\n"
            f"prompts = [f'{{n}}: is there a fox in this line?' for n in range({count})]\n"
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
    end="answer['content'] = '42'\nanswer['ready'] = True",
)
DSPY = Dialect(
    **_ITS_OWN,
    child="import dspy\nchild = dspy.RLM('context, query -> answer')\n"
    "print(child(context='The fox.', query='How many foxes?'))",
    end="SUBMIT('42')",
)
OURS = Dialect(context="rlm.inputs['context']", batch="rlm.llm_query_batched", child="", end="")


def rlms_messages(programs: Sequence[str]) -> list[Message]:
    """Code blocks in text."""
    return [{"content": f"Going on.\n```repl\n{program}\n```"} for program in programs]


def dspy_messages(programs: Sequence[str]) -> list[Message]:
    """The fields of dspy's chat format."""
    return [
        {
            "content": "[[ ## reasoning ## ]]\nGoing on.\n\n[[ ## code ## ]]\n"
            f"```python\n{program}\n```\n\n[[ ## completed ## ]]"
        }
        for program in programs
    ]


def our_messages(programs: Sequence[str]) -> list[Message]:
    """Calls of tools; the last one finishes."""
    actions = [("run_python", {"code": program, "purpose": "going on"}) for program in programs]
    actions.append(("finish", {"answer": "42", "evidence": "the last result"}))
    return [call(name, arguments, number) for number, (name, arguments) in enumerate(actions)]


def call(name: str, arguments: Mapping[str, Any], number: int = 0) -> Message:
    """One call of a tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "content": None,
        "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}],
    }
