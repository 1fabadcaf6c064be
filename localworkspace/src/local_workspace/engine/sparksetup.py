"""Make, once per environment: Delta's jars, our classes, an archive of the classes that Spark loads.

Loading, checking and linking 20,000 classes from 300 jars is most of what a start costs, and much of what
the first statement of each kind costs. Java maps them from an archive (class data sharing) where that was
made by the same Java from the same jars, and does without it otherwise.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from .backends import SparkBackend
from .catalog import CatalogTree
from .errors import EngineError
from .servers import Servers
from .session import new_session_id
from .sparkhome import SparkHome
from .wire import ConnectClient

# One statement of each kind that everybody uses: their classes go into the archive.
_STATEMENTS = """
SELECT 1;
CREATE TABLE main.default.t (id BIGINT NOT NULL, v STRING) TBLPROPERTIES (delta.enableChangeDataFeed = true);
INSERT INTO main.default.t VALUES (1, 'a'), (2, 'b');
CREATE TABLE main.default.u AS SELECT id, array(v) AS v, named_struct('k', id) AS s FROM main.default.t;
UPDATE main.default.t SET v = 'c' WHERE id = 2;
MERGE INTO main.default.t USING main.default.u ON t.id = u.id
WHEN MATCHED THEN UPDATE SET v = u.v[0] WHEN NOT MATCHED THEN INSERT (id, v) VALUES (u.id, 'n');
DELETE FROM main.default.t WHERE id = 1;
CREATE OR REPLACE VIEW main.default.w AS SELECT * FROM main.default.t;
SELECT v, count(*) AS n, collect_list(s.k) AS k FROM main.default.w JOIN
(SELECT id, s FROM main.default.u) USING (id) GROUP BY ALL HAVING n > 0 ORDER BY n DESC LIMIT 5;
SELECT transform(filter(sequence(1, 9), x -> x > 3), x -> x * 2), row_number() OVER (ORDER BY id)
FROM main.default.t;
SELECT * FROM table_changes('main.default.t', 1);
OPTIMIZE main.default.t;
DESCRIBE HISTORY main.default.t;
DROP TABLE main.default.u
"""


def make(home: SparkHome) -> None:
    """Make the archive of an installation, unless there is one. Raises `EngineError` when Spark fails."""
    if home.archive.exists():
        return
    print("Archiving Spark's classes for quicker starts (once; a minute or two)", file=sys.stderr)  # noqa: T201 - progress
    with tempfile.TemporaryDirectory(dir=home.cache) as folder:
        classes, draft = Path(folder, "classes"), Path(folder, "archive")
        _use(Path(folder, "root"), home, [f"-XX:DumpLoadedClassList={classes}"])
        options = ["-Xshare:dump", f"-XX:SharedClassListFile={classes}", f"-XX:SharedArchiveFile={draft}"]
        done = subprocess.run(  # noqa: S603 - our own command line
            home.command("none", options=["-Xmx2g", *options, "-Xlog:disable"]),
            env=home.environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode or not draft.exists():
            said = (done.stdout + done.stderr).decode(errors="replace")[-1500:]
            raise EngineError.of("ENGINE_ERROR", f"Java could not archive Spark's classes: {said}", "HY000")
        draft.replace(home.archive)


def _use(root: Path, home: SparkHome, options: list[str]) -> None:
    """Run the statements on a server of their own."""
    backend = SparkBackend(CatalogTree(root, ("main",)), home.cache, options=options)
    servers = Servers(backend.launch, None, lambda: None)
    servers.start()
    try:
        client = ConnectClient(servers, session_id=new_session_id(), user_id="setup")
        session = backend.session(client)
        for statement in _STATEMENTS.split(";"):
            session.run(statement)
        client.release()
    finally:
        servers.stop()


def main() -> None:
    """Do what the first start would: fetch, compile, archive. Exit code 2 with a message when it fails."""
    try:
        home = SparkHome.find(None)
        home.prepare()
        make(home)
    except EngineError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    print(f"Spark {home.version} with {home.java} is ready in {home.cache}")  # noqa: T201


if __name__ == "__main__":
    main()
