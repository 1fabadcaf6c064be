"""The Statement Execution API as Databricks' drivers use it: sessions, Arrow, links, compression."""

from __future__ import annotations

import base64
import csv
import io
import json
import threading
from typing import Any
from urllib.parse import urlsplit

import lz4.frame
import pyarrow as pa
import pytest
import requests
from local_workspace import WorkspaceInfo
from local_workspace.errors import ApiError
from local_workspace.http import Call
from local_workspace.services import statement_results
from local_workspace.services.statements import Statements
from local_workspace.signed import LIFETIME_S, Signer
from lw_support import eventually

BASE = "/api/2.0/sql"


class Driver:
    """Posts statements in one session."""

    def __init__(self, http: requests.Session, host: str) -> None:
        self.http, self.url = http, host + BASE
        self.session = self.ask(
            "POST", "/sessions", warehouse_id="local", session_confs={"ansi_mode": "false"}
        )

    def ask(self, method: str, path: str, *, status: int = 200, **body: Any) -> Any:
        response = self.http.request(method, self.url + path, json=body, timeout=60)
        assert response.status_code == status, response.text
        return response.json()

    def run(self, statement: str, status: int = 200, **options: Any) -> Any:
        asked = {
            "statement": statement,
            "warehouse_id": "local",
            "wait_timeout": "50s",
            **self.session,
            **options,
        }
        return self.ask("POST", "/statements", status=status, **asked)


@pytest.fixture
def driver(http: requests.Session, info: WorkspaceInfo) -> Driver:
    return Driver(http, info.host)


