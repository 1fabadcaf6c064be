"""One run of ``rlms`` against the stub: what to run on standard input, what came of it on standard output.

Runs in the environment of the rivals and imports nothing of ours.
"""

from __future__ import annotations

import json
import sys
from typing import Any

LINE = "The quick brown fox jumps over the lazy dog; nothing is hidden in here.\n"


def main() -> None:
    from rlm import RLM  # type: ignore[import-not-found] # not of this environment

    spec: dict[str, Any] = json.load(sys.stdin)

    def client(model: str) -> dict[str, str]:
        return {"model_name": model, "base_url": f"{spec['host']}/v1", "api_key": "none"}

    rlm = RLM(
        backend="openai",
        backend_kwargs=client("root"),
        other_backends=["openai"],
        other_backend_kwargs=[client("sub")],
        environment="local",
        max_iterations=spec["max_turns"],
        max_depth=spec["depth"] + 1,
    )
    size = spec["context_chars"]
    answer = rlm.completion((LINE * (size // len(LINE) + 1))[:size], root_prompt="How many foxes are there?")
    models = answer.usage_summary.model_usage_summaries.values()
    usage = {
        "calls": sum(model.total_calls for model in models),
        "input_tokens": sum(model.total_input_tokens for model in models),
        "output_tokens": sum(model.total_output_tokens for model in models),
    }
    print(json.dumps({"answer": answer.response, "usage": usage}))


if __name__ == "__main__":
    main()
