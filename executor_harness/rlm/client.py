"""One call of a serving endpoint: credentials, HTTP, and what each outcome means for a retry.

Standard library only, and free of a session: it runs in the job's own process and in Spark's Python workers
alike. Proxies are not used: an endpoint is in the workspace that the job runs in.

Credentials are in no message and no file. They are, in this order: `DATABRICKS_HOST` with `DATABRICKS_TOKEN`;
the SDK's own unified configuration, which is part of Databricks runtimes and renews its tokens; the notebook
context, for a runtime whose SDK finds nothing (from memory, to be verified on a live workspace).
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import importlib
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote, urlsplit

from executor_harness.rlm import chat
from executor_harness.rlm.chat import Kind, NoModel, Tokens

# Too busy, or gone for a moment. The other answers stay the same however often one asks.
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_REASONS = {
    401: "the token is not accepted",
    403: "the job may not query this endpoint (CAN QUERY)",
    404: "there is no such serving endpoint",
    413: "the prompt is too large for the endpoint: split it",
}
_IDLE_S = 4.0  # servers close idle connections, some after 5 s; a call that meets the closing would be lost
_JUST_S = 0.05  # a connection that was used just now needs no look at its socket
_REPLY_BYTES = 64 * 1024 * 1024
_HELP = (
    "set DATABRICKS_HOST and DATABRICKS_TOKEN for the job, or run it on compute whose identity the "
    "databricks-sdk finds"
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one request. `text` is the answer; without one, `kind` and `message` say why.

    `tokens` is what the server reports. `sent` False: nobody was asked, so nothing is owed. `retry` says
    that another try may help, `retry_after` (seconds) when.
    """

    status: int | None = None
    text: str | None = None
    tokens: Tokens | None = None
    cut: bool = False
    kind: Kind | None = None
    message: str = ""
    sent: bool = True
    retry: bool = False
    retry_after: float | None = None

    @property
    def billed(self) -> bool:
        """Return whether the server may have worked for us: an answer, or no word on what became of it."""
        if self.tokens is not None or self.text is not None:
            return True
        return self.sent and (self.status is None or self.status < 300)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a model is asked. Picklable; `headers` hold the credential and are not shown."""

    host: str  # such as https://adb-1.azuredatabricks.net; http is for a workspace on this machine
    model: str
    timeout_s: float
    headers: dict[str, str] = field(repr=False)

    @property
    def path(self) -> str:
        """The path of the request."""
        return f"/serving-endpoints/{quote(self.model, safe='')}/invocations"


class Connection:
    """A connection that is kept open between requests; for one thread, but for `cut`."""

    def __init__(self, host: str, timeout_s: float) -> None:
        where = urlsplit(host)
        if where.scheme == "https":
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                where.netloc, timeout=timeout_s, context=_context()
            )
        else:
            self._connection = http.client.HTTPConnection(where.netloc, timeout=timeout_s)
        self._used = 0.0

    def ask(self, endpoint: Endpoint, body: bytes) -> Outcome:
        """One request. Raises nothing that the network does."""
        self._refresh()
        headers = {"Content-Type": "application/json", "Accept": "application/json", **endpoint.headers}
        sent = False
        try:
            if self._connection.sock is None:
                self._connection.connect()  # sets TCP_NODELAY
            sent = True
            self._connection.request("POST", endpoint.path, body=body, headers=headers)
            response = self._connection.getresponse()
            data = response.read(_REPLY_BYTES)
            self._used = time.monotonic()
            if not response.isclosed():  # cut off, or without end
                raise http.client.IncompleteRead(data)
            if response.will_close:
                self._connection.close()
            return outcome_of(response.status, response.headers, data, endpoint.model)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            return _failed(error, endpoint, sent=sent)

    def open(self) -> None:
        """Connect ahead of the first request, which says what is wrong if this fails."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            self._connection.connect()
            self._used = time.monotonic()

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def cut(self) -> None:
        """From another thread: end a request that waits for its reply."""
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _refresh(self) -> None:
        sock = self._connection.sock
        if sock is None:
            return
        idle = time.monotonic() - self._used
        if idle > _IDLE_S or (idle > _JUST_S and select.select([sock], [], [], 0)[0]):
            self._connection.close()


