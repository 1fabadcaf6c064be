"""Plain pyspark, as a job process runs it, against the Spark Connect endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from local_workspace.engine import Engine, EngineSession
from local_workspace.options import installed_engine
from pyspark.sql import functions


@pytest.fixture(scope="module")
def remote(engine: Engine) -> Iterator[Any]:
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.remote(engine.connect_url).getOrCreate()
    yield spark
    spark.stop()


@pytest.fixture
def spark(remote: Any, schema: str) -> Any:
    remote.sql(f"USE {schema}").collect()
    return remote


def test_sees_what_the_warehouse_made_and_the_other_way_round(spark: Any, session: EngineSession) -> None:
    session.execute("CREATE TABLE t AS SELECT 1 AS id, 'a' AS name")
    assert spark.table("t").collect()[0].asDict() == {"id": 1, "name": "a"}
    spark.sql("INSERT INTO t VALUES (2, 'b')").collect()
    session.execute("CREATE VIEW v AS SELECT id FROM t WHERE id > 1")
    assert [row.id for row in spark.sql("SELECT * FROM v").collect()] == [2]
    spark.createDataFrame([(1, "x")], ["a", "b"]).write.saveAsTable("made")
    assert session.execute("SELECT * FROM made").table.to_pylist() == [{"a": 1, "b": "x"}]


def test_follows_tables_that_change_under_it(spark: Any, session: EngineSession) -> None:
    session.execute("CREATE TABLE t AS SELECT 1 AS id")
    assert spark.table("t").columns == ["id"]
    session.execute("CREATE OR REPLACE TABLE t AS SELECT 'x' AS other, 2 AS n")
    assert spark.sql("SELECT other FROM t").collect()[0].other == "x"
    session.execute("DROP TABLE t")
    with pytest.raises(Exception, match="TABLE_OR_VIEW_NOT_FOUND"):
        spark.sql("SELECT * FROM t").collect()
    session.execute("CREATE TABLE t (z STRING)")
    assert spark.table("t").columns == ["z"]
    session.execute("ALTER TABLE t ADD COLUMNS (y INT)")
    assert spark.table("t").columns == ["z", "y"]


def test_dml_through_spark_sql(spark: Any) -> None:
    spark.sql("CREATE TABLE t (id INT, name STRING)").collect()
    assert spark.sql("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')").collect()[0].num_affected_rows == 3
    update = spark.sql("UPDATE t SET name = :n WHERE id = :i", args={"n": "o'x", "i": 2})
    assert update.collect()[0].asDict() == {"num_affected_rows": 1}
    merged = spark.sql(
        "MERGE INTO t USING (SELECT 3 AS id) s ON t.id = s.id WHEN MATCHED THEN UPDATE SET name = 'm'"
    ).collect()[0]
    assert merged.num_updated_rows == 1
    assert spark.sql("DELETE FROM t WHERE id = ?", args=[1]).collect()[0].num_affected_rows == 1
    assert {row.name for row in spark.sql("SELECT name FROM t").collect()} == {"o'x", "m"}


def test_writers(spark: Any) -> None:
    frame = spark.createDataFrame([(1, "x"), (2, "y")], ["a", "b"])
    frame.write.saveAsTable("w")
    with pytest.raises(Exception, match="TABLE_OR_VIEW_ALREADY_EXISTS"):
        frame.write.saveAsTable("w")
    frame.write.mode("append").saveAsTable("w")
    assert spark.table("w").count() == 4
    frame.select("a").write.mode("overwrite").option("overwriteSchema", "true").saveAsTable("w")
    assert spark.table("w").columns == ["a"]
    frame.select("a").write.insertInto("w")
    assert spark.table("w").count() == 4
    frame.writeTo("v2").create()
    frame.writeTo("v2").append()
    assert spark.table("v2").count() == 4
    frame.select("b").writeTo("v2").createOrReplace()
    assert spark.table("v2").columns == ["b"]
    with pytest.raises(Exception, match="TABLE_OR_VIEW_NOT_FOUND"):
        frame.writeTo("missing").append()
    with pytest.raises(Exception, match="SCHEMA_NOT_FOUND"):
        frame.write.saveAsTable("main.no_such.t")


def test_names_in_capitals(spark: Any) -> None:
    frame = spark.createDataFrame([(1, "x")], ["Id", "Name"])
    frame.write.saveAsTable("Mixed")
    frame.write.insertInto("Mixed")
    assert [row.Id for row in spark.table("Mixed").collect()] == [1, 1]
    assert spark.sql("SELECT Mixed.* FROM mixed").columns == ["Id", "Name"]


@pytest.mark.fault("C3")
def test_appending_by_name_finds_names_with_capitals(spark: Any) -> None:
    spark.sql("CREATE TABLE t (Id INT, Name STRING, n INT) PARTITIONED BY (Name)").collect()
    for columns in ("n INT, Name STRING, Id INT", "N INT, name STRING, ID INT"):
        frame = spark.createDataFrame([(5, "x", 1)], columns)
        frame.write.mode("append").saveAsTable("T")
        frame.writeTo("t").append()
    assert {tuple(row) for row in spark.table("t").collect()} == {(1, "x", 5)}
    assert spark.table("t").count() == 4
    with pytest.raises(Exception, match=r"(?i)metadata_mismatch|schema mismatch|cannot resolve"):
        spark.createDataFrame([(1, 2)], "Id INT, other INT").write.mode("append").saveAsTable("t")


@pytest.mark.fault("C2")
def test_an_overwrite_where_keeps_the_other_rows(spark: Any) -> None:
    spark.sql("CREATE TABLE t (k INT, d INT)").collect()
    spark.sql("INSERT INTO t VALUES (1, 1), (2, 2), (3, NULL)").collect()

    def write(row: tuple[int, int]) -> None:
        frame = spark.createDataFrame([row], "k INT, d INT")
        frame.write.mode("overwrite").option("replaceWhere", "d = 1").saveAsTable("t")

    write((9, 1))
    kept = {(9, 1), (2, 2), (3, None)}
    assert {tuple(row) for row in spark.table("t").collect()} == kept
    with pytest.raises(Exception, match="REPLACE_WHERE_MISMATCH"):
        write((9, 7))
    assert {tuple(row) for row in spark.table("t").collect()} == kept
    spark.createDataFrame([(8, 2)], "k INT, d INT").writeTo("t").overwrite(functions.col("d") == 2)
    assert {tuple(row) for row in spark.table("t").collect()} == {(9, 1), (8, 2), (3, None)}


def test_queries_of_jobs_are_rewritten_too(spark: Any) -> None:
    spark.sql("CREATE TABLE t AS SELECT 'x' AS e").collect()
    text = "SELECT a FROM (SELECT filter(array(e), x -> x IS NOT NULL) a FROM t) WHERE size(a) > :least"
    assert [row.a for row in spark.sql(text, args={"least": 0}).collect()] == [["x"]]
    frame = spark.sql("SELECT filter(array(e), x -> x IS NOT NULL) AS a FROM t")
    assert frame.where("size(a) > 0").count() == 1
    spark.sql("SELECT * EXCEPT (e), conv(5L, 10, 16) AS h FROM t").createOrReplaceTempView("hex")
    assert spark.table("hex").collect()[0].asDict() == {"h": "5"}


@pytest.mark.fault("C2")
def test_a_dynamic_partition_overwrite_keeps_the_other_partitions(spark: Any) -> None:
    spark.sql("CREATE TABLE p (v INT, k STRING) PARTITIONED BY (k)").collect()
    spark.sql("INSERT INTO p VALUES (1, 'a'), (2, 'b')").collect()
    write = spark.createDataFrame([(3, "a")], "v INT, k STRING").write.mode("overwrite")
    with suppress(Exception):  # refused, or right
        write.option("partitionOverwriteMode", "dynamic").saveAsTable("p")
    assert {tuple(row) for row in spark.table("p").collect()} in ({(1, "a"), (2, "b")}, {(3, "a"), (2, "b")})


@pytest.mark.fault("C2")
@pytest.mark.skipif(installed_engine() == "spark", reason="Spark has it")
def test_dynamic_partition_overwrite_is_refused(spark: Any, root: Path, schema: str) -> None:
    spark.sql(
        "CREATE TABLE p PARTITIONED BY (k) AS SELECT 1 AS v, 'a' AS k UNION ALL SELECT 2, 'b'"
    ).collect()
    frame = spark.createDataFrame([(3, "a")], ["v", "k"])
    with pytest.raises(Exception, match=r"Dynamic partition overwrite.*--engine spark"):
        frame.write.mode("overwrite").option("partitionOverwriteMode", "dynamic").saveAsTable("p")
    folder = str(root / "tables" / schema.replace(".", "/") / "p")
    spark.conf.set("spark.sql.sources.partitionOverwriteMode", "dynamic")
    try:
        for write in (
            lambda: frame.write.mode("overwrite").format("delta").save(folder),
            lambda: frame.write.mode("overwrite").insertInto("p"),
            lambda: spark.sql("INSERT OVERWRITE p SELECT 3, 'a'").collect(),
        ):
            with pytest.raises(Exception, match="Dynamic partition overwrite"):
                write()
    finally:
        spark.conf.unset("spark.sql.sources.partitionOverwriteMode")
    assert spark.table("p").count() == 2


def test_temporary_views_and_python_functions(spark: Any) -> None:
    from pyspark.sql import functions
    from pyspark.sql.types import StringType

    frame = spark.createDataFrame([(1, "x"), (2, "y")], ["a", "b"])
    frame.createOrReplaceTempView("tv")
    spark.sql("CREATE TABLE t AS SELECT * FROM tv").collect()
    assert spark.sql("SELECT sum(a) AS s FROM t").collect()[0].s == 3
    shout = functions.udf(
        lambda text: text + "!", StringType()
    )  # a name would ask the session that is active
    assert [row.s for row in frame.select(shout("b").alias("s")).collect()] == ["x!", "y!"]


def test_catalog_functions(spark: Any, schema: str, session: EngineSession) -> None:
    session.execute("CREATE TABLE t (id INT)")
    assert spark.catalog.tableExists(f"{schema}.t")
    assert not spark.catalog.tableExists(f"{schema}.nope")
    assert "t" in [table.name for table in spark.catalog.listTables()]
    assert schema.split(".")[1] in [found.name for found in spark.catalog.listDatabases()]
    assert spark.catalog.currentDatabase() == schema.split(".")[1]
    spark.catalog.setCurrentDatabase("default")
    assert spark.catalog.currentDatabase() == "default"
    spark.catalog.cacheTable(f"{schema}.t")


def test_volume_paths(spark: Any, root: Path) -> None:
    (root / "Volumes/main/s/vol").mkdir(parents=True, exist_ok=True)
    frame = spark.createDataFrame([(1, "x")], ["a", "b"])
    frame.write.mode("overwrite").option("header", True).csv("/Volumes/main/s/vol/csv")
    assert spark.read.option("header", True).csv("/Volumes/main/s/vol/csv").collect()[0].b == "x"
    frame.write.format("delta").mode("overwrite").save("dbfs:/Volumes/main/s/vol/delta")
    assert (root / "Volumes/main/s/vol/delta/_delta_log").is_dir()
    assert spark.sql("SELECT count(*) AS n FROM delta.`/Volumes/main/s/vol/delta`").collect()[0].n == 1
    spark.sql("CREATE TABLE texts AS SELECT '/Volumes/main/s/vol' AS path").collect()
    assert spark.table("texts").collect()[0].path == "/Volumes/main/s/vol"
    spark.sql("CREATE TABLE ext USING DELTA LOCATION '/Volumes/main/s/vol/delta'").collect()
    assert spark.table("ext").count() == 1
    spark.sql("DROP TABLE ext").collect()
    assert (root / "Volumes/main/s/vol/delta/_delta_log").is_dir()


def test_errors_are_sparks(spark: Any) -> None:
    from pyspark.errors import AnalysisException, ArithmeticException, ParseException

    for sql, kind, condition in (
        ("SELECT * FROM nope", AnalysisException, "TABLE_OR_VIEW_NOT_FOUND"),
        ("SELECT nope", AnalysisException, "UNRESOLVED_COLUMN.WITHOUT_SUGGESTION"),
        ("SELEKT 1", ParseException, "PARSE_SYNTAX_ERROR"),
        ("SELECT 1 / 0", ArithmeticException, "DIVIDE_BY_ZERO"),
    ):
        with pytest.raises(kind) as caught:
            spark.sql(sql).collect()
        assert caught.value.getCondition() == condition


def test_large_results_stream(spark: Any) -> None:
    assert spark.range(200_000).toPandas().shape == (200_000, 1)


def test_writers_leave_deletion_vectors_out(spark: Any, root: Path, schema: str) -> None:
    from deltalake import DeltaTable

    frame = spark.createDataFrame([(1, "x"), (2, "y")], ["a", "b"])
    frame.write.option("delta.enableDeletionVectors", "true").saveAsTable("w")
    frame.writeTo("v2").option("delta.enableDeletionVectors", "true").create()
    for table in ("w", "v2"):
        spark.sql(f"DELETE FROM {table} WHERE a = 1").collect()
        delta = DeltaTable(str(root / "tables" / Path(*schema.split(".")) / table))
        assert delta.to_pyarrow_table().to_pylist() == [{"a": 2, "b": "y"}]


@pytest.mark.fault("D5")
def test_names_of_volumes_and_schemas_in_any_case(spark: Any, root: Path, schema: str) -> None:
    name = schema.removeprefix("main.")
    (root / "Volumes" / "main" / name / "files").mkdir(parents=True)
    (root / "Volumes" / "main" / name / "files" / "Rows.csv").write_text("a\n1\n")
    frame = spark.read.option("header", True).csv(f"/Volumes/MAIN/{name.upper()}/Files/Rows.csv")
    assert [row.a for row in frame.collect()] == ["1"]
    text = f"SELECT count(*) AS n FROM csv.`/Volumes/Main/{name.upper()}/FILES/Rows.csv`"
    assert spark.sql(text).collect()[0].n > 0
    spark.sql(f"CREATE SCHEMA IF NOT EXISTS MAIN.{name.upper()}").collect()
    spark.sql(f"CREATE TABLE Main.{name.upper()}.T AS SELECT 1 AS a").collect()
    assert spark.table(f"main.{name}.t").count() == 1
