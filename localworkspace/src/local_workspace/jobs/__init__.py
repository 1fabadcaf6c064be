"""Jobs of the local workspace: runs as operating-system processes."""

from __future__ import annotations
