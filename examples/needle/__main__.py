"""``python -m examples.needle``."""

from __future__ import annotations

import sys

from examples.needle.task import example
from examples.stage import main

if __name__ == "__main__":
    sys.exit(main(example))
