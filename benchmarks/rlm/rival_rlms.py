"""One run of ``rlms`` against the stub: a JSON document in, one out.

Runs in the environment of the rivals and imports nothing of ours.
"""

from __future__ import annotations

import json
import sys
from typing import Any


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
    line, size = spec["line"], spec["context_chars"]
    answer = rlm.completion((line * (size // len(line) + 1))[:size], root_prompt=spec["task"])
    models = answer.usage_summary.model_usage_summaries.values()
    usage = {
        "calls": sum(model.total_calls for model in models),
        "input_tokens": sum(model.total_input_tokens for model in models),
        "output_tokens": sum(model.total_output_tokens for model in models),
    }
    print(json.dumps({"answer": answer.response, "usage": usage}))


if __name__ == "__main__":
    main()
