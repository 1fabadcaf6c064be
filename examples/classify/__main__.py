"""``python -m examples.classify``."""

from __future__ import annotations

import sys

from examples.classify.task import example
from examples.stage import main

if __name__ == "__main__":
    sys.exit(main(example))
