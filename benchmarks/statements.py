"""A statement through the connector and the local warehouse, over the same one on the engine directly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Line, Report, in_turn, median, seconds
from benchmarks.places import connect, engine_alone
from databricks_rlm_agent.localworkspace.client import spawn
from databricks_rlm_agent.localworkspace.options import WorkspaceOptions

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


def statements(root: Path, repeat: int) -> Report:
    """Both sides have tables of their own with the same content, and as many commits."""
    with engine_alone() as url, spawn(WorkspaceOptions(root=root / "workspace")) as workspace:
        connection, session, bare = connect(workspace.info), _session(url), _messages(url)
        contenders: list[Run] = [
            partial(_by_connector, connection),
            lambda text: session.sql(text).toArrow(),
            bare.sql,
        ]
        contenders[0]("CREATE SCHEMA main.bench")
        contenders[1](f"CREATE SCHEMA main.bench LOCATION '{root / 'alone'}'")
        bare.sql(f"CREATE SCHEMA main.bench LOCATION '{root / 'messages'}'")
        for run in contenders:
            _fill(run)
        lines = [line for case in _STATEMENTS for line in _compared(*case, repeat, contenders)]
        connection.close()
        session.stop()
    return Report(
        lines=lines,
        notes=[
            "The floor is pyspark-client on a Sail server of its own: spark.sql(…).toArrow().",
            "'bare messages': the floor is one Spark Connect request per statement, without any client.",
        ],
    )


def _compared(what: str, text: str, rounds: int, repeat: int, contenders: list[Run]) -> list[Line]:
    timed = [partial(seconds, partial(run, text)) for run in contenders]
    ours, client, bare = (median(samples) * 1000 for samples in in_turn(rounds * repeat, *timed, warm_up=3))
    return [
        Line(
            bench="statements",
            what=what + suffix,
            ours=ours,
            floor=floor,
            unit="ms",
            compare="ratio",
            target=target,
            samples=rounds * repeat,
        )
        for suffix, floor, target in (("", client, TARGET), (" (bare messages)", bare, None))
    ]


def _by_connector(connection: Any, text: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetchall_arrow()


def _session(url: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyspark.sql import SparkSession

        return SparkSession.builder.remote(url).create()


def _messages(url: str) -> Any:
    import grpc

    from databricks_rlm_agent.localworkspace.engine.session import new_session_id
    from databricks_rlm_agent.localworkspace.engine.wire import CHANNEL_OPTIONS, ConnectClient, connect_stub

    channel = grpc.insecure_channel(url.removeprefix("sc://"), options=CHANNEL_OPTIONS)
    return ConnectClient(connect_stub(channel), session_id=new_session_id(), user_id="bench")


def _fill(run: Run) -> None:
    run(
        "CREATE TABLE main.bench.numbers USING DELTA AS "
        f"SELECT id, concat('name ', id) AS name, id * 0.5D AS value FROM range({ROWS})"
    )
    run("CREATE TABLE main.bench.counters USING DELTA AS SELECT id, 0L AS value FROM range(100)")
