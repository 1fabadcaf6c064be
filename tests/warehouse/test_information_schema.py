"""`information_schema` of a catalog and of `system`, asked as dbt asks it."""

from __future__ import annotations

from typing import Any

import pytest
from local_workspace.engine import Engine, EngineError, EngineSession
from local_workspace.options import USER

pytestmark = pytest.mark.fault("D3")


def rows(session: EngineSession, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = session.execute(sql).table.to_pylist()
    return found


@pytest.fixture
def name(session: EngineSession, schema: str) -> str:
    session.execute(
        "CREATE TABLE t (id BIGINT NOT NULL COMMENT 'key', Price DECIMAL(10,2)) COMMENT 'about t'"
    )
    session.execute("CREATE VIEW v AS SELECT id FROM t")
    return schema.removeprefix("main.")


def test_tables_and_columns_joined_as_dbt_does(session: EngineSession, name: str) -> None:
    found = rows(
        session,
        f"""
        WITH tables AS (
          SELECT table_catalog AS table_database, table_schema, table_name, lower(table_type) AS table_type,
                 comment AS table_comment, table_owner, last_altered AS `stats:last_modified:value`
          FROM `system`.`information_schema`.`tables`
          WHERE table_catalog = 'main' AND (table_schema = '{name}')),
        columns AS (
          SELECT table_catalog AS table_database, table_schema, table_name, column_name,
                 ordinal_position AS column_index, lower(full_data_type) AS column_type, comment
          FROM `system`.`information_schema`.`columns`
          WHERE table_catalog = 'main' AND (table_schema = '{name}'))
        SELECT * FROM tables JOIN columns USING (table_database, table_schema, table_name)
        ORDER BY table_name, column_index
        """,
    )
    assert [
        (row["table_name"], row["table_type"], row["column_name"], row["column_type"]) for row in found
    ] == [
        ("t", "managed", "id", "bigint"),
        ("t", "managed", "Price", "decimal(10,2)"),
        ("v", "view", "id", "bigint"),
    ]
    assert (found[0]["table_comment"], found[0]["comment"]) == ("about t", "key")
    assert all(row["table_owner"] == USER and row["stats:last_modified:value"] for row in found)


def test_what_a_catalog_has_is_not_what_another_has(session: EngineSession, name: str) -> None:
    seen = rows(
        session, f"SELECT tables.table_name FROM information_schema.tables WHERE table_schema = '{name}'"
    )
    assert [row["table_name"] for row in seen] == ["t", "v"]
    assert rows(session, f"SELECT * FROM lake.information_schema.tables WHERE table_schema = '{name}'") == []
    schemata = rows(session, "SELECT schema_name FROM main.INFORMATION_SCHEMA.SCHEMATA")
    assert {"default", name} <= {row["schema_name"] for row in schemata}
    assert rows(session, "SELECT catalog_name FROM system.information_schema.catalogs ORDER BY 1") == [
        {"catalog_name": "lake"},
        {"catalog_name": "main"},
    ]


def test_details_of_columns_views_and_volumes(engine: Engine, session: EngineSession, name: str) -> None:
    (not_null,) = rows(
        session,
        f"""SELECT column_name, data_type, numeric_precision FROM `main`.`information_schema`.`columns`
        WHERE table_schema = '{name}' AND table_name = 't' AND is_nullable = 'NO'""",
    )
    assert not_null == {"column_name": "id", "data_type": "LONG", "numeric_precision": 64}
    (view,) = rows(session, f"SELECT * FROM system.information_schema.views WHERE table_schema = '{name}'")
    assert view["view_definition"] == "SELECT id FROM t"
    (engine.catalog.root / "Volumes" / "main" / name / "files").mkdir(parents=True)
    (volume,) = rows(session, f"SELECT * FROM information_schema.volumes WHERE volume_schema = '{name}'")
    assert (volume["volume_name"], volume["volume_type"]) == ("files", "MANAGED")


def test_keys_as_dbt_and_sqlalchemy_read_them(session: EngineSession, schema: str) -> None:
    name = schema.removeprefix("main.")
    session.execute(
        "CREATE TABLE p (id BIGINT NOT NULL, part STRING, CONSTRAINT p_key PRIMARY KEY (id, part))"
    )
    session.execute(
        "CREATE TABLE c (id BIGINT NOT NULL PRIMARY KEY, p_id BIGINT, part STRING) COMMENT 'child'"
    )
    add = "ALTER TABLE c ADD CONSTRAINT to_p FOREIGN KEY (p_id, part) REFERENCES p"
    session.execute(add)
    with pytest.raises(EngineError, match="CONSTRAINT_ALREADY_EXISTS"):
        session.execute(add)
    found = rows(
        session,
        f"""SELECT kcu.constraint_name, kcu.column_name AS from_column, ukcu.table_name AS to_table,
          ukcu.column_name AS to_column
        FROM `main`.information_schema.key_column_usage kcu
        JOIN `main`.information_schema.referential_constraints rc ON kcu.constraint_name = rc.constraint_name
        JOIN `main`.information_schema.key_column_usage ukcu
          ON rc.unique_constraint_name = ukcu.constraint_name AND kcu.ordinal_position = ukcu.ordinal_position
        WHERE kcu.table_schema = '{name}' AND kcu.table_name = 'c' AND ukcu.table_schema = '{name}'
          AND kcu.constraint_name IN (SELECT constraint_name FROM `main`.information_schema.table_constraints
            WHERE table_schema = '{name}' AND table_name = 'c' AND constraint_type = 'FOREIGN KEY')
        ORDER BY kcu.ordinal_position""",
    )
    assert [tuple(row.values()) for row in found] == [
        ("to_p", "p_id", "p", "id"),
        ("to_p", "part", "p", "part"),
    ]
    described = {row["col_name"]: row["data_type"] for row in rows(session, "DESCRIBE TABLE EXTENDED c")}
    assert described["c_pk"] == "PRIMARY KEY (`id`)"
    assert described["to_p"].endswith(f"REFERENCES `main`.`{name}`.`p` (`id`, `part`)")
    assert described["Comment"] == "child"
    assert "local_workspace.keys" not in {row["key"] for row in rows(session, "SHOW TBLPROPERTIES c")}
    session.execute("ALTER TABLE c DROP CONSTRAINT to_p")
    session.execute("ALTER TABLE c DROP PRIMARY KEY IF EXISTS CASCADE")
    left = f"SELECT * FROM information_schema.table_constraints WHERE table_schema = '{name}'"
    left += " AND table_name = "
    assert rows(session, f"{left}'c'") == []
    session.execute("CREATE OR REPLACE TABLE p AS SELECT 1 AS id")
    assert rows(session, f"{left}'p'") == []


def test_keys_of_a_table_with_column_defaults(session: EngineSession, schema: str) -> None:
    # As SQLAlchemy's dialect makes every table: delta-rs changes nothing about a table with that feature.
    session.execute(
        "CREATE TABLE d (id BIGINT NOT NULL, PRIMARY KEY (id)) USING DELTA "
        "TBLPROPERTIES ('delta.feature.allowColumnDefaults' = 'enabled')"
    )
    described = {row["col_name"]: row["data_type"] for row in rows(session, "DESCRIBE TABLE EXTENDED d")}
    assert described["d_pk"] == "PRIMARY KEY (`id`)"


@pytest.mark.parametrize("view", ["row_filters", "column_masks", "table_tags", "column_tags", "routines"])
def test_what_nobody_has_made_is_empty(session: EngineSession, view: str) -> None:
    assert rows(session, f"SELECT * FROM system.information_schema.{view}") == []


@pytest.mark.parametrize(
    ("sql", "condition"),
    [
        ("SELECT * FROM information_schema.nothing_such", "TABLE_OR_VIEW_NOT_FOUND"),
        ("SELECT * FROM nowhere.information_schema.tables", "TABLE_OR_VIEW_NOT_FOUND"),
        ("INSERT INTO information_schema.tables VALUES (1)", "INSUFFICIENT_PERMISSIONS"),
        ("DELETE FROM information_schema.tables", "INSUFFICIENT_PERMISSIONS"),
        ("CREATE VIEW stays AS SELECT * FROM information_schema.tables", "UNSUPPORTED_FEATURE"),
    ],
)
def test_it_can_only_be_read(session: EngineSession, sql: str, condition: str) -> None:
    with pytest.raises(EngineError) as caught:
        session.execute(sql)
    assert caught.value.condition == condition


def test_jobs_read_it_too(engine: Engine, session: EngineSession, name: str) -> None:
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.remote(engine.connect_url).create()
    try:
        frame = spark.table("system.information_schema.tables").where(f"table_schema = '{name}'")
        assert {row.table_name for row in frame.collect()} == {"t", "v"}
        query = spark.sql(
            "SELECT table_name FROM main.information_schema.views WHERE table_schema = :s", {"s": name}
        )
        assert [row.table_name for row in query.collect()] == ["v"]
    finally:
        spark.stop()
