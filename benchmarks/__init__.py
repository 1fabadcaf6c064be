"""Measurements of the local workspace, the harness and the control plane: ratios within one run."""
