"""The object `rlm` of a program: inputs, variables, model calls, and what the program reports."""
