"""One error tree. Every error says what was wrong, where, and what to do.

::

    RlmError                       exit code 1
    ├── UsageError                 2   wrong arguments, ids or input files
    │   ├── ConfigError            2   a setting is missing or contradicts another
    │   │   └── SecretsMissing     2   a required secret is nowhere to be found
    │   └── RunNotFound            2   no run of that id
    ├── InvalidData                1   a manifest, result, capsule or row that does not parse
    ├── PlannerError               1   the planner could not produce an action
    │   ├── ScriptExhausted        1   a scripted model was asked for more than its script holds
    │   └── ModelUnavailable       1   every model of the chain has refused
    └── RemoteError                1   a workspace answered with an error
        ├── Unreachable            3   no answer: host, network or time-out
        │   └── NeverReached       3   not one answer since we started: a wrong address, not a transient error
        ├── Unauthorized           3   the credentials were refused, or have expired
        │   └── Forbidden          3   the credentials are good, and what was asked is not allowed
        ├── NotFound               2   a catalog, schema, file, table or run does not exist
        ├── AlreadyExists          1   a file or object is there already
        ├── Conflict               1   a concurrent writer won; read again and decide again
        ├── Throttled              1   asked to slow down (carries ``retry_after`` seconds)
        │   └── ModelOutage        1   no model of the chain can answer now
        └── Rejected               1   the request itself was refused; sending it again is no use
"""

from __future__ import annotations


class RlmError(Exception):
    """Base of all our errors.

    ``what`` is a full sentence; ``where`` names the file, table, run or setting; ``fix`` says what to do.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        fix = f" {self.fix}" if self.fix else ""
        return f"{self.what}{where}{fix}"


class UsageError(RlmError):
    """Wrong arguments, ids or input files."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is missing or contradicts another."""


class SecretsMissing(ConfigError):
    """A required secret is neither in the environment nor in the secret scope."""


class RunNotFound(UsageError):
    """No run of that id."""


class InvalidData(RlmError):
    """A manifest, result, capsule, row or model reply that does not parse."""


class PlannerError(RlmError):
    """The planner could not produce an action."""


class ScriptExhausted(PlannerError):
    """A scripted model was asked for more than its script holds."""


class ModelUnavailable(PlannerError):
    """Every model of the chain has refused: asking again is no use."""


class RemoteError(RlmError):
    """A workspace answered with an error that has no class of its own below."""


class Unreachable(RemoteError):
    """No answer: host, network or time-out. The outcome of a write is unknown."""

    exit_code = 3


class NeverReached(Unreachable):
    """Not one answer since we started: a wrong address, not a transient error. Nothing has happened."""


class Unauthorized(RemoteError):
    """The credentials were refused, or have expired: new ones may be accepted."""

    exit_code = 3


class Forbidden(Unauthorized):
    """The credentials are good, but what was asked is not allowed: asking again is no use."""


class NotFound(RemoteError):
    """A catalog, schema, file, table or run does not exist."""

    exit_code = 2


class AlreadyExists(RemoteError):
    """A file or object is there already."""


class Conflict(RemoteError):
    """A concurrent writer won; read again and decide again."""


class Throttled(RemoteError):
    """Asked to slow down; ``retry_after`` is in seconds, or None."""

    def __init__(
        self, what: str, *, where: str | None = None, fix: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.retry_after = retry_after


class ModelOutage(Throttled):
    """No model of the chain can answer now: throttled, overloaded, out of reach, or too slow."""


class Rejected(RemoteError):
    """The request itself was refused; sending it again is no use."""
