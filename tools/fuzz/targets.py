"""What is fed, and what may come of it: an answer, or one of the errors that each declares."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import tempfile
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.fuzz import mutate

if TYPE_CHECKING:
    import requests
    from local_workspace import WorkspaceInfo
    from starlette.routing import Route

_FOLDER = "/Volumes/a/b/c/scratchpad/run_r1/iter_2"
_REQUEST = {
    "run_id": "r1", "iter_n": 2, "attempt": 1, "purpose": "count", "timeout_s": 60,
    "artifact": {"path": f"{_FOLDER}/entrypoint.py", "sha256": "0" * 64, "size": 3},
    "output_dir": _FOLDER, "codebase_dir": "/Volumes/a/b/company_codebase",
    "results_table": "a.b.execution_results", "catalog": "a", "schema": "b",
}  # fmt: skip
_MANIFEST = {"schema_version": 1, "kind": "program", "request": _REQUEST, "submit_payload": {}}
_RESULT = {
    "schema_version": 1, "run_id": "r1", "iter_n": 2, "attempt": 1, "status": "SUCCESS",
    "value": {"n": [1, "x"]},
    "stdout": {"text": "hello", "bytes": 5}, "error_type": None, "produced_tables": [],
    "metrics": {"n": 1.5},
}  # fmt: skip
_SCRIPT = {
    "planner": [[{"call": "run_python", "args": {"code": "print(1)", "purpose": "x"}}], [{"text": "done"}]],
    "summarizer": [[{"text": "short"}]],
    "sub": {"rules": [{"match": "a(b)", "text": "\\1"}]},
    "latency_s": 0,
}
_CAPSULE = {
    "objective": "count", "constraints": ["c"], "inputs": {"a": {"kind": "table", "name": "a.b.c"}},
    "decisions": [{"iter_n": 1, "text": "x"}], "tables": [{"name": "a.b.t", "columns": "x", "rows": 3}],
}  # fmt: skip
_MAPPING = {
    "table": "a.b.tickets", "columns": {"id": "id", "title": "t", "status": "s", "updated_at": "u"},
    "open_statuses": ["New"], "write": {"succeeded": "Done"},
}  # fmt: skip
_WORKFLOW = """
name: flow
loops:
  - name: b
    files: ["02_b_1.sql", "02_b_2.sql"]
    key_columns: [x]
    limit: 5
tables:
  a: {key: x, min_rows: 1}
"""
_FLOW = {
    "01_a.sql": "CREATE OR REPLACE TABLE a AS SELECT 1 AS x, 'it''s' AS y; -- ${v}",
    "02_b_1.sql": "CREATE OR REPLACE TABLE b1 AS SELECT x FROM a WHERE x > {{ v }}",
    "02_b_2.sql": "CREATE OR REPLACE TABLE b2 AS SELECT x FROM b1 UNION ALL SELECT 2",
    "03_c.sql": "MERGE INTO c USING b ON c.x = b.x WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT *",
}
_COMMANDS = (
    ("status", "r1"), ("status", "--limit", "3"), ("show", "r1", "--json"),
    ("logs", "r1", "--iteration", "1"), ("answer", "r1", "yes"), ("cancel", "r1", "--no-wait"),
    ("submit", "count", "--input", "a=main.x.y", "--check", "sql: SELECT 1 => 1"),
    ("submit", "x", "--max-iterations", "3", "--max-cost-usd", "0.5", "--run-id", "r9"),
    ("sql", "plan", "DIR", "--var", "a=b", "--format", "json"), ("tick", "--model", "scripted:FILE"),
    ("run", "x", "--model", "scripted:FILE", "--max-iterations", "1"), ("secrets", "check", "--json"),
)  # fmt: skip


class UnexpectedError(Exception):
    """An input led to something that no user should see."""


@dataclass(kw_only=True)
class Place:
    """A folder, and a workspace for the targets that need one."""

    folder: Path
    info: WorkspaceInfo | None = None
    session: requests.Session | None = None
    routes: list[tuple[str, str]] = field(default_factory=list)


def _parser(load: Callable[[bytes], Any], valid: Any) -> Callable[[random.Random, Place], None]:
    def feed(rng: random.Random, _place: Place) -> None:
        from databricks_rlm_agent.errors import RlmError

        with contextlib.suppress(RlmError):
            load(mutate.json_bytes(rng, valid))

    return feed


def _manifest(content: bytes) -> None:
    from databricks_rlm_agent.attempts.manifest import parse_intent

    parse_intent(content, where="fuzz")


def _result(content: bytes) -> None:
    from databricks_rlm_agent.attempts.result import Result

    Result.parse(content, where="fuzz")


def _capsule(content: bytes) -> None:
    from databricks_rlm_agent.runs.capsule.capsule import Capsule

    Capsule.parse(content.decode(errors="replace"))


def _mapping(content: bytes) -> None:
    from databricks_rlm_agent.intake.mapping import parse_mapping

    parse_mapping(content.decode(errors="replace"), where="fuzz")


def script(rng: random.Random, place: Place) -> None:
    """A script's file."""
    from databricks_rlm_agent.errors import RlmError
    from databricks_rlm_agent.planner.script import Script

    file = place.folder / "script.json"
    file.write_bytes(mutate.json_bytes(rng, _SCRIPT))
    with contextlib.suppress(RlmError):
        found = Script.read(str(file))
        found.reply("planner", 1, 1)


