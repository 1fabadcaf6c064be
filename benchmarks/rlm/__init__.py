"""This project, ``rlms`` and ``dspy`` against one stub model server."""
