"""One engine and one warehouse server for the folder; each test has a schema of its own."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_workspace.engine import Engine, EngineOptions, EngineSession, create_engine

_numbers = itertools.count()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = create_engine(EngineOptions(root=tmp_path_factory.mktemp("ws"), catalogs=("main", "lake")))
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def schema(engine: Engine) -> str:
    """A fresh schema, as `main.sN`."""
    name = f"s{next(_numbers)}"
    engine.catalog.create_schema("main", name)
    return f"main.{name}"


@pytest.fixture
def session(engine: Engine, schema: str) -> Iterator[EngineSession]:
    session = engine.session(catalog="main", schema=schema.split(".")[1])
    yield session
    session.close()


class Server:
    """A warehouse behind uvicorn on a port of its own."""

    def __init__(self, engine: Engine) -> None:
        import uvicorn
        from local_workspace.warehouse.service import warehouse_route
        from starlette.applications import Starlette

        config = uvicorn.Config(
            Starlette(routes=[warehouse_route(engine, "local")]), port=0, log_level="error", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def start(self) -> str:
        self._thread.start()
        deadline = time.monotonic() + 120
        while not self._server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/sql/1.0/warehouses/local"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="session")
def warehouse_url(engine: Engine) -> Iterator[str]:
    server = Server(engine)
    yield server.start()
    server.stop()


@pytest.fixture
def connect(warehouse_url: str) -> Iterator[Callable[..., Any]]:
    from databricks import sql

    opened = []

    def connect(**options: Any) -> Any:
        connection = sql.connect(
            server_hostname="127.0.0.1",
            http_path="/sql/1.0/warehouses/local",
            access_token="t",
            _connection_uri=warehouse_url,
            enable_telemetry=False,
            _socket_timeout=300,
            **options,
        )
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def root(engine: Engine) -> Path:
    return engine.catalog.root
