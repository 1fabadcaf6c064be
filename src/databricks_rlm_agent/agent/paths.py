"""Paths that a model may name: the same as people may."""

from __future__ import annotations

from databricks_rlm_agent.domain.paths import check_volume_path

__all__ = ["check_volume_path"]
