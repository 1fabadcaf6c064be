"""Pure values and decisions; no effects."""
