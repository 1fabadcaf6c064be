"""The state machine of ``machine``: anything may happen."""

from __future__ import annotations

from machine import Fleet, case_of

TestFleet = case_of(Fleet, examples=250)
