"""A value that must not be seen."""

from __future__ import annotations

from typing import NoReturn


class Secret:
    """A secret value. It prints, formats and represents itself as ``***``, and does not pickle or copy out.

    ``json.dumps`` refuses it, as it refuses any object that it does not know.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("A secret does not pickle.")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: object) -> Secret:
        return self


def redact(text: str, secrets: list[Secret]) -> str:
    """``text`` with every secret's value replaced by ``***``. Values under 4 characters are left alone."""
    for value in sorted((secret.reveal() for secret in secrets), key=len, reverse=True):
        if len(value) >= 4:  # shorter ones would tear ordinary words apart, and no key is that short
            text = text.replace(value, "***")
    return text
