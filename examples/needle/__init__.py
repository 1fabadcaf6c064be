"""Needles in 50 MB of text: search and aggregation with sub-calls."""
