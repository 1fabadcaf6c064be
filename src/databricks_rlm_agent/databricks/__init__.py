"""The only package that imports databricks-sdk and databricks-sql-connector."""
