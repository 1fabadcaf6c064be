"""Identity unification: records of four systems become persons, proven against networkx and against the truth."""
