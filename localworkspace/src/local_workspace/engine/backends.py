"""How each engine's server is started: a Spark Connect server over Delta tables, in a process of its own.

That way it can be replaced (see `servers`), and a Python function of a query that crashes does not take the
workspace along. Sail (package `pysail`) is the default. Spark with Delta is the reference: `pyspark` and
Sail's `pyspark-client` install the same package, so it needs an environment of its own (`make setup-spark`),
which also brings Java.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import re
import secrets
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_workspace import threads
from local_workspace.options import USER

from .catalog import CatalogTree
from .errors import EngineError
from .servers import EngineServer
from .session import CatalogSession
from .sparkhome import SparkHome

if TYPE_CHECKING:
    from .wire import ConnectClient

_SAIL_STOP_SECONDS, _SPARK_STOP_SECONDS = 3, 6
_SAIL_START_SECONDS, _SPARK_START_SECONDS = 60, 180
# A job may compute for hours in pandas between two statements; its session must still be there.
_SESSION_DAYS = 30
# A query computes on two threads a core and does not pause: with no further ones the server would answer
# nobody meanwhile, not even a cancel (measured: pysail 0.7.2, a cross join).
_WORKERS = max(16, 4 * (os.cpu_count() or 1))
# Up to 450 MB of what Sail does not give back, and a new server takes a third of a second.
RENEW_AFTER = 3_000
# A script: it is run and not imported, for it is to load nothing before it is isolated.
_SAIL_PROCESS = Path(__file__).with_name("sailprocess.py")
_LISTENING = re.compile(r"Spark Connect server started at: 127\.0\.0\.1:(\d+)")
# Quiet, but for the line that names the port.
_LOGGING = """\
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss} %p %c{1}: %m%n%ex
logger.port.name = org.apache.spark.sql.connect.service.SparkConnectServer
logger.port.level = info
"""
_EXTENSIONS = "io.delta.sql.DeltaSparkSessionExtension,org.apache.spark.sql.rlm.Extensions"
_DELTA_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"


class SailBackend:
    """Starts Sail servers for one workspace."""

    def __init__(self, tree: CatalogTree, renew_after: int = RENEW_AFTER) -> None:
        self._tree = tree
        self._compaction: Any = None
        self.renew_after: int | None = renew_after
        self._launches, self._said = itertools.count(1), False

    def launch(self) -> EngineServer:
        """Start a server. Raises `EngineError` when it does not start."""
        for package in ("grpc", "pysail", "pyspark"):
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        folder = self._tree.root / ".workspace"
        folder.mkdir(mode=0o700, exist_ok=True)
        name = f"sail-{os.getpid()}-{next(self._launches)}.sock"
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", str(_SAIL_PROCESS), str(folder / name)],
            env=os.environ | self._settings(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        from .sailsql import AutoCompaction  # sqlglot and others, while the process starts
        from .wire import connect_stub, open_channel

        self._compaction = self._compaction or AutoCompaction(self._tree)
        assert process.stdout is not None
        ready = select.select([process.stdout], [], [], _SAIL_START_SECONDS)[0]
        line = process.stdout.readline() if ready else b""
        if not line:
            process.kill()
            _end(process, _SAIL_STOP_SECONDS)
            raise EngineError.of("ENGINE_UNAVAILABLE", "Sail did not start; see standard error.", "08006")
        address = json.loads(line)
        held = os.open(folder, os.O_RDONLY)
        if address is not None and not self._said:
            self._said = True
            threads.say(
                "The engine's own port is open to other users of this machine: docs/workspace-security.md"
            )
        target = f"unix:/proc/self/fd/{held}/{name}" if address is None else ":".join(map(str, address))
        channel = open_channel(target)

        def stop() -> None:
            channel.close()
            _end(process, _SAIL_STOP_SECONDS)
            with contextlib.suppress(OSError):  # the second time
                os.close(held)
            (folder / name).unlink(missing_ok=True)

        return EngineServer(channel=channel, stub=connect_stub(channel), stop=stop, popen=process)

    def session(self, client: ConnectClient) -> CatalogSession:
        """Return the session of a client."""
        from .sailsql import SailSession

        return SailSession(self._tree, client, self._compaction)

    def _settings(self) -> dict[str, str]:
        catalogs = self._tree.catalogs()
        listed = ", ".join(
            f'{{type="memory", name="{name}", initial_database=["default"]}}' for name in catalogs
        )
        return {
            "SAIL_CATALOG__LIST": f"[{listed}]",
            "SAIL_CATALOG__DEFAULT_CATALOG": f'"{catalogs[0]}"' if not catalogs[0].isalpha() else catalogs[0],
            "SAIL_SPARK__SESSION_TIMEOUT_SECS": str(_SESSION_DAYS * 24 * 3600),
            "TOKIO_WORKER_THREADS": str(_WORKERS),
            "RUST_LOG": os.environ.get("RUST_LOG", "error"),
        }


class SparkBackend:
    """Starts the Spark servers of one workspace. Raises `EngineError` where Spark cannot be had."""

    def __init__(self, tree: CatalogTree, jars: Path | None, *, options: Sequence[str] = ()) -> None:
        self._tree = tree
        self._options = options  # further ones for Java
        self._home = SparkHome.find(jars)
        self._launches = itertools.count(1)
        self.renew_after: int | None = None  # the JVM collects its garbage

    def launch(self) -> EngineServer:
        """Start a server. The first start downloads Delta, compiles the catalog. Raises `EngineError`."""
        import grpc

        from .wire import CHANNEL_OPTIONS, connect_stub

        self._home.prepare()
        folder, token = self._prepare_folder(), secrets.token_hex(16)
        process, port = self._launch(folder, token)
        credentials = grpc.composite_channel_credentials(
            grpc.local_channel_credentials(), grpc.access_token_call_credentials(token)
        )
        channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=CHANNEL_OPTIONS)

        def stop() -> None:
            channel.close()
            _end(process, _SPARK_STOP_SECONDS)

        return EngineServer(channel=channel, stub=connect_stub(channel), stop=stop, popen=process, obeys=True)

    def session(self, client: ConnectClient) -> CatalogSession:
        """Return the session of a client."""
        from .sparksql import SparkCatalogSession

        return SparkCatalogSession(self._tree, client)

    def _prepare_folder(self) -> Path:
        """Make a folder for a server; the first one clears what earlier ones left."""
        folders, number = self._tree.root / ".workspace" / "spark", next(self._launches)
        if number == 1:
            shutil.rmtree(folders, ignore_errors=True)
        folder = folders / str(number)
        (folder / "conf").mkdir(parents=True)
        (folder / "tmp").mkdir()
        (folder / "conf" / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
        return folder

    def _launch(self, folder: Path, token: str) -> tuple[subprocess.Popen[bytes], int]:
        """Start a process, which answers those with the token only, and wait until it listens."""
        environment = self._home.environment() | {
            "SPARK_CONF_DIR": str(folder / "conf"),  # nobody else's settings
            "PYSPARK_PYTHON": sys.executable,  # for Python functions in queries
            "SPARK_CONNECT_AUTHENTICATE_TOKEN": token,
            "SPARK_USER": USER,  # what current_user() says
        }
        settings = [f"-D{key}={value}" for key, value in self._settings(folder).items()]
        command = self._home.command(
            "org.apache.spark.sql.rlm.Server",
            options=[*self._java_options(folder), *settings, *self._options],
        )
        log = folder / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command line
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment,
                start_new_session=True, cwd=folder,
            )  # fmt: skip
        try:
            return process, _port(process, log)
        except BaseException:
            _end(process, _SPARK_STOP_SECONDS)
            raise

    def _java_options(self, folder: Path) -> list[str]:
        logging = (folder / "conf" / "log4j2.properties").as_uri()
        options = [
            "-Xmx2g",
            "-XX:+UseSerialGC",  # 0.8 GB in place of 1.1 to 1.4 for the same statements
            # Delta checks the list of files in a checksum against the log where the time zone is another one.
            "-Duser.timezone=UTC",
            f"-Djava.io.tmpdir={folder / 'tmp'}",
            f"-Dlog4j2.configurationFile={logging}",
        ]
        if self._home.archive.exists():
            options.append(f"-XX:SharedArchiveFile={self._home.archive}")
        return options

    def _settings(self, folder: Path) -> dict[str, str]:
        catalogs = self._tree.catalogs()
        settings = {
            "spark.app.name": "local workspace",
            "spark.master": f"local[{max(2, os.cpu_count() or 2)}]",
            "spark.sql.extensions": _EXTENSIONS,
            "spark.sql.catalog.spark_catalog": _DELTA_CATALOG,
            "spark.sql.defaultCatalog": catalogs[0],
            "spark.sql.sources.default": "delta",
            "spark.sql.catalogImplementation": "in-memory",
            "spark.sql.session.timeZone": "UTC",  # as on Databricks
            "spark.sql.warehouse.dir": str(folder / "warehouse"),
            "spark.local.dir": str(folder / "tmp"),
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": "0",
            "spark.connect.session.manager.defaultSessionTimeout": f"{_SESSION_DAYS}d",
            # Hadoop's own would run the program `chmod` for every file that is written.
            "spark.hadoop.fs.file.impl": "org.apache.spark.sql.rlm.LocalFiles",
            "spark.hadoop.fs.AbstractFileSystem.file.impl": "org.apache.spark.sql.rlm.LocalFileContext",
            # Else compiling a query asks for each class over the network first, some seconds a statement.
            "spark.sql.artifact.isolation.alwaysApplyClassloader": "false",
            # Small tables on few cores: Spark's defaults make 50 to 200 tasks of one row each.
            # What follows took 31 % off the processor time of small statements (docs/spark-engine.md).
            "spark.sql.shuffle.partitions": "2",
            "spark.databricks.delta.snapshotPartitions": "1",
            "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
            # Code made for a statement costs more to compile than to do without on some thousand rows.
            "spark.sql.codegen.wholeStage": "false",
            "spark.sql.codegen.factoryMode": "NO_CODEGEN",
            # A stage of two tasks has no statistics worth planning again for.
            "spark.sql.adaptive.enabled": "false",
            # Each plan is written out for a user interface that is off.
            "spark.sql.maxPlanStringLength": "1000",
            "spark.locality.wait": "0",
            "spark.shuffle.compress": "false",
            "spark.broadcast.compress": "false",
        }
        for name in catalogs:
            settings[f"spark.sql.catalog.{name}"] = "org.apache.spark.sql.rlm.FolderCatalog"
            settings[f"spark.sql.catalog.{name}.root"] = str(self._tree.root / "tables")
        return settings


Backend = SailBackend | SparkBackend


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """End a server process, whose sessions end with it, and wait for it."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()  # it ends when its standard input does
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port on which the server listens, as soon as it does."""
    deadline = time.monotonic() + _SPARK_START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        found = _LISTENING.search(log.read_text(encoding="utf-8", errors="replace"))
        if found:
            return int(found.group(1))
        if ended:
            break
        time.sleep(0.05)
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise EngineError.of("ENGINE_UNAVAILABLE", f"Spark did not start. {log} ends with:\n{tail}", "08006")
