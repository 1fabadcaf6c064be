"""Host and credential of the workspace that a job runs in. The credential is in no message and no file.

In order: `DATABRICKS_HOST` with `DATABRICKS_TOKEN`; the SDK's own unified configuration, which is part of
Databricks runtimes and renews its tokens; the notebook context, for a runtime whose SDK finds nothing (from
memory, to be verified on a live workspace).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from executor_harness.models.client import Endpoint
from executor_harness.models.errors import NoModel

_HELP = (
    "set DATABRICKS_HOST and DATABRICKS_TOKEN for the job, or run it on compute whose identity the "
    "databricks-sdk finds"
)


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Where the workspace is, and what to say to it. `headers` asks anew each time, so a renewed token
    is used as soon as there is one.
    """

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


def find(environ: Mapping[str, str]) -> Credentials:
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
    context = _dbutils().notebook.entry_point.getDbutils().notebook().getContext()
    host, token = context.apiUrl().get(), context.apiToken().get()
    return Credentials(host=with_scheme(host), headers=lambda: _bearer(token))


def _dbutils() -> Any:
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    if found is None or "dbutils" not in found.user_ns:
        raise LookupError("not in a notebook kernel")
    return found.user_ns["dbutils"]
