"""How to reach a running local workspace."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

WAREHOUSE_ID = "local"
HTTP_PATH = f"/sql/1.0/warehouses/{WAREHOUSE_ID}"


@dataclass(frozen=True, kw_only=True)
class WorkspaceInfo:
    """Address and identity of one running server.

    `host` is a URL (`http://127.0.0.1:PORT`), `http_path` the warehouse's path for the SQL connector,
    `spark_connect` the engine's Spark Connect URL, `pid` the server's process.
    """

    host: str
    token: str
    http_path: str
    root: str
    pid: int
    warehouse_id: str = WAREHOUSE_ID
    spark_connect: str = ""

    def __repr__(self) -> str:
        return f"WorkspaceInfo(host={self.host!r}, token='***', root={self.root!r}, pid={self.pid})"

    def to_json(self) -> str:
        """One line of JSON with every field, the token included."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> WorkspaceInfo:
        """The inverse of `to_json`. Raises ValueError when the text is not such a document."""
        try:
            fields: dict[str, Any] = json.loads(text)
            return WorkspaceInfo(**fields)
        except TypeError as error:
            raise ValueError(f"not a description of a local workspace: {error}") from error
