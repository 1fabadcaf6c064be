"""What the engine `spark` has and the quick one has not, and what both make of one root.

`make test-spark` runs this in the environment that has Spark; RLM_TEST_SAIL_PYTHON names the interpreter of
one that has the other engine.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databricks.sql import exc
from local_workspace import WorkspaceInfo
from warehouse_support import connected, rows

SAIL_PYTHON = os.environ.get("RLM_TEST_SAIL_PYTHON", "")

pytestmark = pytest.mark.reference_engine


def start(root: Path) -> tuple[subprocess.Popen[str], WorkspaceInfo]:
    command = [sys.executable, "-m", "local_workspace", "--root", str(root), "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line, "the server ended without a word"
    return server, WorkspaceInfo(**json.loads(line))


def stop(server: subprocess.Popen[str]) -> None:
    server.terminate()
    server.wait(60)
    assert server.stdout is not None
    server.stdout.close()


@pytest.fixture
def workspace(shared_workspace: WorkspaceInfo) -> WorkspaceInfo:
    return shared_workspace


@pytest.fixture
def schema(workspace: WorkspaceInfo, request: pytest.FixtureRequest) -> str:
    name = f"engine_{request.node.originalname[5:40]}"
    with connected(workspace) as cursor:
        cursor.execute(f"CREATE SCHEMA main.{name}")
    return name


@pytest.fixture
def cursor(workspace: WorkspaceInfo, schema: str) -> Iterator[Any]:
    with connected(workspace, catalog="main", schema=schema) as cursor:
        yield cursor


def read(workspace: WorkspaceInfo, schema: str, table: str) -> list[dict[str, Any]]:
    from deltalake import DeltaTable

    found = DeltaTable(str(Path(workspace.root, "tables/main", schema, table))).to_pyarrow_table()
    return sorted(found.to_pylist(), key=str)


def test_changes_and_their_counts(cursor: Any, schema: str, workspace: WorkspaceInfo) -> None:
    cursor.execute(
        "CREATE TABLE t (id BIGINT NOT NULL COMMENT 'key', v INT) CLUSTER BY (id) "
        "TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')"
    )
    assert rows(cursor, "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)") == [
        {"num_affected_rows": 3, "num_inserted_rows": 3}
    ]
    assert cursor.rowcount == 3
    assert rows(cursor, f"INSERT INTO main.{schema}.t (id) SELECT 4")[0]["num_inserted_rows"] == 1
    update = "UPDATE t SET v = v + 1 WHERE id = :id AND v = :seen"
    assert rows(cursor, update, {"id": 2, "seen": 2}) == [{"num_affected_rows": 1}]
    assert cursor.rowcount == 1
    assert rows(cursor, update, {"id": 2, "seen": 2}) == [{"num_affected_rows": 0}]
    assert cursor.rowcount == 0
    merge = (
        "MERGE INTO t USING (SELECT col1 AS id, col2 AS v FROM VALUES (2, 7), (9, 8)) s ON t.id = s.id "
        "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v)"
    )
    assert rows(cursor, merge) == [
        {"num_affected_rows": 2, "num_updated_rows": 0, "num_deleted_rows": 1, "num_inserted_rows": 1}
    ]
    assert cursor.rowcount == 2
    assert rows(cursor, "DELETE FROM t WHERE id = 3") == [{"num_affected_rows": 1}]
    assert [row["id"] for row in read(workspace, schema, "t")] == [1, 4, 9]
    cursor.execute("TRUNCATE TABLE t")
    assert rows(cursor, f"SELECT count(main.{schema}.t.id) AS n FROM main.{schema}.t") == [{"n": 0}]


def test_tables_made_and_replaced(cursor: Any, schema: str, workspace: WorkspaceInfo) -> None:
    made = rows(cursor, "CREATE TABLE t AS SELECT id, 'é' AS s FROM range(5)")
    assert made == []
    assert [column[0] for column in cursor.description] == ["num_affected_rows", "num_inserted_rows"]
    cursor.execute("CREATE TABLE IF NOT EXISTS t (other INT)")
    with pytest.raises(exc.ServerOperationError, match="TABLE_OR_VIEW_ALREADY_EXISTS"):
        cursor.execute("CREATE TABLE t (other INT)")
    cursor.execute(
        "CREATE OR REPLACE TABLE t PARTITIONED BY (y) AS WITH q AS (SELECT 1 AS z) SELECT z, 'x' AS y FROM q"
    )
    assert rows(cursor, "SELECT * FROM t") == [{"z": 1, "y": "x"}]
    cursor.execute("CREATE OR REPLACE TABLE t (n DECIMAL(10, 2) COMMENT 'amount', a ARRAY<STRUCT<k: INT>>)")
    assert [row["version"] for row in rows(cursor, "DESCRIBE HISTORY t")] == [2, 1, 0]
    assert rows(cursor, "DESCRIBE TABLE t")[0] == {
        "col_name": "n", "data_type": "decimal(10,2)", "comment": "amount",
    }  # fmt: skip
    with pytest.raises(exc.ServerOperationError, match="CAST_INVALID_INPUT"):
        cursor.execute("CREATE TABLE bad AS SELECT cast('x' AS INT) AS a")
    assert {row["tableName"] for row in rows(cursor, "SHOW TABLES")} == {"t"}
    cursor.execute("DROP TABLE t")
    assert not Path(workspace.root, "tables/main", schema, "t").exists()
    cursor.execute("CREATE TABLE t AS SELECT 'new' AS s")
    assert rows(cursor, "SELECT * FROM t") == [{"s": "new"}]
    with pytest.raises(exc.ServerOperationError, match="CREATE TABLE USING CSV"):
        cursor.execute("CREATE TABLE c (a INT) USING CSV")


def test_what_the_other_engine_lacks(cursor: Any, schema: str) -> None:
    cursor.execute("CREATE TABLE t (id INT, v INT) TBLPROPERTIES (delta.enableChangeDataFeed = true)")
    cursor.execute("INSERT INTO t VALUES (1, 1), (2, 2)")
    cursor.execute("UPDATE t SET v = 5 WHERE id = 2")
    changes = rows(cursor, f"SELECT * FROM table_changes('main.{schema}.t', 2) ORDER BY _change_type")
    assert [(row["_change_type"], row["v"], row["_commit_version"]) for row in changes] == [
        ("update_postimage", 5, 2),
        ("update_preimage", 2, 2),
    ]
    more = f"SELECT * FROM table_changes('main.{schema}.t', 1, 1)"
    assert [row["_change_type"] for row in rows(cursor, more)] == ["insert", "insert"]
    cursor.execute("CREATE TABLE later (id INT)")
    cursor.execute("INSERT INTO later VALUES (1)")
    cursor.execute("ALTER TABLE later SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')")
    cursor.execute("INSERT INTO later VALUES (2)")
    latest = rows(cursor, "DESCRIBE HISTORY later LIMIT 1")[0]["version"]
    assert latest == 3
    found = rows(cursor, f"SELECT id FROM table_changes('main.{schema}.later', {latest}, {latest})")
    assert found == [{"id": 2}]
    shown = {row["key"]: row["value"] for row in rows(cursor, "SHOW TBLPROPERTIES later")}
    assert shown["delta.enableChangeDataFeed"] == "true"
    with pytest.raises(exc.ServerOperationError, match=r"DELTA_MISSING_CHANGE_DATA|CHANGE_DATA_FEED|CDC"):
        cursor.execute(f"SELECT * FROM table_changes('main.{schema}.later', 0)")
    with pytest.raises(exc.ServerOperationError, match=r"DELTA_CDC_START_VERSION_AFTER_LATEST.*SQLSTATE"):
        cursor.execute(f"SELECT * FROM table_changes('main.{schema}.t', 99)")
    assert rows(cursor, "SELECT v FROM t VERSION AS OF 1 WHERE id = 2") == [{"v": 2}]


def test_subqueries_in_what_changes_a_table(cursor: Any, schema: str, workspace: WorkspaceInfo) -> None:
    cursor.execute("CREATE TABLE t AS SELECT id, 'a' AS v FROM range(6)")
    cursor.execute("CREATE TABLE gone AS SELECT 1 AS id UNION ALL SELECT NULL")
    assert rows(cursor, "DELETE FROM t WHERE id IN (SELECT id FROM gone)") == [{"num_affected_rows": 1}]
    assert rows(cursor, "DELETE FROM t WHERE id NOT IN (SELECT id FROM gone)") == [{"num_affected_rows": 0}]
    assert rows(cursor, "UPDATE t SET v = (SELECT max(id) FROM gone) WHERE id = 2")[0] == {
        "num_affected_rows": 1
    }
    assert cursor.rowcount == 1
    found = {row["id"]: row["v"] for row in read(workspace, schema, "t")}
    assert found == {0: "a", 2: "1", 3: "a", 4: "a", 5: "a"}


def test_what_workflows_of_others_say(cursor: Any) -> None:
    cursor.execute("CREATE TABLE t AS SELECT 7 AS e UNION ALL SELECT NULL")
    query = "SELECT a FROM (SELECT filter(array(e), x -> x IS NOT NULL) a FROM t) WHERE size(a) > 0"
    assert [list(row["a"]) for row in rows(cursor, query)] == [[7]]
    assert rows(cursor, "SELECT conv(CAST(5 AS BIGINT), 10, 16) AS c") == [{"c": "5"}]


def test_parameters_of_the_session(cursor: Any) -> None:
    cursor.execute("SET timezone = 'Europe/Berlin'")
    assert rows(cursor, "SELECT current_timezone() AS z") == [{"z": "Europe/Berlin"}]
    cursor.execute("RESET")
    assert rows(cursor, "SELECT current_timezone() AS z") == [{"z": "UTC"}]
    cursor.execute("SET ansi_mode = false")
    assert rows(cursor, "SELECT 2147483647 + 1 AS n") == [{"n": -2147483648}]


def test_maintenance(cursor: Any, schema: str) -> None:
    cursor.execute("CREATE TABLE t (id INT)")
    for value in range(3):
        cursor.execute("INSERT INTO t VALUES (:v)", {"v": value})
    assert rows(cursor, "OPTIMIZE t")[0]["path"]
    assert rows(cursor, "DESCRIBE DETAIL t")[0]["numFiles"] == 1
    cursor.execute("ALTER TABLE t ADD COLUMNS (note STRING COMMENT 'why')")
    cursor.execute("ALTER TABLE t SET TBLPROPERTIES ('team' = 'me', 'delta.enableDeletionVectors' = 'true')")
    cursor.execute("ALTER TABLE t SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    shown = {row["key"]: row["value"] for row in rows(cursor, "SHOW TBLPROPERTIES t")}
    assert shown["team"] == "me"
    assert "delta.enableDeletionVectors" not in shown
    cursor.execute("COMMENT ON TABLE t IS 'numbers'")
    cursor.execute("ALTER TABLE t RENAME TO t2")
    assert {row["tableName"] for row in rows(cursor, "SHOW TABLES")} == {"t2"}
    cursor.execute(f"RESTORE TABLE main.{schema}.t2 TO VERSION AS OF 1")
    assert rows(cursor, "SELECT count(*) AS n FROM t2") == [{"n": 1}]
    operations = [row["operation"] for row in rows(cursor, "DESCRIBE HISTORY t2 LIMIT 2")]
    assert operations[0] == "RESTORE"
    assert rows(cursor, "VACUUM t2")[0]["path"]


def test_views_and_namespaces(cursor: Any, schema: str, workspace: WorkspaceInfo) -> None:
    cursor.execute("CREATE TABLE t AS SELECT 1 AS id, 'a' AS name")
    cursor.execute("CREATE VIEW v (k, label) AS WITH q AS (SELECT id, name FROM t) SELECT id, name FROM q")
    cursor.execute("CREATE VIEW w AS SELECT v.k + 1 AS k FROM v")
    with connected(workspace) as other:
        assert rows(other, f"SELECT * FROM main.{schema}.v") == [{"k": 1, "label": "a"}]
        assert rows(other, f"SELECT k FROM main.{schema}.w") == [{"k": 2}]
        assert rows(other, "SELECT current_catalog() AS c, current_schema() AS s") == [
            {"c": "main", "s": "default"}
        ]
        other.execute(f"USE main.{schema}")
        assert rows(other, "SELECT * FROM t") == [{"id": 1, "name": "a"}]
        other.execute("USE CATALOG lake")
        other.execute("CREATE TABLE there AS SELECT 1 AS a")
        assert rows(other, f"SELECT count(*) AS n FROM there JOIN main.{schema}.t ON a = id") == [{"n": 1}]
    cursor.execute("CREATE OR REPLACE VIEW v AS SELECT 5 AS k")
    assert rows(cursor, "SELECT k FROM w") == [{"k": 6}]
    with pytest.raises(exc.ServerOperationError, match="UNRESOLVED_COLUMN"):
        cursor.execute("CREATE VIEW bad AS SELECT nope FROM t")
    cursor.execute(f"DROP SCHEMA main.{schema} CASCADE")
    with pytest.raises(exc.ServerOperationError, match="TABLE_OR_VIEW_NOT_FOUND"):
        cursor.execute(f"SELECT * FROM main.{schema}.t")


@pytest.mark.parametrize(
    ("sql", "text", "state"),
    [
        ("SELECT * FROM nope", "[TABLE_OR_VIEW_NOT_FOUND]", "42P01"),
        ("SELEKT 1", "[PARSE_SYNTAX_ERROR]", "42601"),
        ("SELECT 1 / 0", "[DIVIDE_BY_ZERO]", "22012"),
        ("CREATE TABLE main.no_such.t (a INT)", "[SCHEMA_NOT_FOUND]", "42704"),
        ("CREATE CATALOG other", "--catalog other", "42704"),
        ("GRANT SELECT ON t TO x", "not supported by the local workspace", "0A000"),
        ("CREATE FUNCTION f() RETURNS INT LANGUAGE PYTHON AS $$ return 1 $$", "CREATE FUNCTION", "0A000"),
        ("SELECT * FROM main.`../x`.t", "NOT_FOUND", "42"),
    ],
)
def test_errors(workspace: WorkspaceInfo, sql: str, text: str, state: str) -> None:
    with connected(workspace) as cursor:
        with pytest.raises(exc.ServerOperationError) as caught:
            cursor.execute(sql)
        assert text in str(caught.value)
        assert f"SQLSTATE: {state}" in str(caught.value)


def test_one_winner_per_version(cursor: Any, schema: str, workspace: WorkspaceInfo) -> None:
    cursor.execute("CREATE TABLE t AS SELECT 1 AS id, 0 AS version UNION ALL SELECT 2, 0")
    wins: list[int] = []
    strange: list[str] = []

    def race() -> None:
        with connected(workspace, catalog="main", schema=schema) as mine:
            for _ in range(3):
                seen = rows(mine, "SELECT version FROM t WHERE id = 1")[0]["version"]
                try:
                    mine.execute(
                        "UPDATE t SET version = version + 1 WHERE id = 1 AND version = :v", {"v": seen}
                    )
                except exc.ServerOperationError as error:
                    if "DELTA_CONCURRENT_" not in str(error):
                        strange.append(str(error))
                else:
                    wins.extend([seen] * mine.rowcount)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    final = rows(cursor, "SELECT version FROM t WHERE id = 1")[0]["version"]
    assert strange == []
    assert sorted(wins) == list(range(final))
    assert final >= 1


PROGRAM = """
import sys
from pyspark.sql import SparkSession, functions

