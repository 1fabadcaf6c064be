"""What the forking process imports, so that its children need not."""


import databricks_rlm_agent.agent.chain
import databricks_rlm_agent.agent.checked
import databricks_rlm_agent.agent.invocation
import databricks_rlm_agent.agent.plugins
import databricks_rlm_agent.agent.scripted
import databricks_rlm_agent.cli.operate
import databricks_rlm_agent.cli.work  # noqa: F401
