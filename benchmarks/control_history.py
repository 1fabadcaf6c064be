"""An idle tick, all of whose runs wait for their jobs, by the rows that have piled up behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.control_stage import Stage, bench_id, commits
from benchmarks.control_ticks import quiet_workspace
from benchmarks.measure import Line, Report, in_turn, median, progress, size
from databricks_rlm_agent.attempts.records import EventRow, RequestRow, ResultRow, result_row
from databricks_rlm_agent.attempts.result import Result, Status
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import LastRequest, RunOutcome
from databricks_rlm_agent.storage.schema import RowType, RunStateRow, columns
from databricks_rlm_agent.storage.stores import to_row

TARGET = 1.2
WAITING, LITTLE, MUCH, COMMITS = 1000, 1000, 100_000, 1000
_ROUNDS, _WARM_UP = 12, 2
_REQUEST = LastRequest(
    databricks_run_id=1,
    request_sha256="0" * 64,
    output_dir="/Volumes/main/rlm/artifacts/scratchpad/run_bench/iter_1",
    purpose="bench",
    timeout_s=3600,
    submitted_at=datetime(2026, 1, 1, tzinfo=UTC),
)
_LEDGERS: tuple[RowType, ...] = (ResultRow, RequestRow, EventRow)


@dataclass(frozen=True, kw_only=True)
class Past:
    """What lies behind: rows in each of some tables, and in how many commits they came."""

    schema: str
    what: str
    rows: int
    tables: tuple[RowType, ...] = _LEDGERS
    commits: int = 1


_BASE = Past(schema="little", what="little", rows=LITTLE)


def _pasts() -> tuple[Past, ...]:
    rows, many = size(MUCH, 2_000), size(COMMITS, 20)
    runs: tuple[RowType, ...] = (RunStateRow,)
    ledgers, ended = f"{rows:,} rows in each ledger", f"{rows:,} ended runs"
    return (
        Past(schema="much", what=ledgers, rows=rows),
        Past(schema="small", what=f"{ledgers} in {many:,} commits", rows=rows, commits=many),
        Past(schema="ended", what=ended, rows=rows, tables=runs),
        Past(schema="endedsmall", what=f"{ended} in {many:,} commits", rows=rows, tables=runs, commits=many),
    )


def history(root: Path, repeat: int) -> Report:
    """All schemas in one workspace, ticked in turn."""
    pasts, waiting = _pasts(), size(WAITING, 50)
    with quiet_workspace(root) as info, ExitStack() as stack:
        stages = []
        for past in (_BASE, *pasts):
            progress(f"fill the schema {past.schema}")
            stage = Stage.open(info, past.schema)
            stack.callback(stage.app.close)
            _fill(stage, past, waiting)
            stages.append(stage)
        written = [commits(Path(info.root), stage.namespace) for stage in stages[1:]]
        ticked = in_turn(_ROUNDS * repeat, *(stage.tick for stage in stages), warm_up=_WARM_UP)
    base, *others = (median([tick.seconds for tick in side]) * 1000 for side in ticked)
    lines = [
        Line(
            bench="control",
            what=f"idle tick, {waiting:,} wait, {past.what} (over {LITTLE:,} rows)",
            ours=took,
            floor=base,
            unit="ms",
            compare="ratio",
            target=TARGET,
            samples=len(ticked[0]),
        )
        for past, took in zip(pasts, others, strict=True)
    ]
    assert all(count >= past.commits for count, past in zip(written, pasts, strict=True))
    last = ticked[0][-1]
    counts = (
        ("SQL statements", last.asked.statements),
        ("Delta commits", last.commits),
        ("other requests", last.asked.requests - last.asked.statements),
    )
    lines += [
        Line(bench="control", what=f"idle tick, {kind}", ours=count, unit="", compare="value")
        for kind, count in counts
    ]
    return Report(
        lines=lines,
        notes=[
            "No lease is renewed and no job is asked of the Jobs API in an idle tick: both go by the clock."
        ],
    )


def _fill(stage: Stage, past: Past, runs: int) -> None:
    """The waiting runs, then the past, straight into the tables' folders: no job has to run for it."""
    store, (template,) = stage.app.store, stage.fresh(1)
    waiting = replace(template, fsm_state=State.EXECUTING, last_request=_REQUEST)
    store.insert([replace(waiting, run_id=bench_id(number)) for number in range(runs)])
    ended = to_row(
        replace(waiting, fsm_state=State.SUCCEEDED, outcome=RunOutcome(answer="42", evidence="all"))
    )
    folder = Path(stage.info.root) / "tables" / stage.namespace.catalog / stage.namespace.schema
    for row_type in past.tables:
        row = ended if row_type is RunStateRow else _ledger_row(row_type, template.created_at)
        _write(folder / row_type.TABLE, row_type, asdict(row), past)
        if past.commits > 1:  # the next write of a controller finds small files, and they are put together
            _write_one(stage, row_type, row)