def outcome_of(status: int, headers: Any, data: bytes, model: str) -> Outcome:
    """Classify a reply. `headers` has `get`."""
    reply = chat.parse_reply(data)
    tokens = reply.tokens if reply else None
    if status == 200:
        if reply is not None and reply.text is not None:
            return Outcome(status=status, text=reply.text, tokens=tokens, cut=reply.cut)
        reason = chat.error_text(data) if reply is None else "it holds no text"
        message = f"{model}: unreadable reply: {reason}"
        return Outcome(status=status, tokens=tokens, kind="reply", message=message)
    if 300 <= status < 400:
        message = f"{model}: HTTP {status}: the endpoint redirects, which is refused; check the host"
        return Outcome(status=status, tokens=tokens, kind="refused", message=message)
    retry = status in _RETRIED
    kind: Kind = "throttled" if status == 429 else "unavailable" if retry else "refused"
    why = f"{_REASONS[status]}: " if status in _REASONS else ""
    return Outcome(
        status=status,
        tokens=tokens,
        kind=kind,
        message=f"{model}: HTTP {status}: {why}{chat.error_text(data)}",
        retry=retry,
        retry_after=retry_after(headers.get("Retry-After"), time.time()),
    )


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110: seconds, or a date); None if it has none."""
    if not value:
        return None
    try:
        return max(0.0, float(value)) if float(value) < float("inf") else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return None


def pause_before(tries: int, outcome: Outcome, chance: float) -> float:
    """Seconds until the next try after `tries` of them: doubling, half of it by `chance` (0 to 1), at most
    30 s; a server's own Retry-After counts when it is longer, up to 5 minutes.
    """
    wait = min(0.25 * 2.0**tries, 30.0) * (0.5 + chance / 2)
    # A little later than asked for: else everybody comes back in the same moment.
    return wait if outcome.retry_after is None else min(outcome.retry_after + 0.25 * chance, 300.0)


def _failed(error: Exception, endpoint: Endpoint, *, sent: bool) -> Outcome:
    if isinstance(error, ssl.SSLCertVerificationError):
        message = f"{endpoint.host}: its certificate is not trusted: {error.verify_message}"
        return Outcome(kind="refused", message=message, sent=False)
    if isinstance(error, ValueError):  # a header or name that http.client does not send
        return Outcome(kind="refused", message=f"{endpoint.model}: the request is not valid", sent=False)
    if isinstance(error, TimeoutError):
        message = f"{endpoint.model}: no reply within {endpoint.timeout_s:g} s"
        return Outcome(kind="timeout", message=message, sent=sent, retry=True)
    message = f"{endpoint.host}: {type(error).__name__}: {str(error)[:200]}"
    return Outcome(kind="unavailable", message=message, sent=sent, retry=True)


@cache
def _context() -> ssl.SSLContext:
    """One for all connections: loading the certificates takes tens of milliseconds."""
    return ssl.create_default_context()


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """The workspace, and `headers`, which are asked for anew each time: a renewed token is used at once."""

    host: str
    headers: Callable[[], dict[str, str]] = field(repr=False)

    def endpoint(self, model: str, timeout_s: float) -> Endpoint:
        """A serving endpoint, with the credential as it is now. Raises NoModel when there is none."""
        try:
            headers = dict(self.headers())
        except Exception as error:  # noqa: BLE001 -- re-raised as ours
            # The text of an SDK's error names its configuration; only its kind is safe to repeat.
            raise NoModel(f"{self.host} gives this job no token: {type(error).__name__}; {_HELP}") from None
        return Endpoint(host=self.host, model=model, timeout_s=timeout_s, headers=headers)


def find_credentials(environ: Mapping[str, str]) -> Credentials:
    """The credentials of this job; NoModel when there are none."""
    host, token = environ.get("DATABRICKS_HOST"), environ.get("DATABRICKS_TOKEN")
    if host and token:
        return Credentials(host=with_scheme(host), headers=lambda: _bearer(token))
    reasons = []
    for look in (_of_sdk, _of_notebook):
        try:
            return look()
        except Exception as error:  # noqa: BLE001 -- recorded: its kind goes into the message below
            reasons.append(f"{look.__name__.removeprefix('_of_')}: {type(error).__name__}")
    raise NoModel(f"this job has no access to its workspace ({', '.join(reasons)}): {_HELP}")


def with_scheme(host: str) -> str:
    """A host as a URL without a path; https unless it says otherwise."""
    whole = host.strip() if "://" in host else f"https://{host.strip()}"
    scheme, _, rest = whole.partition("://")
    return f"{scheme.lower()}://{rest.split('/', 1)[0]}"


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _of_sdk() -> Credentials:
    # By name: the harness depends on no package, it only uses what the program's environment has.
    config = importlib.import_module("databricks.sdk.core").Config()
    config.authenticate()
    return Credentials(host=with_scheme(config.host), headers=config.authenticate)


def _of_notebook() -> Credentials:
    shell = sys.modules["IPython"].get_ipython()  # there is none outside of a notebook's kernel
    context = shell.user_ns["dbutils"].notebook.entry_point.getDbutils().notebook().getContext()
    host, token = context.apiUrl().get(), context.apiToken().get()
    return Credentials(host=with_scheme(host), headers=lambda: _bearer(token))
