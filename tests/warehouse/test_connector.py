"""The unmodified connector against the local warehouse."""

from __future__ import annotations

import datetime
import decimal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from databricks.sql import exc
from local_workspace.engine import Engine
from local_workspace.warehouse.messages import type_name

Connect = Callable[..., Any]


def test_rows_types_and_description(connect: Connect) -> None:
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 AS i, 2L AS l, 1.5D AS d, 'x' AS s, true AS b, DATE'2020-02-03' AS dt, 1.25BD AS m, "
            "TIMESTAMP'2020-02-03 04:05:06Z' AS ts, X'00ff' AS bin, array(1, 2) AS a, "
            "named_struct('k', 1) AS st, map('k', 1) AS mp, NULL AS n, interval '1' day AS iv"
        )
        kinds = {column[0]: column[1] for column in cursor.description}
        assert kinds == {
            "i": "int",
            "l": "bigint",
            "d": "double",
            "s": "string",
            "b": "boolean",
            "dt": "date",
            "m": "decimal",
            "ts": "timestamp",
            "bin": "binary",
            "a": "array",
            "st": "struct",
            "mp": "map",
            "n": "string",
            "iv": "string",
        }
        row = cursor.fetchone().asDict()
    assert row["i"] == 1
    assert row["m"] == decimal.Decimal("1.25")
    assert row["dt"] == datetime.date(2020, 2, 3)
    assert row["ts"] == datetime.datetime(2020, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    assert row["bin"] == b"\x00\xff"
    assert list(row["a"]) == [1, 2]
    assert row["n"] is None


def test_affected_rows(connect: Connect, schema: str) -> None:
    with connect(catalog="main", schema=schema.split(".")[1]) as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE t (id BIGINT, v INT) TBLPROPERTIES ('delta.enableDeletionVectors'='true')"
        )
        assert cursor.fetchall() == []
        cursor.execute("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
        assert cursor.rowcount == 3
        cursor.execute("UPDATE t SET v = v + 1 WHERE id = :id AND v = :seen", {"id": 2, "seen": 2})
        assert cursor.rowcount == 1
        assert cursor.fetchone().asDict() == {"num_affected_rows": 1}
        cursor.execute("UPDATE t SET v = v + 1 WHERE id = :id AND v = :seen", {"id": 2, "seen": 2})
        assert cursor.rowcount == 0
        cursor.execute(
            "MERGE INTO t USING (SELECT 2L AS id UNION ALL SELECT 9L) s ON t.id = s.id "
            "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, 0)"
        )
        assert cursor.rowcount == 2
        assert cursor.fetchone().asDict() == {
            "num_affected_rows": 2, "num_updated_rows": 0, "num_deleted_rows": 1, "num_inserted_rows": 1,
        }  # fmt: skip
        cursor.execute("DELETE FROM t")
        assert cursor.rowcount == 3
        cursor.execute("SELECT * FROM t")
        assert cursor.rowcount == -1


@pytest.mark.parametrize(
    "value",
    ["it's \\ \n \"q\" `x` ü 😀 ' OR 1=1 --", "", 5, -5, 2**40, -(2**31), True, 1.5, -0.25, None,
     decimal.Decimal("-12.340"), datetime.date(2020, 1, 2),
     datetime.datetime(2020, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC)],
)  # fmt: skip
def test_parameters_come_back_as_they_went(connect: Connect, value: object) -> None:
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT :p AS p, ':p' AS text /* :q */ -- :r", {"p": value})
        assert tuple(cursor.fetchone()) == (value, ":p")
        cursor.execute("SELECT ? AS p", [value])
        assert cursor.fetchone()[0] == value


def test_sequences_as_parameters(connect: Connect) -> None:
    from databricks.sql.parameters import ArrayParameter, MapParameter

    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT ? AS a, ? AS m", [ArrayParameter([1, 2]), MapParameter({"k": "v"})])
        row = cursor.fetchone()
        assert list(row[0]) == [1, 2]
        assert dict(row[1]) == {"k": "v"}
        cursor.execute("SELECT id FROM range(100) ORDER BY id LIMIT :n", {"n": 3})
        assert [row.id for row in cursor.fetchall()] == [0, 1, 2]


@pytest.mark.parametrize(
    ("sql", "text", "state"),
    [
        ("SELECT * FROM nope", "[TABLE_OR_VIEW_NOT_FOUND]", "42P01"),
        ("SELECT nope", "[UNRESOLVED_COLUMN", "42703"),
        ("SELEKT 1", "[PARSE_SYNTAX_ERROR]", "42601"),
        ("CREATE TABLE main.no_such.t (a INT)", "[SCHEMA_NOT_FOUND]", "42704"),
        ("CREATE CATALOG other", "--catalog other", "42704"),
        ("SELECT :a", "[UNBOUND_SQL_PARAMETER]", "42P02"),
        ("GRANT SELECT ON t TO x", "not supported by the local workspace", "0A000"),
        ("", "[PARSE_EMPTY_STATEMENT]", "42617"),
    ],
)
def test_errors(connect: Connect, sql: str, text: str, state: str) -> None:
    with connect() as connection, connection.cursor() as cursor:
        with pytest.raises(exc.ServerOperationError) as caught:
            cursor.execute(sql, {"b": 1} if ":a" in sql else None)
        assert text in str(caught.value)
        assert f"SQLSTATE: {state}" in str(caught.value)
        cursor.execute("SELECT 1")
        assert cursor.fetchone()[0] == 1


def test_large_results_come_in_pages(connect: Connect) -> None:
    with connect() as connection, connection.cursor(arraysize=7_000, buffer_size_bytes=50_000) as cursor:
        cursor.execute("SELECT id, repeat('x', 50) AS s FROM range(20000) ORDER BY id")
        assert len(cursor.fetchmany(10)) == 10
        rest = cursor.fetchall_arrow()
        assert rest.num_rows == 19_990
        assert rest.column("id")[-1].as_py() == 19_999


def test_cancel_from_another_thread(connect: Connect) -> None:
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute_async("SELECT count(*) FROM range(0, 100000000000) WHERE hash(id) = 3")
        canceller = threading.Thread(target=cursor.cancel)
        canceller.start()
        canceller.join()
        with pytest.raises(exc.DatabaseError, match="CANCELLED"):
            cursor.get_async_execution_result()
        cursor.execute("SELECT 1")
        assert cursor.fetchone()[0] == 1


def test_cancel_before_the_statement_has_begun(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All threads are busy: the statement begins after it has been cancelled."""
    from local_workspace.warehouse import sessions

    monkeypatch.setattr(sessions, "STATEMENT_THREADS", 1)
    opened, free = sessions.Sessions(engine), threading.Event()
    session = opened.open(None, None)

    def busy(_cancelled: Any) -> Any:
        free.wait()

    opened.start(session, busy)
    text = "SELECT count(*) FROM range(0, 100000000000) WHERE hash(id) = 3"
    operation = opened.start(session, lambda cancelled: session.engine.execute(text, cancelled=cancelled))
    operation.cancel()
    free.set()
    assert operation.wait(60)
    assert operation.error is not None
    assert operation.error.condition == "OPERATION_CANCELED"
    opened.close(session)


def test_statement_longer_than_the_first_wait(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    from local_workspace.warehouse import service

    monkeypatch.setattr(service, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(service, "POLL_WAIT_SECONDS", 0.01)
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT sum(id) AS s FROM range(10000)")
        assert cursor.fetchone().s == 49_995_000
        with pytest.raises(exc.ServerOperationError, match="DIVIDE_BY_ZERO"):
            cursor.execute("SELECT sum(1 / (id - id)) FROM range(10)")


def test_metadata(connect: Connect, schema: str) -> None:
    name = schema.split(".")[1]
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {schema}.t (id BIGINT NOT NULL, n STRING COMMENT 'a name')")
        cursor.execute(f"CREATE VIEW {schema}.v AS SELECT id FROM {schema}.t")
        assert {row.TABLE_CAT for row in cursor.catalogs().fetchall()} == {"main", "lake"}
        assert name in {row.TABLE_SCHEM for row in cursor.schemas(catalog_name="main").fetchall()}
        found = {(row.TABLE_NAME, row.TABLE_TYPE) for row in cursor.tables(schema_name=name).fetchall()}
        assert found == {("t", "TABLE"), ("v", "VIEW")}
        columns = cursor.columns(catalog_name="main", schema_name=name, table_name="t").fetchall()
        assert [(c.COLUMN_NAME, c.TYPE_NAME, c.IS_NULLABLE, c.REMARKS) for c in columns] == [
            ("id", "BIGINT", "NO", ""),
            ("n", "STRING", "YES", "a name"),
        ]
        assert [(c.COLUMN_SIZE, c.NUM_PREC_RADIX, c.ORDINAL_POSITION) for c in columns] == [
            (8, 10, 0),
            (None, None, 1),
        ]
        kinds = {column[0]: column[1] for column in cursor.description}
        assert len(kinds) == 23
        assert (kinds["BUFFER_LENGTH"], kinds["SOURCE_DATA_TYPE"]) == ("tinyint", "smallint")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("struct<Name:string,age:int>", "STRUCT<Name: STRING, age: INT>"),
        ("array<struct<`a b`:decimal(3,1),c:map<string,int>>>",
         "ARRAY<STRUCT<`a b`: DECIMAL(3,1), c: MAP<STRING, INT>>>"),
    ],
)  # fmt: skip
def test_names_of_complex_types(kind: str, name: str) -> None:
    assert type_name(kind) == name


def test_a_schema_that_is_not_there_yet_is_the_current_one(connect: Connect) -> None:
    with connect(catalog="main", schema="to_come") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        assert [column[0] for column in cursor.description] == ["current_schema()"]
        assert cursor.fetchall() == [("to_come",)]
        cursor.execute("SELECT upper(current_database()) AS s")
        assert cursor.fetchall() == [("TO_COME",)]


def test_initial_catalog_that_is_not_there(connect: Connect) -> None:
    with pytest.raises(exc.DatabaseError, match="NO_SUCH_CATALOG"):
        connect(catalog="nope")


def test_session_unknown_to_the_server_looks_closed(connect: Connect) -> None:
    from databricks.sql.backend.types import SessionId

    connection = connect()
    from databricks.sql.thrift_api.TCLIService import ttypes

    handle = ttypes.TSessionHandle(sessionId=ttypes.THandleIdentifier(guid=b"0" * 16, secret=b"0" * 16))
    connection.session._session_id = SessionId.from_thrift_handle(handle)
    with pytest.raises(exc.DatabaseError, match="Invalid SessionHandle"):
        connection.cursor().execute("SELECT 1")
    connection.close()  # not an error


def test_text_of_a_call() -> None:
    from databricks.sql.thrift_api.TCLIService import TCLIService, ttypes
    from local_workspace.warehouse.messages import sql_of
    from thrift.protocol.TBinaryProtocol import TBinaryProtocol
    from thrift.transport.TTransport import TMemoryBuffer

    buffer = TMemoryBuffer()
    client = TCLIService.Client(TBinaryProtocol(buffer))
    handle = ttypes.TSessionHandle(sessionId=ttypes.THandleIdentifier(guid=b"0" * 16, secret=b"0" * 16))
    client.send_ExecuteStatement(ttypes.TExecuteStatementReq(sessionHandle=handle, statement="SELECT 'ü'"))
    body = buffer.getvalue()
    assert sql_of(body) == "SELECT 'ü'"
    assert sql_of(body[:40]) is None
    assert sql_of(b"hello") is None
    assert sql_of(body.replace(b"ExecuteStatement", b"ExecuteStatemen_")) is None
