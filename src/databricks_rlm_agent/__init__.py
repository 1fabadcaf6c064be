"""An autonomous, durable data agent for Databricks. Start with ``docs/architecture.md``."""

__version__ = "0.1.0"
