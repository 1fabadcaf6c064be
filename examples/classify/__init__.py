"""Thousands of rows classified by a sub-model that Spark spreads over its partitions."""
