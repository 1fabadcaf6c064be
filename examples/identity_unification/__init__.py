"""Identity unification: records of four systems become persons, proven against networkx and the truth."""
