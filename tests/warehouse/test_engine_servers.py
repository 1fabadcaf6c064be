"""Engine servers are replaced under running sessions, and nobody notices."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import grpc
import pyspark.sql.connect.proto as pb
import pytest
from local_workspace.engine import Engine, EngineOptions, create_engine
from local_workspace.engine.errors import EngineError
from local_workspace.engine.servers import EngineServer, Servers
from local_workspace.engine.wire import connect_stub


def until(good: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not good():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Launches:
    """Counts the servers that were started and stopped."""

    def __init__(self) -> None:
        self.started = self.stopped = self.renewed = 0
        self.refuse = False

    def launch(self) -> EngineServer:
        if self.refuse:
            raise EngineError.of("ENGINE_UNAVAILABLE", "no", "08006")
        self.started += 1
        return EngineServer(channel=None, stub=None, stop=self.stop)

    def stop(self) -> None:
        self.stopped += 1

    def note(self) -> None:
        self.renewed += 1


def test_a_worn_server_ends_with_its_last_session() -> None:
    launches = Launches()
    servers = Servers(launches.launch, 3, launches.note)
    servers.start()
    first, same = servers.enter(), servers.enter()
    assert first is same
    for _ in range(3):
        servers.count(first)
    until(lambda: launches.renewed == 1)
    second = servers.enter()
    assert second is not first
    assert servers.is_newest(second)
    servers.leave(first)
    assert (len(servers), launches.stopped) == (2, 0)
    servers.leave(first)
    assert (len(servers), launches.stopped) == (1, 1)
    servers.leave(second)  # the newest stays, though nobody is there
    assert len(servers) == 1
    servers.stop()
    assert launches.stopped == launches.started == 2
    with pytest.raises(EngineError, match="not running"):
        servers.enter()


def test_a_server_that_cannot_be_replaced_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    launches = Launches()
    servers = Servers(launches.launch, 2, launches.note)
    servers.start()
    launches.refuse = True
    server = servers.enter()
    servers.count(server)
    servers.count(server)
    until(lambda: server.statements == 0)
    assert servers.enter() is server
    assert "could not be renewed" in capsys.readouterr().err
    launches.refuse = False
    servers.count(server)
    servers.count(server)
    until(lambda: launches.renewed == 1)
    servers.stop()


@pytest.fixture
def restless(tmp_path: Path) -> Iterator[Engine]:
    """An engine that renews its server after every 20 statements."""
    engine = create_engine(EngineOptions(root=tmp_path, catalogs=("main",), renew_after=20))
    engine.start()
    yield engine
    engine.stop()


def test_sessions_move_between_statements(restless: Engine) -> None:
    restless.catalog.create_schema("main", "s")
    idle = restless.session(catalog="main", schema="s")
    busy = restless.session(catalog="main", schema="s")
    busy.execute("CREATE TABLE t AS SELECT 0 AS n")
    first = busy._session.client.server
    for _ in range(30):
        busy.execute("UPDATE t SET n = n + 1")
    until(lambda: first not in restless.servers._alive)  # the idle session was taken along, so it could end
    assert len(restless.servers) == 1
    assert busy._session.client.server is not first
    assert busy.execute("SELECT n FROM t").table.to_pylist() == [{"n": 30}]
    assert idle.execute("SELECT n FROM t").table.to_pylist() == [{"n": 30}]


def test_what_lives_in_the_session_only_keeps_it_in_place(restless: Engine) -> None:
    session = restless.session()
    session.execute("CREATE TEMPORARY VIEW mine AS SELECT 1 AS n")
    first = session._session.client.server
    other = restless.session()
    until(lambda: not other.execute("SELECT 1").table.num_rows or len(restless.servers) == 2)
    for _ in range(30):
        assert session.execute("SELECT n FROM mine").table.to_pylist() == [{"n": 1}]
    assert session._session.client.server is first
    session.close()
    until(lambda: first not in restless.servers._alive)


def test_a_session_whose_schema_is_gone_stays(restless: Engine) -> None:
    restless.catalog.create_schema("main", "gone")
    session = restless.session(catalog="main", schema="gone")
    restless.catalog.drop_schema("main", "gone")
    other = restless.session()
    until(lambda: not other.execute("SELECT 1").table.num_rows or len(restless.servers) == 2)
    assert session.execute("SELECT 1 AS n").table.to_pylist() == [{"n": 1}]


def test_statements_in_several_threads_while_servers_change(restless: Engine) -> None:
    restless.session().execute("CREATE TABLE main.default.t (who INT, n INT)")
    failures: list[BaseException] = []

    def work(who: int) -> None:
        session = restless.session()
        try:
            for n in range(15):
                session.execute("INSERT INTO main.default.t VALUES (:who, :n)", {"who": who, "n": n})
        except BaseException as error:
            failures.append(error)
        session.close()

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    counted = restless.session().execute(
        "SELECT count(*) AS n, count(DISTINCT who, n) AS d FROM main.default.t"
    )
    assert counted.table.to_pylist() == [{"n": 60, "d": 60}]


class Client:
    """A job's Spark Connect session, without pyspark's global state."""

    def __init__(self, engine: Engine, job: str) -> None:
        address, _, parameters = engine.connect_url_of(job).removeprefix("sc://").partition("/;")
        name, _, value = parameters.partition(";")[2].partition("=")
        self._header = ((name, unquote(value)),)
        self._channel = grpc.insecure_channel(address)
        self._stub = connect_stub(self._channel)
        self._who = {"session_id": str(uuid.uuid4()), "user_context": pb.UserContext(user_id="u")}

    def count(self) -> int:
        plan = pb.Plan(root=pb.Relation(range=pb.Range(start=0, end=3, step=1)))
        request = pb.ExecutePlanRequest(plan=plan, **self._who)
        answers = self._stub.ExecutePlan(request, metadata=self._header)
        return sum(answer.arrow_batch.row_count for answer in answers)

    def close(self) -> None:
        self._stub.ReleaseSession(pb.ReleaseSessionRequest(**self._who), metadata=self._header)
        self._channel.close()


def test_a_jobs_sessions_end_with_it(engine: Engine) -> None:
    def sessions() -> int:
        return sum(server.sessions for server in engine.servers._alive)

    before = sessions()
    ours = [Client(engine, "7") for _ in range(2)]
    other = Client(engine, "8")
    assert [client.count() for client in (*ours, other)] == [3, 3, 3]
    assert sessions() == before + 3
    engine.end_job("7")
    assert sessions() == before + 1
    assert other.count() == 3
    other.close()
    assert sessions() == before
    for job in ("8", "7", "none"):  # nothing is left to end
        engine.end_job(job)
    for client in ours:  # their token has ended, too
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            client.count()
    assert sessions() == before