def table_of(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


def fetched(url: str) -> bytes:
    """Get a link as a client does: without the token."""
    response = requests.get(url, timeout=60)
    assert response.status_code == 200, response.text
    return response.content


def test_statements_of_a_session_share_its_settings_and_views(driver: Driver) -> None:
    driver.run("CREATE TEMPORARY VIEW mine AS SELECT 7 AS n")
    assert driver.run("SELECT n, CAST('x' AS INT) FROM mine")["result"]["data_array"] == [["7", None]]
    assert driver.ask("DELETE", f"/sessions/{driver.session['session_id']}") == {}
    assert driver.run("SELECT 1", status=404)["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    for wrong in (
        {"catalog": "nope"},
        {"catalog": ["main"]},
        {"session_confs": "x"},
        {"session_confs": {"nope": 1}},
    ):
        driver.ask("POST", "/sessions", status=400, warehouse_id="local", **wrong)
    driver.ask("POST", "/sessions", status=404, warehouse_id="other")


def test_arrow_comes_by_links_in_chunks(driver: Driver) -> None:
    done = driver.run(
        "SELECT id, repeat('x', 100) AS t FROM range(200000)",
        format="ARROW_STREAM",
        disposition="EXTERNAL_LINKS",
        result_compression="LZ4_FRAME",
    )
    manifest = done["manifest"]
    assert manifest["total_chunk_count"] > 1
    assert manifest["result_compression"] == "LZ4_FRAME"
    links = done["result"]["external_links"]
    assert [link["chunk_index"] for link in links] == list(range(manifest["total_chunk_count"]))
    assert [link.get("next_chunk_index") for link in links] == [*range(1, len(links)), None]
    tables = [table_of(lz4.frame.decompress(fetched(link["external_link"]))) for link in links]
    assert [table.num_rows for table in tables] == [link["row_count"] for link in links]
    assert pa.concat_tables(tables).column("id").to_pylist() == list(range(200000))


@pytest.mark.parametrize("wanted", ["ARROW_STREAM", "JSON_ARRAY", "CSV"])
def test_links_come_in_batches_that_leave_out_nothing(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_LINKS": 3, "_CHUNK_ROWS": 100, "_CHUNK_BYTES": 800}.items():
        monkeypatch.setattr(statement_results, name, value)
    delivery = statement_results.Delivery(format=wanted, disposition="EXTERNAL_LINKS")
    table = pa.table({"n": pa.array(range(1001), pa.int64())})
    result = statement_results.Result(table, delivery, "/chunks", Signer("", "token"))
    described = result.describe()
    answers = [described["result"]["external_links"]]
    while (index := answers[-1][-1].get("next_chunk_index")) is not None:
        answers.append(result.chunk(index).as_dict()["external_links"])
    assert [len(links) for links in answers] == [3, 3, 3, 2]
    links = [link for batch in answers for link in batch]
    assert [link["chunk_index"] for link in links] == list(range(described["manifest"]["total_chunk_count"]))
    files = [result.file(index) for index in range(11)]
    if wanted == "ARROW_STREAM":
        counts = [table_of(file).num_rows for file in files]
    else:
        counts = [len(json.loads(f) if wanted == "JSON_ARRAY" else f.split()[1:]) for f in files]
    assert [100] * 10 + [1] == counts == [link["row_count"] for link in links]


def test_a_chunk_has_its_length_by_which_one_cut_short_is_known(driver: Driver) -> None:
    done = driver.run("SELECT id FROM range(300000)", format="ARROW_STREAM", disposition="EXTERNAL_LINKS")
    answer = requests.get(done["result"]["external_links"][0]["external_link"], timeout=60)
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert table_of(answer.content).num_rows == 300000


def test_a_small_result_is_attached_where_links_are_not_needed(driver: Driver) -> None:
    wanted = {"format": "ARROW_STREAM", "disposition": "INLINE_OR_EXTERNAL_LINKS"}
    done = driver.run("SELECT 5 AS n, array(1, 2) AS a", **wanted)
    attached = table_of(base64.b64decode(done["result"]["attachment"]))
    assert attached.to_pylist() == [{"n": 5, "a": [1, 2]}]
    large = driver.run("SELECT id FROM range(300000)", **wanted, row_limit=250000)
    assert large["manifest"]["truncated"]
    assert table_of(fetched(large["result"]["external_links"][0]["external_link"])).num_rows == 250000


def test_csv_and_json_by_links_and_no_rows(driver: Driver) -> None:
    linked = {"disposition": "EXTERNAL_LINKS"}
    done = driver.run("SELECT 'a,b' AS t, NULL AS n", format="CSV", **linked)
    text = fetched(done["result"]["external_links"][0]["external_link"]).decode()
    assert list(csv.reader(io.StringIO(text))) == [["t", "n"], ["a,b", "null"]]
    done = driver.run("SELECT 1 AS n", **linked)
    assert fetched(done["result"]["external_links"][0]["external_link"]) == b'[["1"]]'
    empty = driver.run("SELECT 1 AS n WHERE 1 = 0", format="ARROW_STREAM", **linked)
    assert empty["manifest"]["total_chunk_count"] == 0
    assert "external_links" not in empty.get("result", {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "ARROW_STREAM"},
        {"format": "XML"},
        {"disposition": "BY_MAIL"},
        {"result_compression": ["ZIP"], "disposition": "EXTERNAL_LINKS"},
        {"result_compression": "ZIP", "disposition": "EXTERNAL_LINKS"},
    ],
)
def test_what_there_is_not_is_refused(driver: Driver, wrong: dict[str, Any]) -> None:
    assert driver.run("SELECT 1", status=400, **wrong)["error_code"] == "INVALID_PARAMETER_VALUE"


def test_parameters_in_order(driver: Driver) -> None:
    parameters = [{"type": "INT", "value": "2"}, {"type": "STRING", "value": "it's"}, {"type": "VOID"}]
    done = driver.run("SELECT ? * 2, ?, ? IS NULL", parameters=parameters)
    assert done["result"]["data_array"] == [["4", "it's", "true"]]


def test_a_closed_statement_is_gone(driver: Driver) -> None:
    done = driver.run("SELECT 1 AS n", disposition="EXTERNAL_LINKS")
    link, path = done["result"]["external_links"][0]["external_link"], f"/statements/{done['statement_id']}"
    assert fetched(link)
    driver.ask("DELETE", path)
    driver.ask("GET", path, status=404)
    assert requests.get(link, timeout=60).status_code == 404


def test_a_link_admits_to_what_it_is_for_and_for_a_while(info: WorkspaceInfo, driver: Driver) -> None:
    link = driver.run("SELECT 1", disposition="EXTERNAL_LINKS")["result"]["external_links"][0][
        "external_link"
    ]
    assert requests.post(link, timeout=60).status_code == 403
    assert requests.get(link.replace("chunks/0", "chunks/1"), timeout=60).status_code == 403
    assert requests.get(link.replace("expires=", "expires=9"), timeout=60).status_code == 403
    assert requests.get(link.partition("?")[0], timeout=60).status_code == 401
    parts = urlsplit(link)
    signer = Signer(info.host, info.token)
    assert signer.admits("GET", parts.path, parts.query.encode())
    assert not Signer(info.host, "another").admits("GET", parts.path, parts.query.encode())
    assert signer.url("GET", "/x")[1] > LIFETIME_S


def test_a_link_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer("http://h", "token")
    url, ends = signer.url("GET", "/a b/ü", {"k": "v&w"})
    query = urlsplit(url).query.encode()
    assert signer.admits("GET", "/a b/ü", query)
    monkeypatch.setattr("local_workspace.signed.time.time", lambda: float(ends))
    assert not signer.admits("GET", "/a b/ü", query)


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: value} for name in ("row_limit", "byte_limit") for value in (-1, 1.5, "x", [1], True)),
        *({"wait_timeout": value} for value in (5, ["5s"], "²s", "51s", "9" * 5000 + "s")),
        *({"parameters": value} for value in ("x", ["x"], {"a": 1}, 5)),
        {"parameters": [{"name": "a", "value": "x", "type": "INT"}]},
        {"parameters": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]},
        {"parameters": [{"name": "a", "value": "1"}, {"value": "2"}]},
        {"on_wait_timeout": "STOP"},
        {"catalog": 5},
        {"schema": ["x"]},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_what_cannot_be_read_is_refused_before_it_runs(driver: Driver, wrong: dict[str, Any]) -> None:
    refused = driver.run("CREATE TABLE main.default.never (n INT)", status=400, **wrong)
    assert refused["error_code"] == "INVALID_PARAMETER_VALUE"
    assert driver.run("SHOW TABLES IN main.default LIKE 'never'")["manifest"]["total_row_count"] == 0


