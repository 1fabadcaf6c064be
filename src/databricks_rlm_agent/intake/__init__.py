"""Intake: a work table's rows become runs, answers and cancellations; their status is written back."""