schema = sys.argv[1]
spark = SparkSession.builder.getOrCreate()
spark.sql(f"USE main.{schema}")
frame = spark.createDataFrame([(1, "x"), (2, "y")], ["a", "b"])
frame.write.saveAsTable("w")
try:
    frame.write.saveAsTable("w")
except Exception as error:
    assert error.getCondition() == "TABLE_OR_VIEW_ALREADY_EXISTS", error
frame.write.mode("append").saveAsTable(f"main.{schema}.w")
frame.write.insertInto("w")
assert spark.table("w").count() == 6
frame.select("a").write.mode("overwrite").option("overwriteSchema", "true").saveAsTable("w")
assert spark.table("w").columns == ["a"]
frame.writeTo("v2").partitionedBy(functions.col("b")).create()
frame.writeTo("v2").append()
frame.writeTo("v2").overwritePartitions()
assert spark.table("v2").count() == 2
frame.select("b").writeTo("v2").createOrReplace()
assert spark.table(f"main.{schema}.v2").columns == ["b"]
assert spark.sql("CREATE TABLE c AS SELECT * FROM w").collect() == []
assert spark.sql("INSERT INTO c VALUES (:v)", args={"v": 3}).collect()[0].num_affected_rows == 1
assert spark.sql("UPDATE c SET a = 0 WHERE a = ?", args=[3]).collect()[0].num_affected_rows == 1
assert [row.a for row in spark.sql("SELECT a FROM w WHERE a > :n ORDER BY a", args={"n": 1}).collect()] == [2]
frame.createOrReplaceTempView("tv")
assert spark.sql("SELECT sum(a) AS s FROM tv").collect()[0].s == 3
shout = functions.udf(lambda text: text + "!", "string")
assert sorted(row.s for row in frame.select(shout("b").alias("s")).collect()) == ["x!", "y!"]
assert spark.catalog.tableExists(f"main.{schema}.c")
assert "c" in [table.name for table in spark.catalog.listTables()]
spark.catalog.cacheTable("c")
frame.write.format("delta").save(f"/Volumes/main/{schema}/files/d")
assert spark.sql(f"SELECT count(*) AS n FROM delta.`/Volumes/main/{schema}/files/d`").collect()[0].n == 2
try:
    spark.sql("SELECT * FROM nope").collect()
