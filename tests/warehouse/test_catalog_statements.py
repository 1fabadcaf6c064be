"""Statements about the catalog: SHOW, DESCRIBE, COMMENT ON, ALTER COLUMN, constraints and properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from local_workspace.engine import Engine, EngineError, EngineSession
from local_workspace.options import USER


def rows(session: EngineSession, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = session.execute(sql).table.to_pylist()
    return found


def comments(session: EngineSession, table: str) -> dict[str, Any]:
    return {row["col_name"]: row["comment"] for row in rows(session, f"DESCRIBE TABLE {table}")}


@pytest.mark.fault("C10")
def test_show_table_extended_lists_the_tables_of_other_sessions(engine: Engine, schema: str) -> None:
    maker = engine.session(catalog="main", schema=schema.removeprefix("main."))
    maker.execute("CREATE TABLE made (Id BIGINT NOT NULL, d DECIMAL(10,2)) COMMENT 'about'")
    maker.execute("CREATE VIEW seen AS SELECT Id FROM made")
    reader = engine.session(catalog="main")
    maker.close()
    found = {
        row["tableName"]: row for row in rows(reader, f"SHOW TABLE EXTENDED IN {schema} LIKE 'made|se*'")
    }
    assert set(found) == {"made", "seen"}
    information = found["made"]["information"]
    for line in ("Type: MANAGED", "Provider: delta", "Comment: about", f"Owner: {USER}"):
        assert f"\n{line}\n" in information
    assert information.endswith(
        "\nSchema: root\n |-- Id: bigint (nullable = false)\n |-- d: decimal(10,2) (nullable = true)\n"
    )
    assert "\nType: VIEW\n" in found["seen"]["information"]
    reader.close()


@pytest.mark.fault("C7")
def test_describe_as_json_returns_a_document(session: EngineSession, schema: str) -> None:
    session.execute(
        "CREATE TABLE t (id BIGINT NOT NULL COMMENT 'key', at TIMESTAMP, price DECIMAL(10,2), "
        "deep STRUCT<a: INT, b: ARRAY<MAP<STRING, DATE>>>) COMMENT 'about' TBLPROPERTIES ('x.y' = 'z')"
    )
    (row,) = rows(session, "DESCRIBE TABLE EXTENDED t AS JSON")
    document = json.loads(row["json_metadata"])
    assert (document["catalog_name"], document["schema_name"]) == ("main", schema.removeprefix("main."))
    assert (document["table_name"], document["type"], document["provider"]) == ("t", "MANAGED", "delta")
    assert (document["comment"], document["owner"]) == ("about", USER)
    assert document["table_properties"]["x.y"] == "z"
    key, at, price, deep = document["columns"]
    assert key == {"name": "id", "type": {"name": "bigint"}, "comment": "key", "nullable": False}
    assert at["type"] == {"name": "timestamp_ltz"}
    assert price["type"] == {"name": "decimal", "precision": 10, "scale": 2}
    inner = deep["type"]["fields"][1]["type"]["element_type"]
    assert (inner["key_type"], inner["value_type"]) == ({"name": "string"}, {"name": "date"})
    with pytest.raises(EngineError, match="DESCRIBE_JSON_NOT_EXTENDED"):
        session.execute("DESCRIBE TABLE t AS JSON")


@pytest.mark.fault("C8")
def test_comments_on_columns_have_effect(session: EngineSession, schema: str) -> None:
    session.execute("CREATE TABLE t (id INT, Name STRING)")
    session.execute("CREATE VIEW v AS SELECT id, Name FROM t")
    session.execute("COMMENT ON COLUMN t.id IS 'one'")
    session.execute(f"COMMENT ON COLUMN `main`.{schema.removeprefix('main.')}.t.NAME IS 'it\\'s two'")
    assert comments(session, "t") == {"id": "one", "Name": "it's two"}
    session.execute("ALTER TABLE t ALTER COLUMN ID COMMENT 'three'")
    session.execute("ALTER TABLE t CHANGE COLUMN Name COMMENT 'four'")
    assert comments(session, "t") == {"id": "three", "Name": "four"}
    session.execute("COMMENT ON COLUMN v.id IS 'of the view'")
    assert comments(session, "v")["id"] == "of the view"
    assert rows(session, "SELECT count(*) AS n FROM v") == [{"n": 0}]
    with pytest.raises(EngineError, match="UNRESOLVED_COLUMN"):
        session.execute("COMMENT ON COLUMN t.nothing IS 'x'")


@pytest.mark.fault("C8")
def test_comments_on_tables_views_and_schemas_have_effect(session: EngineSession, schema: str) -> None:
    session.execute("CREATE TABLE t (id INT)")
    session.execute("CREATE VIEW v AS SELECT id FROM t")
    for kind, name in (("TABLE", "t"), ("VIEW", "v"), ("TABLE", "v")):
        session.execute(f"COMMENT ON {kind} {name} IS 'about {kind} {name}'")
        facts = {
            row["col_name"]: row["data_type"] for row in rows(session, f"DESCRIBE TABLE EXTENDED {name}")
        }
        assert facts["Comment"] == f"about {kind} {name}"
    session.execute("COMMENT ON TABLE t IS NULL")
    assert "Comment" not in {row["col_name"] for row in rows(session, "DESCRIBE TABLE EXTENDED t")}
    in_schemata = f"SELECT comment FROM main.information_schema.schemata WHERE schema_name = '{schema[5:]}'"
    for given in ("of it", "another"):
        session.execute(f"COMMENT ON SCHEMA {schema} IS '{given}'")
        assert rows(session, in_schemata) == [{"comment": given}]
    facts = {row["database_description_item"]: row for row in rows(session, f"DESCRIBE SCHEMA {schema}")}
    assert facts["Comment"]["database_description_value"] == "another"
    session.execute(f"CREATE SCHEMA {schema}_made COMMENT 'from the start'")
    assert rows(session, f"{in_schemata[:-1]}_made'") == [{"comment": "from the start"}]
    with pytest.raises(EngineError, match="COMMENT ON VOLUME is not supported"):
        session.execute("COMMENT ON VOLUME main.default.files IS 'x'")


@pytest.mark.fault("D7")
def test_set_not_null(session: EngineSession) -> None:
    session.execute("CREATE TABLE t (Id INT, v INT)")
    session.execute("INSERT INTO t VALUES (1, 1), (2, NULL)")
    session.execute("ALTER TABLE t ALTER COLUMN id SET NOT NULL")
    for refused in (
        "INSERT INTO t VALUES (NULL, 1)",
        "UPDATE t SET Id = NULL",
        "ALTER TABLE t ALTER COLUMN v SET NOT NULL",
    ):
        with pytest.raises(EngineError) as caught:
            session.execute(refused)
        assert caught.value.condition == "DELTA_NOT_NULL_CONSTRAINT_VIOLATED"
    session.execute("INSERT INTO t VALUES (3, NULL)")
    assert rows(session, "SELECT Id FROM t ORDER BY Id") == [{"Id": 1}, {"Id": 2}, {"Id": 3}]
    session.execute("ALTER TABLE t ALTER COLUMN Id DROP NOT NULL")
    session.execute("INSERT INTO t VALUES (NULL, NULL)")


@pytest.mark.fault("D7")
def test_check_constraints(session: EngineSession) -> None:
    session.execute("CREATE TABLE t (id INT, Price INT)")
    session.execute("INSERT INTO t VALUES (1, 5)")
    with pytest.raises(EngineError, match="DELTA_NEW_CHECK_CONSTRAINT_VIOLATION"):
        session.execute("ALTER TABLE t ADD CONSTRAINT dear CHECK (Price > 5)")
    session.execute("ALTER TABLE t ADD CONSTRAINT positive CHECK (Price > 0)")
    with pytest.raises(EngineError, match="DELTA_CONSTRAINT_ALREADY_EXISTS"):
        session.execute("ALTER TABLE t ADD CONSTRAINT positive CHECK (Price > 1)")
    with pytest.raises(EngineError, match="DELTA_VIOLATE_CONSTRAINT_WITH_VALUES"):
        session.execute("INSERT INTO t VALUES (2, -1)")
    with pytest.raises(EngineError, match="ADD CONSTRAINT"):
        session.execute("ALTER TABLE t SET TBLPROPERTIES ('delta.constraints.odd' = 'Price > 100')")
    session.execute("ALTER TABLE t DROP CONSTRAINT positive")
    session.execute("ALTER TABLE t DROP CONSTRAINT IF EXISTS positive")
    with pytest.raises(EngineError):
        session.execute("ALTER TABLE t DROP CONSTRAINT positive")
    session.execute("INSERT INTO t VALUES (2, -1)")
    assert rows(session, "SELECT count(*) AS n FROM t") == [{"n": 2}]


@pytest.mark.fault("D7")
def test_a_replaced_table_has_none_of_the_old_constraints(session: EngineSession) -> None:
    session.execute("CREATE TABLE t AS SELECT 1 AS id")
    for _ in range(2):
        session.execute("ALTER TABLE t ADD CONSTRAINT positive CHECK (id > 0)")
        with pytest.raises(EngineError):
            session.execute("CREATE OR REPLACE TABLE t AS SELECT id / 0 AS id FROM t")
        with pytest.raises(EngineError, match="DELTA_VIOLATE_CONSTRAINT"):
            session.execute("INSERT INTO t (id) VALUES (-1)")
        session.execute("CREATE OR REPLACE TABLE t AS SELECT id, -1 AS other FROM t")
    session.execute("INSERT INTO t VALUES (-1, 1)")


@pytest.mark.fault("C8")
@pytest.mark.fault("D7")
def test_changes_of_a_table_with_defaults(session: EngineSession) -> None:
    session.execute(
        "CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY, v INT DEFAULT 7) "
        "TBLPROPERTIES ('delta.feature.allowColumnDefaults' = 'enabled')"
    )
    session.execute("COMMENT ON TABLE t IS 'about'")
    session.execute("COMMENT ON COLUMN t.v IS 'seven'")
    session.execute("ALTER TABLE t ALTER COLUMN v SET NOT NULL")
    session.execute("ALTER TABLE t SET TBLPROPERTIES ('a' = 'b')")
    session.execute("INSERT INTO t (id) VALUES (1)")
    assert rows(session, "SELECT * FROM t") == [{"id": 1, "v": 7}]
    described = {row["col_name"]: row for row in rows(session, "DESCRIBE TABLE EXTENDED t")}
    assert (described["v"]["comment"], described["Comment"]["data_type"]) == ("seven", "about")
    assert described["t_pk"]["data_type"] == "PRIMARY KEY (`id`)"


@pytest.mark.fault("D9")
@pytest.mark.parametrize("feature", ["catalogManaged", "catalogOwned-preview"])
def test_a_catalog_managed_table_is_refused_whole(
    session: EngineSession, root: Path, schema: str, feature: str
) -> None:
    properties = f"TBLPROPERTIES ('delta.feature.{feature}' = 'supported')"
    with pytest.raises(EngineError, match=f"The table property delta.feature.{feature} is not supported"):
        session.execute(f"CREATE TABLE t (id INT) {properties}")
    assert list((root / "tables" / "main" / schema.removeprefix("main.")).iterdir()) == []
    session.execute("CREATE TABLE t (id INT)")
    with pytest.raises(EngineError, match="is not supported"):
        session.execute(f"ALTER TABLE t SET {properties}")
    assert rows(session, "SHOW TABLES") == [
        {"database": schema.removeprefix("main."), "tableName": "t", "isTemporary": False}
    ]


@pytest.mark.fault("D9")
def test_a_table_that_cannot_be_read_is_listed_and_can_be_dropped(
    session: EngineSession, root: Path, schema: str
) -> None:
    session.execute("CREATE TABLE t (id INT)")
    log = root / "tables" / "main" / schema.removeprefix("main.") / "odd" / "_delta_log"
    log.mkdir(parents=True)
    (log / f"{0:020d}.json").write_text('{"protocol": {"minReaderVersion": 99, "minWriterVersion": 99}}\n')
    assert [row["tableName"] for row in rows(session, "SHOW TABLES")] == ["odd", "t"]
    with pytest.raises(EngineError):
        session.execute("SELECT * FROM odd")
    listed = f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema[5:]}'"
    assert rows(session, listed) == [{"table_name": "t"}]
    session.execute("DROP TABLE odd")
    assert [row["tableName"] for row in rows(session, "SHOW TABLES")] == ["t"]


def test_drivers_list_whole_catalogs(session: EngineSession, schema: str) -> None:
    name = schema.removeprefix("main.")
    session.execute("CREATE TABLE made (id BIGINT NOT NULL, d DECIMAL(10,2)) COMMENT 'about'")
    session.execute("CREATE VIEW seen AS SELECT id FROM made")
    found = rows(session, f"SHOW TABLES IN CATALOG `main` SCHEMA LIKE '{name}' LIKE '*'")
    assert [(row["tableName"], row["tableType"], row["remarks"]) for row in found] == [
        ("made", "TABLE", "about"),
        ("seen", "VIEW", None),
    ]
    assert rows(session, f"SHOW TABLES IN CATALOG main SCHEMA LIKE '{name}' LIKE 's%'") == [found[1]]
    assert found[1] in rows(session, "SHOW TABLES IN ALL CATALOGS LIKE 'seen'")
    columns = rows(session, f"SHOW COLUMNS IN CATALOG main SCHEMA LIKE '{name}' TABLE LIKE 'made' LIKE '*'")
    assert [
        (row["col_name"], row["columnType"], row["isNullable"], row["columnSize"]) for row in columns
    ] == [
        ("id", "BIGINT", "false", None),
        ("d", "DECIMAL(10,2)", "true", 10),
    ]
    assert {"databaseName": name, "catalog": "main"} in rows(session, "SHOW SCHEMAS IN ALL CATALOGS")
    described = rows(
        session, "SHOW COLUMNS IN CATALOG system SCHEMA LIKE 'information_schema' TABLE LIKE 'tables'"
    )
    assert described[0]["col_name"] == "table_catalog"
    with pytest.raises(EngineError, match="NO_SUCH_CATALOG"):
        session.execute("SHOW TABLES IN CATALOG nope")


def test_list_shows_a_folder_of_a_volume(session: EngineSession, engine: Engine, schema: str) -> None:
    folder = engine.catalog.root / "Volumes/main/listed/v"
    (folder / "deeper").mkdir(parents=True, exist_ok=True)
    (folder / "a.csv").write_text("1,2")
    found = rows(session, "LIST '/Volumes/main/listed/v'")
    assert [(row["path"], row["name"], row["size"]) for row in found] == [
        ("/Volumes/main/listed/v/a.csv", "a.csv", 3),
        ("/Volumes/main/listed/v/deeper/", "deeper/", 0),
    ]
    assert rows(session, "LIST '/Volumes/main/listed/v/' LIMIT 1") == found[:1]
    with pytest.raises(EngineError, match="PATH_NOT_FOUND"):
        session.execute("LIST '/Volumes/main/listed/v/none'")
    with pytest.raises(EngineError, match="INSUFFICIENT_PERMISSIONS"):
        session.execute("LIST '/etc'")


def test_there_are_no_transactions_of_several_statements(session: EngineSession) -> None:
    assert rows(session, "SET AUTOCOMMIT") == [{"key": "AUTOCOMMIT", "value": "true"}]
    session.execute("SET AUTOCOMMIT = TRUE")
    with pytest.raises(EngineError, match=r"UNSUPPORTED_FEATURE.*AUTOCOMMIT"):
        session.execute("SET AUTOCOMMIT = FALSE")
    with pytest.raises(EngineError, match="NO_ACTIVE_TRANSACTION"):
        session.execute("COMMIT")
