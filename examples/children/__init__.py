"""A task in three parts: each a run of its own, with its own programs and a part of the budget."""