def work_row(rng: random.Random, _place: Place) -> None:
    """A row of a work table."""
    from databricks_rlm_agent.intake.items import WorkItem, decide

    title, description, status, mode = (rng.choice([None, mutate.text(rng), "PROD"]) for _ in range(4))
    item_id = mutate.text(rng) or "i"
    decide(
        [
            WorkItem(
                item_id=item_id, revision="1", title=title, description=description, status=status, mode=mode
            )
        ]
    )


def executor(rng: random.Random, place: Place) -> None:
    """The executor's arguments and manifest."""
    from executor_harness import protocol, verify
    from executor_harness.volumes import Volumes

    folder = place.folder / _FOLDER.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    request = mutate.document(rng, _REQUEST) if rng.random() < 0.7 else _REQUEST
    content = json.dumps({**_MANIFEST, "request": request}, default=str).encode()
    (folder / "manifest.json").write_bytes(content if rng.random() < 0.7 else mutate.octets(rng, content))
    digest = "0" * 64
    with contextlib.suppress(TypeError, ValueError):
        digest = protocol.digest(request)
    given = {
        "--manifest": f"{_FOLDER}/manifest.json", "--run-id": "r1", "--iter": "2", "--attempt": "1",
        "--request-sha256": digest,
    }  # fmt: skip
    if rng.random() < 0.3:
        given[rng.choice(list(given))] = mutate.text(rng)
    with contextlib.suppress(verify.UsageError, verify.Refused):
        arguments = verify.parse([part for pair in given.items() for part in pair])
        verify.read_request(arguments, Volumes(root=str(place.folder / "Volumes")))


def directory(rng: random.Random, _place: Place) -> None:
    """A directory of SQL, and its ``workflow.yml``."""
    from databricks_rlm_agent.errors import RlmError
    from databricks_rlm_agent.sqlflow.plan.plan import SqlSource, plan_of

    texts = {
        (name if rng.random() < 0.9 else f"{mutate.text(rng)}.sql"): mutate.sql(rng, body)
        for name, body in _FLOW.items()
    }
    declared = None
    if rng.random() < 0.5:
        declared = mutate.octets(rng, _WORKFLOW.encode()).decode(errors="replace")
    with contextlib.suppress(RlmError):
        plan_of(
            SqlSource(
                texts=texts, declared=declared, variables={"v": mutate.text(rng)}, catalog="a", schema="b"
            )
        )


def command(rng: random.Random, place: Place) -> None:
    """A command line, in this process, against the workspace."""
    from databricks_rlm_agent.cli.main import main

    assert place.info is not None
    file, folder = place.folder / "given.json", place.folder / "flow"
    folder.mkdir(exist_ok=True)
    (folder / "01_a.sql").write_text(mutate.sql(rng, _FLOW["01_a.sql"]), errors="replace")
    file.write_bytes(mutate.json_bytes(rng, _SCRIPT) if rng.random() < 0.5 else json.dumps(_SCRIPT).encode())
    words = [word.replace("DIR", str(folder)).replace("FILE", str(file)) for word in rng.choice(_COMMANDS)]
    for _ in range(rng.randint(0, 2)):
        at = rng.randrange(1, len(words) + 1)
        odd = str(mutate.odd(rng)).replace("\x00", "")  # the operating system passes no NUL
        words[at : at + rng.randint(0, 1)] = [odd if rng.random() < 0.7 else mutate.text(rng)]
    out, err = io.StringIO(), io.StringIO()
    with _environment(place.info), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            if not isinstance(end.code, int) or end.code > 2:
                raise UnexpectedError(f"{words}: exit code {end.code}") from None
    if "internal error" in err.getvalue() or "Traceback" in err.getvalue():
        raise UnexpectedError(f"{words}: {err.getvalue()[-800:]}")


