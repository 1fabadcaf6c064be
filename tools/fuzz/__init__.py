"""Damaged inputs by the thousand; see ``__main__``."""