def _write_one(stage: Stage, row_type: RowType, row: Any) -> None:
    """One ordinary write, as a controller does it."""
    if row_type is RunStateRow:
        (run,) = stage.fresh(1)
        stage.app.store.insert([replace(run, run_id="last", fsm_state=State.SUCCEEDED)])
    else:
        stage.app.ledger.append([replace(row, run_id="last")])


def _ledger_row(row_type: RowType, at: datetime) -> RequestRow | ResultRow | EventRow:
    common: dict[str, Any] = {"run_id": "bench", "iter_n": 1, "attempt": 1}
    if row_type is EventRow:
        payload = json.dumps({"from_state": "PLANNING", "to_state": "EXECUTING", "iter_n": 1})
        return EventRow(
            run_id="bench",
            seq=1,
            at=at,
            kind="transition",
            actor="c0123456789abcdef",
            epoch=1,
            payload=payload,
        )
    if row_type is RequestRow:
        return RequestRow(
            **common,
            task_type="python",
            artifact_path="/Volumes/main/rlm/artifacts/scratchpad/run_bench/iter_1/entrypoint.py",
            artifact_hash="0" * 64,
            job_submit_payload=_REQUEST.model_dump_json() * 5,
            databricks_run_id=1,
            run_url=None,
            submitted_at=at,
            submitted_by_worker="c0123456789abcdef",
        )
    result = Result(**common, status=Status.SUCCESS, started_at=at, finished_at=at)
    return replace(result_row(result, databricks_run_id=1, run_url=None), reported_by="executor")


def _write(table: Path, row_type: RowType, row: Mapping[str, Any], past: Past) -> None:
    """So many rows that differ in their key, in as many commits and files, and a checkpoint at the end.

    The log is written by hand: a library takes minutes for thousands of commits.
    """
    import pyarrow.parquet
    from deltalake import DeltaTable

    version, each = DeltaTable(str(table)).version(), past.rows // past.commits
    for number in range(past.commits):
        content = _arrow(row_type, row, range(number * each, (number + 1) * each))
        file = table / f"past{number}.parquet"
        pyarrow.parquet.write_table(content, file)
        ids = content["run_id"].to_pylist()
        bounds = {"minValues": {"run_id": min(ids)}, "maxValues": {"run_id": max(ids)}}
        add = {
            "path": file.name,
            "partitionValues": {},
            "size": file.stat().st_size,
            "modificationTime": int(file.stat().st_mtime * 1000),
            "dataChange": True,
            "stats": json.dumps({"numRecords": each, "nullCount": {"run_id": 0}} | bounds),
        }
        commit = table / "_delta_log" / f"{version + 1 + number:020d}.json"
        commit.write_text(json.dumps({"add": add}) + "\n")
    DeltaTable(str(table)).create_checkpoint()


def _arrow(row_type: RowType, row: Mapping[str, Any], numbers: range) -> Any:
    import pyarrow as pa

    kinds = {"STRING": pa.string(), "BIGINT": pa.int64(), "TIMESTAMP": pa.timestamp("us", tz="UTC")}
    varied = {
        "run_id": [bench_id(WAITING + number // 10) for number in numbers],
        "iter_n": [1 + number % 10 for number in numbers],
        "seq": [10_000 + number % 10 for number in numbers],
    }
    if row_type is RunStateRow:
        varied = {"run_id": [bench_id(WAITING + number) for number in numbers]}
    return pa.table(
        {
            name: pa.array(varied.get(name, [row[name]] * len(numbers)), type=kinds[kind])
            for name, kind in columns(row_type).items()
        }
    )
