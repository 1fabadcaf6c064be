"""spend.json: what an attempt may have spent at most, on record before it spends it.

Whoever finds an attempt dead reads it, so that a killed program's calls count. It is written whole, and its
twin before it: of the two a kill cuts off one at most. Where neither can be read, everything that the attempt
was allowed counts.
"""

from __future__ import annotations

import contextlib
import json

from executor_harness import protocol
from executor_harness.protocol import Usage
from executor_harness.volumes import Volumes


def write(volumes: Volumes, output_dir: str, usage: Usage) -> None:
    """Put on record what may be spent. Raises OSError."""
    data = encode(usage)
    for name in (protocol.SPEND_TWIN, protocol.SPEND_FILE):
        volumes.put(f"{output_dir}/{name}", data)


def remove_twin(volumes: Volumes, output_dir: str) -> None:
    """Remove the twin, once nothing more comes; on a best effort."""
    with contextlib.suppress(OSError):
        volumes.local(f"{output_dir}/{protocol.SPEND_TWIN}").unlink(missing_ok=True)


def encode(usage: Usage) -> bytes:
    """The bytes of spend.json."""
    document = {"schema_version": protocol.SCHEMA_VERSION, "usage": protocol.plain(usage)}
    return (json.dumps(document) + "\n").encode("ascii")


def read(volumes: Volumes, output_dir: str) -> Usage:
    """Return the most that a dead attempt may have spent; nothing where it never asked a model."""
    if not volumes.local(f"{output_dir}/{protocol.SPEND_FILE}").exists():
        return Usage()  # calls wait for it, whether there is a twin or not
    for name in (protocol.SPEND_FILE, protocol.SPEND_TWIN):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(volumes.read(f"{output_dir}/{name}"))["usage"]
            counts = {name: int(found[name]) for name in Usage.__dataclass_fields__ if name != "cost_usd"}
            return Usage(cost_usd=float(found["cost_usd"]), **counts)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        manifest = json.loads(volumes.read(f"{output_dir}/{protocol.MANIFEST_FILE}"))
        allowed = manifest["request"]["models"]["allowance"]
        calls, tokens, cost = int(allowed["calls"]), int(allowed["tokens"]), float(allowed["cost_usd"] or 0.0)
        return Usage(calls=calls, input_tokens=tokens, cost_usd=cost)
    return Usage()  # nobody knows what was allowed either; the controller has it in its own record
