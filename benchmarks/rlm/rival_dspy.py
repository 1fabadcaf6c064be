"""One run of ``dspy.RLM`` against the stub: a JSON document in, one out.

Runs in the environment of the rivals and imports nothing of ours. The interpreter is dspy's local one, a
process without a sandbox; its default one, in Deno, fetches Pyodide at run time. Answers of the sub-model are
cached, as they are by default; the root's are not, since runs of the same prompts are compared.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from typing import Any


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["DSPY_CACHEDIR"] = folder  # read when dspy is imported
        run()


def run() -> None:
    import dspy  # type: ignore[import-not-found] # not of this environment

    warnings.simplefilter("ignore")
    spec: dict[str, Any] = json.load(sys.stdin)

    def model(name: str, *, cache: bool) -> Any:
        return dspy.LM(f"openai/{name}", api_base=f"{spec['host']}/v1", api_key="none", cache=cache)

    dspy.configure(lm=model("root", cache=False), track_usage=True)
    rlm = dspy.RLM(
        "context, query -> answer",
        max_iters=spec["max_turns"],
        max_llm_calls=spec["max_sub_calls"],
        sub_lm=None if spec["depth"] else model("sub", cache=True),
        interpreter_factory=dspy.LocalInterpreter,
    )
    line, size = spec["line"], spec["context_chars"]
    context = (line * (size // len(line) + 1))[:size]
    answer = rlm(context=context, query=spec["task"])
    tracked = (answer.get_lm_usage() or {}).values()
    usage = {
        "calls": None,  # it tells tokens and no calls
        "input_tokens": sum(entry.get("prompt_tokens") or 0 for entry in tracked),
        "output_tokens": sum(entry.get("completion_tokens") or 0 for entry in tracked),
    }
    print(json.dumps({"answer": answer.answer, "usage": usage}))


if __name__ == "__main__":
    main()