@contextlib.contextmanager
def _environment(info: WorkspaceInfo) -> Any:
    given = {
        "DATABRICKS_HOST": info.host, "DATABRICKS_TOKEN": info.token,
        "RLM_WAREHOUSE_HTTP_PATH": info.http_path,
    }  # fmt: skip
    before = dict(os.environ)
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def rest(rng: random.Random, place: Place) -> None:
    """A REST request on one of the routes."""
    import re

    assert place.info is not None and place.session is not None  # noqa: PT018 - both or none
    method, route = rng.choice(place.routes)
    path = re.sub(r"\{minor:int\}", "1", route)
    path = re.sub(r"\{[^}]*\}", lambda _: urllib.parse.quote(_name(rng), safe="/"), path)
    body = mutate.json_bytes(
        rng, {"name": "x", "path": "/a", "statement": "SELECT 1", "run_id": 1, "tasks": [{}]}
    )
    odd = [str(mutate.odd(rng)).encode(errors="replace").decode() for _ in range(4)]
    query = dict(zip(odd[:2], odd[2:], strict=True)) if rng.random() < 0.5 else {}
    reply = place.session.request(
        method,
        place.info.host + path,
        data=None if method in {"GET", "HEAD"} else body,
        params=query,
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    if reply.status_code >= 500:
        raise UnexpectedError(
            f"{method} {path} {query} {body[:300]!r}: {reply.status_code} {reply.text[:300]}"
        )


def _name(rng: random.Random) -> str:
    given = mutate.text(rng) if rng.random() < 0.5 else str(mutate.odd(rng))
    return given.encode(errors="replace").decode() or "x"


def thrift(rng: random.Random, place: Place) -> None:
    """A body that is nearly a Thrift message."""
    assert place.info is not None and place.session is not None  # noqa: PT018 - both or none
    body = mutate.octets(rng, _open_session())
    url, headers = place.info.host + place.info.http_path, {"Content-Type": "application/x-thrift"}
    reply = place.session.post(url, data=body, headers=headers, timeout=60)
    if reply.status_code >= 500:
        raise UnexpectedError(f"{body!r}: {reply.status_code} {reply.text[:300]}")


def _open_session() -> bytes:
    from databricks.sql.thrift_api.TCLIService import TCLIService, ttypes
    from thrift.protocol.TBinaryProtocol import TBinaryProtocol
    from thrift.transport.TTransport import TMemoryBuffer

    buffer = TMemoryBuffer()
    request = ttypes.TOpenSessionReq(client_protocol=ttypes.TProtocolVersion.SPARK_CLI_SERVICE_PROTOCOL_V7)
    TCLIService.Client(TBinaryProtocol(buffer)).send_OpenSession(request)
    content: bytes = buffer.getvalue()
    return content


TARGETS: Mapping[str, Callable[[random.Random, Place], None]] = {
    "manifest": _parser(
        _manifest, {"schema_version": 1, "kind": "run", "request": _REQUEST, "submit_payload": {}}
    ),
    "result": _parser(_result, _RESULT),
    "capsule": _parser(_capsule, _CAPSULE),
    "mapping": _parser(_mapping, _MAPPING),
    "script": script,
    "work row": work_row,
    "executor": executor,
    "sql directory": directory,
    "command": command,
    "rest": rest,
    "thrift": thrift,
}
NEEDS_WORKSPACE = frozenset({"command", "rest", "thrift"})


@contextlib.contextmanager
def place(*, workspace: bool) -> Any:
    """A folder for the inputs, and a workspace of its own where one is needed."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, contextlib.ExitStack() as stack:
        found = Place(folder=Path(name))
        if workspace:
            import requests
            from local_workspace import WorkspaceOptions, spawn

            spawned = stack.enter_context(spawn(WorkspaceOptions(root=found.folder / "workspace")))
            found.info = spawned.info
            found.session = stack.enter_context(requests.Session())
            found.session.trust_env = False
            found.session.headers["Authorization"] = f"Bearer {spawned.info.token}"
            routes = served_routes(found.folder / "routes")
            found.routes = sorted((method, each.path) for each in routes for method in each.methods or ())
            with _environment(spawned.info):
                from databricks_rlm_agent.cli.main import main

                with contextlib.redirect_stdout(io.StringIO()):
                    main(["init"])
        yield found


def served_routes(folder: Path) -> list[Route]:
    """Return every route that a workspace serves, but for its fault control."""
    from types import SimpleNamespace

    from local_workspace import WorkspaceInfo, WorkspaceOptions
    from local_workspace.layout import Layout
    from local_workspace.services import SERVICES, load_routes
    from local_workspace.state import Database
    from local_workspace.workspace import Workspace

    layout = Layout(root=folder)
    layout.create()
    engine: Any = SimpleNamespace(catalog=None, connect_url_of=None, end_job=None)
    info = WorkspaceInfo(host="http://127.0.0.1:1", token="t", http_path="/p", root=str(folder), pid=1)
    with contextlib.closing(Database(layout.private / "state.db")) as database:
        workspace = Workspace(WorkspaceOptions(root=folder), info, layout, database, engine, None)
        return load_routes({module for modules in SERVICES.values() for module in modules}, workspace)
