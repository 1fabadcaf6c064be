"""Kill controllers, executors and workspaces at every effect, and audit what is left.

See docs/crash-matrix.md.
"""
