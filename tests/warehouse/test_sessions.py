"""Sessions: where they begin, whose they are, their parameters and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from local_workspace.engine import Engine, EngineError
from local_workspace.options import USER


@pytest.mark.fault("D1")
def test_a_session_opens_with_a_schema_that_does_not_exist_yet(engine: Engine, schema: str) -> None:
    name = f"{schema.removeprefix('main.')}_later"
    other = engine.session(catalog="main")
    other.execute("CREATE TABLE IF NOT EXISTS in_default AS SELECT 1 AS a")
    session = engine.session(catalog="main", schema=name)
    for statement in ("SELECT * FROM in_default", "SELECT * FROM t", "INSERT INTO in_default VALUES (2)"):
        with pytest.raises(EngineError, match="TABLE_OR_VIEW_NOT_FOUND"):
            session.execute(statement)
    with pytest.raises(EngineError, match="SCHEMA_NOT_FOUND"):
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    assert session.execute("SELECT 1 AS one").table.to_pylist() == [{"one": 1}]
    assert name not in engine.catalog.schemas("main")
    session.execute(f"CREATE SCHEMA {name}")
    session.execute("CREATE TABLE t AS SELECT 7 AS a")
    assert session.execute("SELECT a FROM t").table.to_pylist() == [{"a": 7}]
    assert engine.catalog.tables("main", name) == ["t"]
    with pytest.raises(EngineError, match="SCHEMA_NOT_FOUND"):
        session.execute("USE SCHEMA nowhere")
    session.close()
    other.close()


@pytest.mark.fault("D2")
def test_parameters_in_backquotes(connect: Callable[..., Any]) -> None:
    cursor = connect().cursor()
    query = "SELECT :`a` AS a, x FROM (SELECT :`b-c` AS x) WHERE x IN (:`x_1`, 'z') LIMIT :`n`"
    assert cursor.execute(query, {"a": 1, "b-c": "x", "x_1": "x", "n": 5}).fetchall() == [(1, "x")]


@pytest.mark.fault("D10")
def test_current_user_is_the_user_of_scim(engine: Engine) -> None:
    session = engine.session()
    assert session.execute("SELECT current_user() AS me").table.to_pylist() == [{"me": USER}]
    session.close()
