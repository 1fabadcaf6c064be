"""Stub."""

from __future__ import annotations

from typing import Any


class ConnectProxy:
    def __init__(self, tree: Any, stub: Any) -> None: ...
    def start(self) -> int:
        return 0

    def stop(self) -> None: ...
