"""The databricks-sdk client: built once, late, with bounded patience."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from databricks_rlm_agent import __version__
from databricks_rlm_agent.errors import NeverReached
from databricks_rlm_agent.remote.errors import sdk_errors

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config

# The SDK's own default of 300 s would hide an unreachable host from a person at a terminal; the loop
# waits out longer faults by ticking again.
RETRY_TIMEOUT_S = 15
# The SDK looks for the host's metadata while it is built, and says nothing when there is no answer.
_FIRST_CONTACT_S = 2


class Workspace:
    """A workspace and the identity we have there. Auth follows the SDK's unified configuration."""

    def __init__(
        self, *, profile: str | None = None, host: str | None = None, token: str | None = None
    ) -> None:
        self._profile, self._host, self._token = profile, host, token

    @cached_property
    def config(self) -> Config:
        """Host and credentials; raise Unauthorized if there are none."""
        with sdk_errors("configuration of databricks-sdk"):
            from databricks.sdk.core import Config

            config = Config(
                profile=self._profile,
                host=self._host,
                token=self._token,
                retry_timeout_seconds=_FIRST_CONTACT_S,
                http_timeout_seconds=60,
                product="databricks-rlm-agent",
                product_version=__version__,
            )
        _reach(str(config.host))
        config.retry_timeout_seconds = RETRY_TIMEOUT_S
        return config

    @cached_property
    def client(self) -> WorkspaceClient:
        """The SDK's client."""
        config = self.config
        with sdk_errors(str(config.host)):
            from databricks.sdk import WorkspaceClient

            return WorkspaceClient(config=config)

    @property
    def host(self) -> str:
        """The workspace's address."""
        return str(self.config.host)

    @contextmanager
    def calling(self, what: str) -> Iterator[None]:
        """Name a call and the workspace in the errors of what is done inside."""
        with sdk_errors(f"{what} at {self.host}"):
            yield

    def bearer(self) -> str | None:
        """A token that is valid now, or None where the configuration authenticates in another way."""
        with sdk_errors(self.host):
            scheme, _, token = self.config.authenticate().get("Authorization", "").partition(" ")
        return token if scheme == "Bearer" else None

    def identity(self) -> str:
        """Who we are there; raise Unreachable or Unauthorized."""
        with sdk_errors(self.host):
            return self.client.current_user.me().user_name or "unknown"


def _reach(host: str) -> None:
    """Raise NeverReached if nothing answers at an address, whatever it would answer."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    with requests.Session() as session:
        session.mount(host, HTTPAdapter(max_retries=Retry(total=3, backoff_factor=0.2, status=0)))
        try:
            session.get(f"{host}/.well-known/databricks-config", timeout=10, allow_redirects=False)
        except requests.RequestException as error:
            raise NeverReached(
                f"Nothing answers at {host}: {_cause(error)}.",
                where="DATABRICKS_HOST or --profile",
                fix="Check the address and the network.",
            ) from None


def _cause(error: BaseException) -> str:
    """The innermost reason: the layers above it only repeat each other."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return str(reason or error).rpartition(": ")[2] or type(error).__name__
