"""The planner: the only package that imports google.adk."""
