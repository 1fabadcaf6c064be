"""``python -m tools.crash matrix|workflows|chaos|storm [--quick] …``; each has ``--help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = ("matrix", "workflows", "chaos", "storm")


def main(argv: Sequence[str]) -> int:
    """Run one of the commands; return its exit code, or 2 for a name that is none."""
    if not argv or argv[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    command = import_module(f"tools.crash.{argv[0]}")
    return int(command.main(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
