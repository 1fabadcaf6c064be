"""For all tests."""

from __future__ import annotations

import __main__

# A worker of pytest-xdist is started with `python -c`, and pyspark takes a main module without a file for
# its own doctests, which need a whole Spark.
if not hasattr(__main__, "__file__"):
    __main__.__file__ = __file__
