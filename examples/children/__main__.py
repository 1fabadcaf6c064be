"""``python -m examples.children``."""

from __future__ import annotations

import sys

from examples.children.task import example
from examples.stage import main

if __name__ == "__main__":
    sys.exit(main(example))
