"""One model server for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from model_server import ModelServer, running


@pytest.fixture(scope="session")
def server() -> Iterator[ModelServer]:
    with running() as started:
        yield started
