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


@pytest.mark.fault("C5")
def test_session_configuration_has_effect(connect: Callable[..., Any]) -> None:
    for enabled in (True, False):
        given = {"ansi_mode": enabled, "TIMEZONE": "Asia/Tokyo", "query_tags": "test:x"}
        cursor = connect(session_configuration=given).cursor()
        assert tuple(cursor.execute("SET ansi_mode").fetchone()) == ("ansi_mode", str(enabled))
        assert cursor.execute("SELECT current_timezone()").fetchone()[0] == "Asia/Tokyo"
        if enabled:
            with pytest.raises(Exception, match="CAST_INVALID_INPUT"):
                cursor.execute("SELECT CAST('x' AS INT)")
        else:
            assert cursor.execute("SELECT CAST('x' AS INT)").fetchone()[0] is None
    with pytest.raises(Exception, match="Configuration no_such_thing is not available"):
        connect(session_configuration={"no_such_thing": "1"})


# A hundred thousand million rows: no machine answers within a second.
_ENDLESS = "SELECT count(*) FROM range(0, 100000000000) WHERE hash(id) = 3"


@pytest.mark.fault("C5")
def test_statement_timeout_ends_a_statement(engine: Engine) -> None:
    session = engine.session()
    with pytest.raises(EngineError, match="ended after 1 seconds"):
        session.execute(_ENDLESS, timeout=1)
    session.execute("SET STATEMENT_TIMEOUT = 1")
    with pytest.raises(EngineError) as caught:
        session.execute(_ENDLESS)
    assert (caught.value.condition, caught.value.sqlstate) == ("STATEMENT_TIMEOUT", "57014")
    assert session.execute("SET statement_timeout").table.to_pylist()[0]["value"] == "1"
    assert session.execute("SELECT 1 AS one").table.to_pylist() == [{"one": 1}]
    with pytest.raises(EngineError, match="number of seconds"):
        session.execute("SET STATEMENT_TIMEOUT = soon")
    session.close()


@pytest.mark.fault("D8")
def test_complex_types_as_text(connect: Callable[..., Any]) -> None:
    query = """SELECT array('a', NULL) AS a, map('k', array(1, 2)) AS m, 7 AS n,
        named_struct('f', 'x', 'd', DATE'2026-01-02', 'p', CAST(1.50 AS DECIMAL(5, 2))) AS s"""
    native = connect().cursor().execute(query).fetchone()
    assert native["s"]["f"] == "x"
    texts = connect(_use_arrow_native_complex_types=False).cursor().execute(query).fetchone()
    assert (texts["a"], texts["m"], texts["n"]) == ('["a",null]', '{"k":[1,2]}', 7)
    assert texts["s"] == '{"f":"x","d":"2026-01-02","p":1.50}'
