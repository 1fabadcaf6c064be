"""What the forking process imports, so that its children need not."""

from importlib import import_module

for name in (
    "databricks.sdk",
    "databricks.sql.backend.thrift_backend",
    "databricks.sql.client",
    "google.adk.agents",
    "google.adk.apps",
    "google.adk.auth.credential_manager",
    "google.adk.flows.llm_flows.auto_flow",
    "google.adk.runners",
    "google.adk.tools",
    "google.adk.models",
    "google.adk.sessions",
    "pyarrow",
    "sqlglot",
    "databricks_rlm_agent.planner.chain",
    "databricks_rlm_agent.planner.conversation",
    "databricks_rlm_agent.planner.planner",
    "databricks_rlm_agent.planner.summarizer",
    "databricks_rlm_agent.cli.main",
    "databricks_rlm_agent.cli.operate",
    "databricks_rlm_agent.cli.work",
):
    import_module(name)
