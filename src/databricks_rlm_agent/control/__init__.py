"""The control plane: tick, loop, and the steps of one iteration."""
