"""The session capsule: all that a prompt knows of a run, and how it is kept within its size."""
