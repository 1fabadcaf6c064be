"""spend.json: what an attempt may have spent at most, on record before it spends it.

Whoever finds an attempt dead reads it, so that a killed program's calls count. It is written whole, and its
twin before it: of the two a kill cuts off one at most. Where neither can be read, everything that the attempt
was allowed counts.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from executor_harness import protocol
from executor_harness.protocol import Usage
from executor_harness.volumes import Volumes


def write(volumes: Volumes, output_dir: str, usage: Usage) -> None:
    """Put on record what may be spent. Raises OSError."""
    data = encode(usage)
    for name in (protocol.SPEND_TWIN, protocol.SPEND_FILE):
        volumes.put(f"{output_dir}/{name}", data)


def tidy(volumes: Volumes, output_dir: str) -> None:
    """Take the twin away, once nothing more comes; on a best effort."""
    with contextlib.suppress(OSError):
        volumes.local(f"{output_dir}/{protocol.SPEND_TWIN}").unlink(missing_ok=True)


def encode(usage: Usage) -> bytes:
    """The bytes of spend.json."""
    return (json.dumps({"schema_version": protocol.SCHEMA_VERSION, "usage": usage}) + "\n").encode("ascii")


def read(volumes: Volumes, output_dir: str) -> Usage:
    """What a dead attempt may have spent; nothing where it never asked a model."""
    if not volumes.local(f"{output_dir}/{protocol.SPEND_FILE}").exists():
        return protocol.no_usage()  # calls wait for it, whether there is a twin or not
    for name in (protocol.SPEND_FILE, protocol.SPEND_TWIN):
        try:
            return _usage(json.loads(volumes.local(f"{output_dir}/{name}").read_bytes())["usage"])
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return _allowed(volumes, output_dir)


def _usage(found: dict[str, Any]) -> Usage:
    return {
        "calls": int(found["calls"]),
        "input_tokens": int(found["input_tokens"]),
        "output_tokens": int(found["output_tokens"]),
        "cost_usd": float(found["cost_usd"]),
        "cached": int(found["cached"]),
    }


def _allowed(volumes: Volumes, output_dir: str) -> Usage:
    usage = protocol.no_usage()
    try:
        manifest = json.loads(volumes.local(f"{output_dir}/{protocol.MANIFEST_FILE}").read_bytes())
        allowance = manifest["request"]["models"]["allowance"]
        usage["calls"], usage["input_tokens"] = int(allowance["calls"]), int(allowance["tokens"])
        usage["cost_usd"] = float(allowance["cost_usd"] or 0.0)
    except (OSError, ValueError, TypeError, KeyError):
        pass  # then nobody knows what was allowed either; the controller has it in its own record
    return usage
