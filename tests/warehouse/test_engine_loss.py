"""An engine that dies, hangs or obeys no cancel is replaced, and sessions and tables are there again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from local_workspace import threads
from local_workspace.engine import Engine, EngineOptions, EngineSession, create_engine
from local_workspace.engine.errors import EngineError
from local_workspace.engine.servers import EngineServer, Pulse, Servers, Signs, judge, processor_seconds

# One that takes hours, on either engine.
HEAVY = "SELECT count(*) AS n FROM range(1000000) a, range(1000000) b WHERE a.id * b.id % 7 = 3"


def until(good: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 150
    while not good():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Engine]:
    """An engine of the test's own, to be killed."""
    engine = create_engine(EngineOptions(root=tmp_path))
    engine.start()
    yield engine
    engine.stop()


def newest(engine: Engine) -> EngineServer:
    server = engine.servers._newest
    assert server is not None
    return server


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []

    def run() -> None:
        try:
            found.append(work())
        except EngineError as error:
            found.append(error.condition)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


@pytest.mark.fault("A1")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_hung_engine_is_replaced(mortal: Engine, how: signal.Signals) -> None:
    session, other = mortal.session(), mortal.session()
    session.execute("CREATE TABLE main.default.t AS SELECT 7 AS n")
    other.execute("CREATE TEMPORARY VIEW v AS SELECT 1 AS n")
    lost = newest(mortal)
    assert lost.process
    running, found = in_thread(lambda: session.execute(HEAVY))
    until(lambda: lost.running == 1)
    os.kill(lost.process, how)
    until(lambda: lost.lost and mortal.servers._newest not in {None, lost})
    running.join()
    assert found == ["ENGINE_UNAVAILABLE"]  # SQLSTATE 08006: the outcome is not known, so try again
    assert session.execute("SELECT n FROM main.default.t").table.to_pylist() == [{"n": 7}]
    with pytest.raises(EngineError, match="Invalid SessionHandle") as raised:  # and never other rows
        other.execute("SELECT n FROM v")
    assert raised.value.condition == "INVALID_HANDLE.SESSION_CHANGED"
    assert mortal.session().execute("SELECT 1 AS n").table.num_rows == 1
    assert lost.exited()
    assert len(mortal.servers) == 1


@pytest.mark.fault("A1")
@pytest.mark.reference_engine
def test_a_dead_reference_engine_is_replaced(mortal: Engine) -> None:
    session = mortal.session()
    session.execute("CREATE TABLE main.default.t AS SELECT 7 AS n")
    lost = newest(mortal)
    assert lost.process
    os.kill(lost.process, signal.SIGKILL)
    until(lambda: mortal.servers._newest not in {None, lost})
    assert session.execute("SELECT n FROM main.default.t").table.to_pylist() == [{"n": 7}]


@pytest.mark.fault("A1")
@pytest.mark.fault("A20")
def test_others_are_answered_beside_a_heavy_statement_and_a_cancel_is_obeyed(mortal: Engine) -> None:
    session, other = mortal.session(), mortal.session()
    server = newest(mortal)
    running, found = in_thread(lambda: session.execute(HEAVY))
    until(lambda: server.running == 1)
    assert other.execute("SELECT 1 AS n").table.num_rows == 1
    used = processor_seconds(server.process) or 0.0
    # Cancelled before it has begun at the engine, it would never compute.
    until(lambda: (processor_seconds(server.process) or 0.0) > used + 0.5)
    session.cancel()
    running.join()
    assert found == ["OPERATION_CANCELED"]
    # Sail goes on computing for nobody: the server is replaced. Spark obeys.
    until(lambda: server.lost or server.obeys)
    assert session.execute("SELECT 1 AS n").table.num_rows == 1


@pytest.mark.fault("A1")
def test_a_job_whose_engine_died_is_told_of(mortal: Engine) -> None:
    from local_workspace.engine.wire import connect_stub

    told: list[str] = []
    mortal.on_job_lost = told.append
    client = ConnectJob(mortal, "7", connect_stub)
    assert client.count() == 3
    server = newest(mortal)
    assert server.process
    os.kill(server.process, signal.SIGKILL)
    until(lambda: told == ["7"])
    with pytest.raises(grpc.RpcError, match=r"INVALID_HANDLE\.SESSION_CHANGED"):
        client.count()


