"""A statement through the connector and the local warehouse, over the same one on the engine directly."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from local_workspace import WorkspaceOptions, spawn

from benchmarks.measure import Line, Report, in_turn, median, seconds
from benchmarks.places import connect, engine_alone

TARGET = 1.5
ROWS = 100_000
Run = Callable[[str], object]
# What, statement, rounds per repeat.
_STATEMENTS = (
    ("SELECT 1", "SELECT 1", 30),
    ("SELECT one row of a table", f"SELECT * FROM main.bench.numbers WHERE id = {ROWS // 2}", 15),
    ("UPDATE one row", "UPDATE main.bench.counters SET value = value + 1 WHERE id = 7", 10),
    (f"SELECT {ROWS:,} rows", "SELECT * FROM main.bench.numbers", 8),
)


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Ways to run a statement: through us, by pyspark-client, by bare messages."""

    ours: Run
    client: Run
    messages: Run


def statements(root: Path, repeat: int) -> Report:
    """Each side has tables of its own, with the same content and as many commits."""
    with engine_alone() as url, spawn(WorkspaceOptions(root=root / "workspace")) as workspace:
        connection, session, bare = connect(workspace.info), _session(url), _messages(url)
        sides = Sides(
            ours=partial(_by_connector, connection),
            client=lambda text: session.sql(text).toArrow(),
            messages=bare,
        )
        sides.ours("CREATE SCHEMA main.bench")
        sides.client(f"CREATE SCHEMA main.bench LOCATION '{root / 'client'}'")
        sides.messages(f"CREATE SCHEMA main.bench LOCATION '{root / 'messages'}'")
        for run in (sides.ours, sides.client, sides.messages):
            _fill(run)
        lines = [line for case in _STATEMENTS for line in _compared(*case, repeat, sides)]
        lines.append(_quiet(lines[-2].what, *_STATEMENTS[-1][1:], repeat, sides))
        connection.close()
        session.stop()
    return Report(
        lines=lines,
        notes=[
            "The floor is pyspark-client on a Sail server of its own: spark.sql(…).toArrow().",
            "'bare messages': the floor is one Spark Connect request per statement, without any client.",
            "'debug text apart': the connector formats every reply for a log that is off; here it does not.",
        ],
    )


def _compared(what: str, text: str, rounds: int, repeat: int, sides: Sides) -> list[Line]:
    ours, client, messages = _medians(text, rounds * repeat, sides.ours, sides.client, sides.messages)
    line = partial(_line, ours=ours, samples=rounds * repeat)
    return [
        line(what, floor=client, target=TARGET),
        line(f"{what} (bare messages)", floor=messages, target=None),
    ]


def _quiet(what: str, text: str, rounds: int, repeat: int, sides: Sides) -> Line:
    """Without ``"Received response: {}".format(response)``, which the connector 4.9 does for every reply."""
    from databricks.sql.thrift_api.TCLIService.ttypes import TSparkArrowBatch

    original = TSparkArrowBatch.__repr__

    def ours(text: str) -> object:
        TSparkArrowBatch.__repr__ = lambda _: "…"
        try:
            return sides.ours(text)
        finally:
            TSparkArrowBatch.__repr__ = original

    quiet, client = _medians(text, rounds * repeat, ours, sides.client)
    return _line(f"{what} (debug text apart)", ours=quiet, floor=client, target=None, samples=rounds * repeat)


def _medians(text: str, rounds: int, *runs: Run) -> list[float]:
    timed = [partial(seconds, partial(run, text)) for run in runs]
    return [median(samples) * 1000 for samples in in_turn(rounds, *timed, warm_up=3)]


def _line(what: str, *, ours: float, floor: float, target: float | None, samples: int) -> Line:
    return Line(
        bench="statements",
        what=what,
        ours=ours,
        floor=floor,
        unit="ms",
        compare="ratio",
        target=target,
        samples=samples,
    )


def _by_connector(connection: Any, text: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetchall_arrow()


def _session(url: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyspark.sql import SparkSession

        return SparkSession.builder.remote(url).create()


def _messages(url: str) -> Run:
    """One Spark Connect request for each statement, by the protocol alone."""
    import grpc
    import pyspark.sql.connect.proto as pb
    from pyspark.sql.connect.proto.base_pb2_grpc import SparkConnectServiceStub

    options = [("grpc.max_receive_message_length", -1)]
    stub = SparkConnectServiceStub(grpc.insecure_channel(url.removeprefix("sc://"), options=options))
    session, user = str(uuid.uuid4()), pb.UserContext(user_id="bench")

    def run(text: str) -> int:
        plan = pb.Plan(root=pb.Relation(sql=pb.SQL(query=text)))
        request = pb.ExecutePlanRequest(
            session_id=session, user_context=user, operation_id=str(uuid.uuid4()), plan=plan
        )
        return sum(len(reply.arrow_batch.data) for reply in stub.ExecutePlan(request))

    return run


def _fill(run: Run) -> None:
    run(
        "CREATE TABLE main.bench.numbers USING DELTA AS "
        f"SELECT id, concat('name ', id) AS name, id * 0.5D AS value FROM range({ROWS})"
    )
    run("CREATE TABLE main.bench.counters USING DELTA AS SELECT id, 0L AS value FROM range(100)")
