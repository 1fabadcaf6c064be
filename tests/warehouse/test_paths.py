"""SQL and plans name files of the workspace only, unless its owner has allowed a further folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_workspace.engine import Engine, EngineOptions, create_engine
from local_workspace.engine.errors import EngineError
from local_workspace.engine.paths import PathPolicy, named_paths
from local_workspace.engine.statements import Statement

REFUSED = "INSUFFICIENT_PERMISSIONS"


@pytest.fixture(scope="module")
def fenced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that may use `allowed` besides its root; `outside` has a file that it may not read."""
    base = tmp_path_factory.mktemp("fenced")
    for name in ("allowed", "outside"):
        (base / name).mkdir()
        (base / name / "a.txt").write_text(f"{name}\n")
    engine = create_engine(EngineOptions(root=base / "root", allow_paths=(base / "allowed",)))
    engine.start()
    volume = base / "root" / "Volumes" / "main" / "default" / "v"
    volume.mkdir(parents=True)
    (volume / "a.txt").write_text("volume\n")
    (volume / "link.txt").symlink_to(base / "outside" / "a.txt")
    (volume / "folder").mkdir()
    (volume / "folder" / "link").symlink_to(base / "outside")
    private = base / "root" / ".workspace"
    private.mkdir(exist_ok=True)
    (private / "token").write_text("dapi-canary\n")
    yield engine
    engine.stop()


@pytest.fixture
def base(fenced: Engine) -> Path:
    return fenced.catalog.root.parent


@pytest.mark.fault("B6")
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM text.`/etc/passwd`",
        "SELECT * FROM text.`file:///etc/passwd`",
        "SELECT * FROM CSV.`{base}/outside/a.txt`",
        "SELECT * FROM json.`{base}/outside/*.txt`",
        "SELECT * FROM text.`{base}/root/.workspace/token`",
        "SELECT * FROM text.`/Volumes/main/default/v/../../../../.workspace/token`",
        "SELECT * FROM text.`/Volumes/main/default/v/link.txt`",
        "SELECT * FROM text.`/Volumes/main/default/v/*.txt`",
        "SELECT * FROM text.`/Volumes/main/default/v/folder`",
        "SELECT * FROM text.`a.txt`",
        "SELECT * FROM parquet.`s3://bucket/x`",
        "SELECT * FROM read_files('/etc/passwd', format => 'text')",
        "SELECT * FROM read_files(path => '/etc/passwd')",
        "CREATE TABLE main.default.t USING delta LOCATION '{base}/outside/t'",
        "CREATE TABLE main.default.t (a INT) LOCATION '{base}/outside/t'",
        "CREATE TABLE main.default.t USING csv OPTIONS (path '{base}/outside/a.txt')",
        "CREATE TABLE main.default.t USING csv OPTIONS ('path' = '/etc/passwd')",
        "CREATE SCHEMA main.s LOCATION '{base}/outside/s'",
        "CREATE VIEW main.default.w AS SELECT * FROM text.`/etc/passwd`",
        "INSERT INTO delta.`{base}/outside/t` VALUES (1)",
        "COPY INTO main.default.t FROM '/etc' FILEFORMAT = CSV",
        "EXECUTE IMMEDIATE 'SELECT * FROM text.`/etc/passwd`'",
    ],
)
def test_sql_names_no_file_outside(fenced: Engine, base: Path, statement: str) -> None:
    session = fenced.session()
    with pytest.raises(EngineError, match="--allow-path DIR") as raised:
        session.execute(statement.format(base=base))
    assert raised.value.condition == REFUSED
    session.close()
    assert sorted(path.name for path in (base / "outside").iterdir()) == ["a.txt"]


@pytest.mark.fault("B6")
def test_a_plan_names_no_file_outside(fenced: Engine, base: Path) -> None:
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    spark: Any = SparkSession.builder.remote(fenced.connect_url).create()
    frame = spark.range(1)
    attempts = [
        lambda: spark.read.text("/etc/passwd").collect(),
        lambda: spark.read.text(f"{base}/root/.workspace/token").collect(),
        lambda: spark.read.format("csv").option("path", "/etc/passwd").load().collect(),
        lambda: spark.read.text("/Volumes/main/default/v/link.txt").collect(),
        lambda: spark.read.table("text.`/etc/passwd`").collect(),
        lambda: spark.sql("SELECT * FROM text.`/etc/passwd`").collect(),
        lambda: frame.write.parquet(f"{base}/outside/p"),
        lambda: frame.write.option("path", f"{base}/outside/p").saveAsTable("main.default.p"),
    ]
    for attempt in attempts:
        with pytest.raises(PySparkException, match=REFUSED):
            attempt()
    assert [row.value for row in spark.read.text("/Volumes/main/default/v/a.txt").collect()] == ["volume"]
    assert [row.value for row in spark.read.text(f"{base}/allowed/a.txt").collect()] == ["allowed"]
    spark.stop()
    assert sorted(path.name for path in (base / "outside").iterdir()) == ["a.txt"]


@pytest.mark.fault("B6")
def test_what_is_inside_or_allowed_is_read(fenced: Engine, base: Path) -> None:
    session = fenced.session()
    for path, text in (("/Volumes/main/default/v/a.txt", "volume"), (f"{base}/allowed/a.txt", "allowed")):
        assert session.execute(f"SELECT value FROM text.`{path}`").table.to_pylist() == [{"value": text}]
    large = ", ".join(f"({n}, 'file {n} at /etc/passwd')" for n in range(20_000))
    session.execute("CREATE TABLE main.default.many (n INT, t STRING)")
    session.execute(f"INSERT INTO main.default.many VALUES {large}")
    session.close()


def test_texts_that_look_like_paths_are_data() -> None:
    for statement in (
        "SELECT * FROM t WHERE path = '/etc/passwd' AND location = 'Berlin'",
        "SELECT extract(DAY FROM '2020-01-01'), trim(BOTH 'x' FROM '/x')",
        "INSERT INTO t VALUES ('SELECT * FROM text.`/etc/passwd`')",
        "SELECT s.text('/etc/passwd'), main.s.csv('/x')",
        "COMMENT ON TABLE t IS '/etc/passwd'",
        "ALTER TABLE t SET TBLPROPERTIES ('path' = '/x')",
    ):
        assert list(named_paths(Statement.parse(statement).tokens)) == []


def test_the_root_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    policy = PathPolicy(root=tmp_path / "real")
    policy.require(f"{tmp_path}/link/x")
    with pytest.raises(EngineError, match="out of the workspace"):
        policy.require(f"{tmp_path}/link/../x")