class ConnectJob:
    """A job's Spark Connect session, without pyspark's global state."""

    def __init__(self, engine: Engine, job: str, stub: Callable[[grpc.Channel], object]) -> None:
        import uuid

        import pyspark.sql.connect.proto as pb

        address, _, rest = engine.connect_url_of(job).removeprefix("sc://").partition("/;")
        self._header = (("authorization", rest.partition("authorization=")[2].replace("%20", " ")),)
        self._stub: object = stub(grpc.insecure_channel(address))
        self._who = {"session_id": str(uuid.uuid4()), "user_context": pb.UserContext(user_id="u")}

    def count(self) -> int:
        import pyspark.sql.connect.proto as pb

        plan = pb.Plan(root=pb.Relation(range=pb.Range(start=0, end=3, step=1)))
        request = pb.ExecutePlanRequest(plan=plan, **self._who)
        answers = self._stub.ExecutePlan(request, metadata=self._header)  # type: ignore[attr-defined]
        return sum(answer.arrow_batch.row_count for answer in answers)


@pytest.mark.fault("A1")
@pytest.mark.parametrize(
    ("signs", "verdict"),
    [
        (Signs(), "keep"),
        (Signs(exited=True), "replace"),
        (Signs(silent=2, still=True), "keep"),
        (Signs(silent=3, still=True, running=1), "replace"),
        (Signs(silent=3, running=1), "renew"),
        (Signs(silent=3, running=1, newest=False), "keep"),
        (Signs(silent=3), "replace"),
        (Signs(busy_s=10), "replace"),
        (Signs(busy_s=10, running=1), "renew"),
        (Signs(busy_s=9), "keep"),
    ],
)
def test_what_is_done_about_a_server(signs: Signs, verdict: str) -> None:
    assert judge(signs)[0] == verdict


class Patient:
    """A server whose signs the test sets."""

    def __init__(self) -> None:
        self.process, self.running, self.cancelled, self.obeys = 1, 0, False, False
        self.now, self.used, self.answering = 0.0, 0.0, True

    def exited(self) -> bool:
        return False

    def answers(self, _seconds: float) -> bool:
        return self.answering


def test_the_pulse_of_a_server() -> None:
    server = Patient()
    pulse = Pulse(server, clock=lambda: server.now, used=lambda _pid: server.used)

    def take(seconds: float, used: float) -> Signs:
        server.now, server.used = server.now + seconds, server.used + used
        return pulse.take(newest=True)

    assert take(1, 0) == Signs()
    server.answering = False
    assert take(2, 0) == Signs(silent=1, still=True)
    assert take(2, 2) == Signs(silent=2)
    server.answering, server.cancelled = True, True
    assert take(1, 1) == Signs()
    assert take(6, 6) == Signs(busy_s=6)
    assert take(1, 0) == Signs()  # it has obeyed
    assert not server.cancelled
    assert take(9, 9) == Signs()  # nobody has cancelled anything


@pytest.mark.fault("A1")
def test_the_server_ends_with_a_word_when_no_engine_starts_any_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    launches: list[EngineServer] = []

    class Dead(EngineServer):
        def exited(self) -> bool:
            return True

    def launch() -> EngineServer:
        if launches:
            raise EngineError.of("ENGINE_UNAVAILABLE", "no memory", "08006")
        launches.append(Dead(channel=None, stub=None, stop=lambda: None))
        return launches[0]

    reasons: list[str] = []
    threads.on_fatal(reasons.append)
    servers = Servers(launch, None, lambda: None)
    servers.start()
    until(lambda: bool(reasons))
    threads.on_fatal(None)
    assert "no other one starts: [ENGINE_UNAVAILABLE] no memory" in reasons[0]
    assert "The local workspace ends: its engine has ended" in capsys.readouterr().err
    with pytest.raises(EngineError, match="not running"):
        servers.enter()
    servers.stop()


