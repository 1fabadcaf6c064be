"""Runs: states, budget, capsule, acceptance checks, and the actions of a planner. Pure values."""