@pytest.mark.parametrize("path", ["chunks/{}", "chunks/{}/data"])
def test_a_number_of_thousands_of_digits_is_of_no_chunk(driver: Driver, path: str) -> None:
    done = driver.run("SELECT 1")
    driver.ask("GET", f"/statements/{done['statement_id']}/result/{path.format('9' * 5000)}", status=404)


def test_what_is_not_compressed_or_not_inline_is_not_called_so(driver: Driver) -> None:
    either = {"disposition": "INLINE_OR_EXTERNAL_LINKS", "result_compression": "LZ4_FRAME"}
    done = driver.run("SELECT 1 AS n", **either)
    assert done["result"]["data_array"] == [["1"]]
    assert "result_compression" not in done["manifest"]
    done = driver.run("SELECT 1 AS n", format="CSV", **either)
    link = done["result"]["external_links"][0]["external_link"]
    assert lz4.frame.decompress(fetched(link)) == b"n\r\n1\r\n"


def waited(driver: Driver, statement: str) -> str:
    """The state of a statement that has ended."""
    path = f"/statements/{statement}"
    done = eventually(
        lambda: driver.ask("GET", path), lambda it: it["status"]["state"] not in {"PENDING", "RUNNING"}
    )
    return str(done["status"]["state"])


COUNT = "SELECT count(*) FROM range({}) WHERE hash(id) % 7 = 3"
ENDLESS = COUNT.format(10**13)


def begun(driver: Driver, statement: str) -> str:
    """The id of a statement that has left the queue."""
    made: str = driver.run(statement, wait_timeout="0s")["statement_id"]
    eventually(lambda: driver.ask("GET", f"/statements/{made}")["status"]["state"], "PENDING".__ne__)
    return made


def test_a_cancel_is_of_one_statement_of_a_session(driver: Driver) -> None:
    endless, other = begun(driver, ENDLESS), begun(driver, COUNT.format(10**9))
    driver.ask("POST", f"/statements/{endless}/cancel")
    assert [waited(driver, endless), waited(driver, other)] == ["CANCELED", "SUCCEEDED"]


def test_what_ran_in_a_session_that_ends_has_no_result(driver: Driver) -> None:
    endless = begun(driver, ENDLESS)
    driver.ask("DELETE", f"/sessions/{driver.session['session_id']}")
    assert waited(driver, endless) == "FAILED"


def test_statements_that_have_ended_are_forgotten_behind_one_that_runs() -> None:
    class Ran:
        def __init__(self) -> None:
            self.table = pa.table({"n": [1]})

    release = threading.Event()

    class Session:
        def execute(self, sql: str, *_: Any, **__: Any) -> Ran:
            assert sql != "slow" or release.wait(60)
            return Ran()

        def close(self) -> None:
            pass

    class Engine:
        def session(self, **_: Any) -> Session:
            return Session()

    statements = Statements(Engine(), Signer("", "token"))  # type: ignore[arg-type] # of it, this much

    def run(sql: str, wait: str = "50s") -> Any:
        body = {"warehouse_id": "local", "statement": sql, "wait_timeout": wait}
        return statements.execute(Call(body=body))["statement_id"]

    slow = run("slow", "0s")
    try:
        quick = [run("quick") for _ in range(101)]
        with pytest.raises(ApiError, match="was not found"):
            statements.get(Call(path={"id": quick[0]}))
        for kept in (slow, quick[-1]):
            assert statements.get(Call(path={"id": kept}))["statement_id"] == kept
    finally:
        release.set()
