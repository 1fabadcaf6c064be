"""Run a plan: sessions, steps, loops, records, resume."""
