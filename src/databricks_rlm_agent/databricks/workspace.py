"""A workspace, and our identity there.

This module goes into the job of a SQL workflow, so it must not need pydantic.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, cast

from databricks_rlm_agent import __version__
from databricks_rlm_agent.databricks.errors import (
    CONNECTIONS,
    DISCOVERY_S,
    HTTP_TIMEOUT_S,
    NoRetries,
    sdk_errors,
)
from databricks_rlm_agent.errors import Forbidden, NeverReached, RemoteError, Unauthorized
from databricks_rlm_agent.retry import REQUESTS
from databricks_rlm_agent.values import Sleep

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.clock import Clock
    from databricks.sdk.core import Config

log = logging.getLogger(__name__)
T = TypeVar("T")
# A wrong address should be reported soon.
_FIRST_CONTACT = replace(REQUESTS, attempts=4)


@dataclass(frozen=True, kw_only=True)
class Access:
    """A configuration that was read once, and the client made of it."""

    config: Config
    client: WorkspaceClient


class Workspace:
    """A workspace and the identity we have there. Auth follows the SDK's unified configuration.

    Safe to use from several threads at once.
    """

    def __init__(
        self,
        *,
        profile: str | None = None,
        host: str | None = None,
        token: str | None = None,
        auth_type: str | None = None,
        sleep: Sleep = time.sleep,
    ) -> None:
        self._profile, self._host, self._token, self._sleep = profile, host, token, sleep
        self._auth_type = auth_type  # a way to authenticate that the SDK is held to, such as external-browser
        self._lock = threading.Lock()
        self._access: Access | None = None

    @property
    def access(self) -> Access:
        """The credentials in force; raise Unauthorized if there are none, NeverReached if nobody answers."""
        if self._access is None:
            with self._lock:
                if self._access is None:
                    self._access = self._read(first=True)
        return self._access

    @property
    def host(self) -> str:
        """The workspace's address."""
        return str(self.access.config.host)

    def call(self, what: str, ask: Callable[[WorkspaceClient], T]) -> T:
        """The answer of a request that is safe to repeat; ``what`` names it in errors.

        It is repeated as ``retry.REQUESTS`` says. Where the credentials are refused, they are read anew
        and it is sent once more.
        """
        result: T = REQUESTS.retrying(self._sleep)(self.renewing, lambda access: self._ask(what, ask, access))
        return result

    def renewing(self, work: Callable[[Access], T]) -> T:
        """Do some work; where the credentials are refused, do it once more with ones read anew."""
        access = self.access
        try:
            return work(access)
        except Forbidden:
            raise
        except Unauthorized as error:
            renewed = self._renewed(access, error)
        return work(renewed)

    def bearer(self) -> str | None:
        """A token that is valid now, or None where the configuration authenticates in another way."""
        with sdk_errors(self.host):  # the SDK refreshes OAuth tokens before they expire
            headers = self.access.config.authenticate()
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        return token if scheme == "Bearer" else None

    def identity(self) -> str:
        """Return our user name there; raise Unreachable or Unauthorized."""
        return self.call("identity", lambda client: client.current_user.me().user_name or "unknown")

    def _ask(self, what: str, ask: Callable[[WorkspaceClient], T], access: Access) -> T:
        with sdk_errors(f"{what} at {access.config.host}"):
            return ask(access.client)

    def _renewed(self, refused: Access, error: Unauthorized) -> Access:
        """New access in place of one that was refused; of several threads, the first one reads it."""
        if self._token is not None:  # given by hand: there is nowhere to read another one
            raise error
        with self._lock:
            if self._access is refused:
                try:
                    self._access = self._read(first=False)
                except RemoteError as failure:
                    log.warning("the credentials were refused, and could not be read anew: %s", failure)
                    raise error from None
                log.info("the credentials were refused and have been read anew")
            assert self._access is not None
            return self._access

    def _read(self, *, first: bool) -> Access:
        with sdk_errors("configuration of databricks-sdk"):
            from databricks.sdk import WorkspaceClient
            from databricks.sdk.core import Config

            config = Config(
                profile=self._profile,
                host=self._host,
                token=self._token,
                auth_type=self._auth_type,
                retry_timeout_seconds=DISCOVERY_S,
                http_timeout_seconds=HTTP_TIMEOUT_S,
                max_connection_pools=CONNECTIONS,
                max_connections_per_pool=CONNECTIONS,
                clock=cast("Clock", NoRetries()),
                product="databricks-rlm-agent",
                product_version=__version__,
            )
        if first:
            _reach(str(config.host), self._sleep)
        with sdk_errors(str(config.host)):
            return Access(config=config, client=WorkspaceClient(config=config))


def _reach(host: str, sleep: Sleep) -> None:
    """Raise NeverReached if nothing answers at an address, whatever it would answer."""
    import requests

    def ask() -> None:
        requests.get(f"{host}/.well-known/databricks-config", timeout=10, allow_redirects=False)

    try:
        _FIRST_CONTACT.retrying(sleep, repeats=lambda error: isinstance(error, requests.RequestException))(
            ask
        )
    except requests.RequestException as error:
        raise NeverReached(
            f"Nothing answers at {host}: {_cause(error)}.",
            where="DATABRICKS_HOST, --profile or --server-hostname",
            fix="Check the address and the network.",
        ) from None


def _cause(error: BaseException) -> str:
    """The innermost reason: the layers above it only repeat each other."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return str(reason or error).rpartition(": ")[2] or type(error).__name__
