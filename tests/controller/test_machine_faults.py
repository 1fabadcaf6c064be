"""The state machine of ``machine``: something goes wrong at every other step."""

from __future__ import annotations

from machine import FaultyFleet, case_of

TestFaultyFleet = case_of(FaultyFleet, examples=250)
