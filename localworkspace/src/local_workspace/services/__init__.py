"""The REST services of the local workspace, one module each; each with `routes(workspace)`."""

from __future__ import annotations
