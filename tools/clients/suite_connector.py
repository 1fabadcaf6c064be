"""A plugin of pytest in the connector's environment: where its tests find the workspace.

The tests know a host and no port, and trust what the system trusts. Both are arguments of the connector that
the tests leave out, so the plugin gives them; nothing else changes. `SUITE_PORT`, `SUITE_CA_FILE` say which.
"""

from __future__ import annotations

import functools
import os
from typing import Any


def pytest_configure() -> None:
    """Give every connection the port and the certificate, unless a test sets them itself."""
    from databricks.sql.client import Connection

    original = Connection.__init__
    port, authority = os.environ["SUITE_PORT"], os.environ["SUITE_CA_FILE"]

    @functools.wraps(original)
    def connect(self: Any, server_hostname: str, *given: Any, **options: Any) -> None:
        options.setdefault("_tls_trusted_ca_file", authority)
        if options.get("use_kernel"):  # which knows no argument for a port
            server_hostname = f"{server_hostname}:{port}"
        else:
            options.setdefault("_port", int(port))
        original(self, server_hostname, *given, **options)

    Connection.__init__ = connect