@pytest.mark.fault("A1")
@pytest.mark.fault("A23")
def test_no_thread_dies_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    reasons: list[str] = []
    threads.on_fatal(reasons.append)

    def fail() -> None:
        raise RuntimeError("out of luck")

    threads.begin("some-work", fail).join()
    assert reasons == []
    threads.begin("vital-work", fail, essential=True).join()
    threads.on_fatal(None)
    assert reasons == ["its thread vital-work failed (RuntimeError: out of luck)"]
    said = capsys.readouterr().err
    assert "The thread some-work ended: Traceback" in said
    assert said.count("RuntimeError: out of luck") == 3


def test_threads_begin_in_one_place_only() -> None:
    source = Path(threads.__file__).parent
    found = [path.name for path in source.rglob("*.py") if "Thread(" in path.read_text()]
    assert sorted(found) == ["sailprocess.py", "threads.py"]  # the former is a process of its own


def test_a_session_of_a_renewed_engine_goes_on(mortal: Engine) -> None:
    session: EngineSession = mortal.session()
    with mortal.servers._guard:
        mortal.servers._worn = True
        mortal.servers._guard.notify_all()
    first = session._session.client.server
    until(lambda: session._session.client.server is not first)
    assert session.execute("SELECT 1 AS n").table.num_rows == 1


@pytest.mark.fault("B1")
def test_the_spark_connect_endpoint_wants_a_token(mortal: Engine) -> None:
    from local_workspace.engine.wire import connect_stub

    client = ConnectJob(mortal, "7", connect_stub)
    assert client.count() == 3
    for header in (
        (),
        (("authorization", "Bearer wrong"),),
        (("authorization", ""),),
        (("x-local-job", "7"),),
    ):
        client._header = header
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            client.count()


@pytest.mark.fault("B1")
def test_a_job_does_not_get_at_another_jobs_session(mortal: Engine) -> None:
    from local_workspace.engine.wire import connect_stub

    one, other = (ConnectJob(mortal, job, connect_stub) for job in ("7", "8"))
    assert [one.count(), other.count()] == [3, 3]
    other._who = one._who
    with pytest.raises(grpc.RpcError, match="SESSION_CHANGED"):
        other.count()


@pytest.mark.fault("B1")
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux")
def test_the_engines_own_port_lets_nobody_in(mortal: Engine) -> None:
    """Every port of this machine on which somebody listens is tried, without a credential."""
    import pyspark.sql.connect.proto as pb
    from local_workspace.engine.wire import connect_stub

    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    rows += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    mine = listening(
        newest(mortal).process, {row[9]: int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
    )
    if not newest(mortal).obeys:  # Sail asks for no credential, so there must be no port
        assert mine == []
    for port in mine:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = pb.ConfigRequest(session_id="00000000-0000-0000-0000-000000000000")
            with pytest.raises(grpc.RpcError, match=r"UNAUTHENTICATED|UNAVAILABLE"):
                connect_stub(channel).Config(request, timeout=60)


def listening(pid: int | None, ports: dict[str, int]) -> list[int]:
    """The ports on which a process listens in the machine's network; `ports` by the socket's inode."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(link.readlink()))
        except OSError:  # closed meanwhile
            continue
    found = [link[len("socket:[") : -1] for link in links if link.startswith("socket:[")]
    return [ports[inode] for inode in found if inode in ports]


@pytest.mark.fault("A1")
def test_an_endpoint_of_jobs_that_answers_nobody_ends_the_workspace(
    mortal: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from local_workspace.engine import proxy

    monkeypatch.setattr(proxy, "_WATCH_SECONDS", 0.01)
    reasons: list[str] = []
    threads.on_fatal(reasons.append)
    mortal._proxy._server.stop(grace=0).wait()
    until(lambda: bool(reasons))
    threads.on_fatal(None)
    assert reasons == ["its Spark Connect endpoint answers nobody any more"]
