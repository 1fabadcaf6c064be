"""The only importers of databricks-sdk and databricks-sql-connector."""
