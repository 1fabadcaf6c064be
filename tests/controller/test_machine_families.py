"""The state machine of ``families``: child runs, and something goes wrong at every other step."""

from __future__ import annotations

from families import Families
from machine import case_of

TestFamilies = case_of(Families, examples=150)
