"""The SQL workflow executor: reads a directory of SQL, runs its plan, records how it went."""
