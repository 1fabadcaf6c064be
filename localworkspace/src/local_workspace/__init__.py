"""The local workspace: a Databricks workspace's protocols over a folder and an embedded Spark engine."""

from __future__ import annotations