except Exception as error:
    print(type(error).__name__, error.getCondition())
print("answer", spark.table("c").agg({"a": "sum"}).collect()[0][0])
"""


def test_jobs(workspace: WorkspaceInfo, schema: str) -> None:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service import catalog, compute, jobs

    client = WorkspaceClient(host=workspace.host, token=workspace.token, auth_type="pat")
    client.volumes.create("main", schema, "files", catalog.VolumeType.MANAGED)
    path = f"/Volumes/main/{schema}/files/program.py"
    client.files.upload(path, io.BytesIO(PROGRAM.encode()))
    task = jobs.SubmitTask(
        task_key="main",
        spark_python_task=jobs.SparkPythonTask(python_file=path, parameters=[schema]),
        new_cluster=compute.ClusterSpec(spark_version="17.3.x-scala2.13", num_workers=0),
    )
    run = client.jobs.submit(tasks=[task])
    with contextlib.suppress(Exception):  # the output says why
        run.result()
    done = client.jobs.get_run(run.run_id)
    output = client.jobs.get_run_output(done.tasks[0].run_id)
    assert output.error is None, f"{output.error}\n{output.error_trace}"
    assert "AnalysisException TABLE_OR_VIEW_NOT_FOUND" in str(output.logs)
    assert "answer 3" in str(output.logs)
    assert [row["a"] for row in read(workspace, schema, "c")] == [0, 1, 2]


@pytest.mark.fault("B1")
def test_the_port_of_spark_answers_its_workspace_only(shared_workspace: WorkspaceInfo) -> None:
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.session import SparkSession

    log = max(Path(shared_workspace.root, ".workspace/spark").glob("*/server.log"))
    port = log.read_text().split("server started at: 127.0.0.1:")[1].split()[0]
    stranger = SparkSession.builder.remote(f"sc://127.0.0.1:{port}/;user_id=x").create()
    try:
        with pytest.raises(PySparkException, match=r"UNAUTHENTICATED|[Tt]oken"):
            stranger.sql("SELECT 1").collect()
    finally:
        stranger.stop()  # or it stays this thread's active session, which pyspark's functions ask


def test_java_trusts_the_authorities_that_python_trusts(tmp_path: Path) -> None:
    from local_workspace.engine.sparkhome import find_java, trust_store

    authorities = ssl.create_default_context().get_ca_certs(binary_form=True)
    store = tmp_path / "trusted.jks"
    store.write_bytes(trust_store(authorities, "changeit"))
    command = [find_java().with_name("keytool"), "-list", "-keystore", store, "-storepass", "changeit"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"contains {len(authorities)} entr" in listed


@pytest.mark.skipif(not SAIL_PYTHON, reason="RLM_TEST_SAIL_PYTHON names no environment with the other engine")
def test_it_survives_restarts_and_kills_and_shares_its_tables(tmp_path: Path) -> None:
    server, info = start(tmp_path)
    with connected(info) as cursor:
        cursor.execute("CREATE TABLE main.default.t AS SELECT 7 AS id")
        cursor.execute("CREATE VIEW main.default.v AS SELECT id + 1 AS next FROM main.default.t")
    stop(server)
    server, info = start(tmp_path)
    with connected(info) as cursor:
        assert rows(cursor, "SELECT next FROM main.default.v") == [{"next": 8}]
    server.kill()  # not the orderly way: Spark has to notice by itself
    stop(server)
    server, info = start(tmp_path)
    with connected(info) as cursor:
        assert rows(cursor, "SELECT id FROM main.default.t") == [{"id": 7}]
        cursor.execute("CREATE TABLE main.default.c (id INT) CLUSTER BY (id)")
        cursor.execute("INSERT INTO main.default.c VALUES (1), (2)")
        cursor.execute("ALTER TABLE main.default.c CLUSTER BY (id)")
    stop(server)
    other_engine_goes_on(tmp_path)
    server, info = start(tmp_path)
    with connected(info) as cursor:
        assert rows(cursor, "SELECT * FROM main.default.c ORDER BY id") == [{"id": 1}, {"id": 30}]
        assert rows(cursor, "SELECT * FROM main.default.made") == [{"a": 1}]
        assert rows(cursor, "UPDATE main.default.made SET a = 2")[0]["num_affected_rows"] == 1
    stop(server)


OTHER_ENGINE = """
import sys
from pathlib import Path
from local_workspace.engine import EngineOptions, create_engine

engine = create_engine(EngineOptions(root=Path(sys.argv[1]), kind="sail"))
engine.start()
session = engine.session()
assert session.execute("SELECT next FROM v").table.to_pylist() == [{"next": 8}]
assert session.execute("INSERT INTO c VALUES (3)").affected_rows == 1
assert session.execute("UPDATE c SET id = 30 WHERE id = 3").affected_rows == 1
assert session.execute("DELETE FROM c WHERE id = 2").affected_rows == 1
session.execute("CREATE TABLE made AS SELECT 1 AS a")
engine.stop()
"""


def other_engine_goes_on(root: Path) -> None:
    program = root.with_name("other_engine.py")  # a file: without one, pyspark looks for a whole Spark
    program.write_text(OTHER_ENGINE)
    subprocess.run([SAIL_PYTHON, program, str(root)], check=True)
