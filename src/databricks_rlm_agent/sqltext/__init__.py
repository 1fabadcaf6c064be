"""SQL as text: split into statements, their kind, and what each reads and writes. Pure."""
