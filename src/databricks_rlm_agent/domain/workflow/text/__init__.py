"""SQL as text: split into statements, and what each one is, reads and writes. Pure."""
