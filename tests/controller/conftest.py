from __future__ import annotations

from hypothesis import settings

# Deterministic and without a database on disk: the same examples on every machine.
settings.register_profile("rlm", derandomize=True, database=None, deadline=None)
settings.load_profile("rlm")
