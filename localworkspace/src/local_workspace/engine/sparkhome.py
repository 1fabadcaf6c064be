"""Where Spark, Java and Delta's jars are, and the catalog of ours compiled for them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import EngineError

# Delta releases by Spark release: https://docs.delta.io/releases. One pair, because only one was tried.
DELTA = {"4.2": "io.delta:delta-spark_2.13:4.4.0"}
_MINIMUM_JAVA = 17
_SOURCE = Path(__file__).with_name("FolderCatalog.scala")
# Delta names these as dependencies, and Spark brings them along; 50 MB less to download.
_BUNDLED = "org.apache.hadoop:hadoop-client-api,org.apache.hadoop:hadoop-client-runtime"
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "JAVA_HOME", "JAVA_TOOL_OPTIONS", "LD_LIBRARY_PATH")
_RESOLVE_SECONDS = 900


@dataclass(frozen=True, kw_only=True)
class SparkHome:
    """A Spark installation (package `pyspark`) and the folder for what is downloaded and compiled for it."""

    folder: Path
    version: str
    cache: Path

    @classmethod
    def find(cls, jars: Path | None) -> SparkHome:
        """The Spark of this environment. Raises `EngineError`, which says what is missing and what to do."""
        spec = importlib.util.find_spec("pyspark")
        folder = Path(spec.origin).parent if spec and spec.origin else None
        if folder is None or not any(folder.glob("jars/spark-connect_*.jar")):
            found = "no pyspark" if folder is None else "pyspark-client, which has no Spark inside"
            raise _missing(f"this environment ({sys.prefix}) has {found}")
        version = next(folder.glob("jars/spark-connect_*.jar")).stem.rsplit("-", 1)[1]
        if _series(version) not in DELTA:
            raise _missing(f"this environment has pyspark {version}; Delta is set up for {', '.join(DELTA)}")
        _require_java()
        return cls(folder=folder, version=version, cache=jars or _own_cache())

    @property
    def submit(self) -> Path:
        """Spark's own launcher."""
        return self.folder / "bin" / "spark-submit"

    def environment(self) -> dict[str, str]:
        """Variables for Spark's processes. The keys of whoever started us are not among them."""
        known = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return known | {"SPARK_HOME": str(self.folder)}

    def class_path(self) -> str:
        """Jars besides Spark's own; downloads Delta and compiles the catalog when that was not done yet."""
        source = _SOURCE.read_bytes()
        stamp = hashlib.sha256(source + self.version.encode() + self._delta.encode()).hexdigest()[:16]
        catalog = self.cache / f"catalog-{stamp}.jar"
        if not catalog.exists():
            self._compile(catalog)
        return os.pathsep.join([str(catalog), *map(str, self._jars())])

    @property
    def _delta(self) -> str:
        return DELTA[_series(self.version)]

    def _jars(self) -> list[Path]:
        """Delta's jars, without those that Spark has in a version of its own."""
        own = {re.sub(r"-\d.*", "", path.name) for path in (self.folder / "jars").glob("*.jar")}
        found = sorted((self.cache / "ivy" / "jars").glob("*.jar"))
        # Ivy's files are named <group>_<artifact>-<version>.jar.
        return [jar for jar in found if re.sub(r"-\d.*", "", jar.name.split("_", 1)[1]) not in own]

    def _compile(self, catalog: Path) -> None:
        """Let spark-submit fetch Delta from Maven Central, and then run the Scala compiler beside it."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache) as folder:
            draft = Path(folder) / "catalog.jar"
            ivy = self.cache / "ivy"
            command = [
                str(self.submit), "--master", "local[1]", "--packages", self._delta,
                "--exclude-packages", _BUNDLED, "--conf", f"spark.jars.ivy={ivy}",
                "--class", "scala.tools.nsc.Main", "spark-internal", "-nowarn", "-d", str(draft),
                "-cp", os.pathsep.join([f"{self.folder}/jars/*", f"{ivy}/jars/*"]), str(_SOURCE),
            ]  # fmt: skip
            done = subprocess.run(  # noqa: S603 - our own command line
                command, env=self.environment(), cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, errors="replace", timeout=_RESOLVE_SECONDS, check=False,
            )  # fmt: skip
            if done.returncode or not draft.exists():
                raise _missing(
                    f"Delta ({self._delta}) could not be fetched from Maven Central into {ivy}, or the "
                    f"catalog did not compile: {(done.stdout + done.stderr)[-1500:]}"
                )
            draft.replace(catalog)


def _series(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _own_cache() -> Path:
    """In the environment that has Spark, for it belongs to that release: one download for all workspaces."""
    return Path(sys.prefix) / "share" / "databricks-rlm-agent" / "spark"


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if java is None:
        raise _missing(f"there is no java {f'in {home}/bin' if home else 'on PATH'}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr  # noqa: S603
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found.group(1)) < _MINIMUM_JAVA:
        raise _missing(f"{java} is {said.splitlines()[0] if said else 'not working'}")


def _missing(what: str) -> EngineError:
    return EngineError.of(
        "UNSUPPORTED_FEATURE",
        f"The engine 'spark' cannot start: {what}. It needs Java {_MINIMUM_JAVA} or later and pyspark "
        f"{' or '.join(DELTA)} with its jars, in an environment without pyspark-client and pysail (make "
        "setup-spark makes one). The default engine, `--engine sail`, needs neither.",
        "0A000",
    )
