"""The REST services of the local workspace, one module each; every module has `routes(...)`."""

from __future__ import annotations
