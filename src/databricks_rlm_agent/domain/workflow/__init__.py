"""Directories of SQL: how they are read, in what order they run, how a loop goes on and when it ends."""
