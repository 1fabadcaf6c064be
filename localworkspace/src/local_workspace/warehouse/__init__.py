"""The SQL warehouse of the local workspace: Databricks' Thrift service over HTTP."""

from __future__ import annotations
