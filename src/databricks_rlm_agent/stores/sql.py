"""Every statement on our state, named. Values are bound parameters; only checked names are formatted in."""

from __future__ import annotations

from databricks_rlm_agent.domain.layout import Namespace
from databricks_rlm_agent.stores.schema import RowType, RunStateRow, columns, json_shape

_NOW_US = "unix_micros(current_timestamp())"
_LEASE_FREE = "(lease_expiry IS NULL OR lease_expiry < current_timestamp())"
_CLAIMABLE = "('PENDING', 'PLANNING', 'EXECUTING', 'INGESTING')"
# The row's identity and what only the store itself may set.
_NOT_SAVED = frozenset(
    {
        "run_id",
        "created_at",
        "version",
        "write_id",
        "lease_owner",
        "lease_expiry",
        "lease_epoch",
        "updated_at",
    }
)


def create_table(namespace: Namespace, row_type: RowType) -> str:
    """DDL of one table: unpartitioned, clustered by its key, deletion vectors on (row-level concurrency)."""
    body = ", ".join(f"{name} {kind}" for name, kind in columns(row_type).items())
    return (
        f"CREATE TABLE IF NOT EXISTS {namespace.table(row_type.TABLE)} ({body}) USING DELTA "
        f"CLUSTER BY ({row_type.KEY[0]}) TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')"
    )


def append(namespace: Namespace, row_type: RowType) -> str:
    """Insert the batch ``:rows``, each key at most once however often it is sent."""
    names = list(columns(row_type))
    match = " AND ".join(f"t.{key} = s.{key}" for key in row_type.KEY)
    values = ", ".join(_landed(name, kind) for name, kind in columns(row_type).items())
    return (
        f"MERGE INTO {namespace.table(row_type.TABLE)} t USING {_batch(row_type)} s ON {match} "
        f"WHEN NOT MATCHED THEN INSERT ({', '.join(names)}) VALUES ({values})"
    )


def due(namespace: Namespace) -> str:
    """Runs that nobody holds and that may have something to do, oldest first, with age and ``reported``."""
    names = ", ".join(f"r.{name}" for name in columns(RunStateRow))
    return (
        f"SELECT {names}, x.status AS reported_status, "
        f"({_NOW_US} - unix_micros(r.updated_at)) / 1000000.0 AS age_s "
        f"FROM (SELECT * FROM {namespace.table('run_state')} "
        f"WHERE fsm_state IN {_CLAIMABLE} AND {_LEASE_FREE}) r "
        f"LEFT JOIN (SELECT run_id AS x_run, iter_n AS x_iter, attempt AS x_attempt, max(status) AS status "
        f"FROM {namespace.table('execution_results')} GROUP BY run_id, iter_n, attempt) x "
        f"ON r.run_id = x.x_run AND r.iter_n = x.x_iter AND r.attempt = x.x_attempt "
        # First those that surely have something to do: many waiting jobs must not crowd them out.
        f"ORDER BY CASE WHEN r.fsm_state = 'EXECUTING' AND x.status IS NULL THEN 1 ELSE 0 END, "
        f"r.updated_at, r.run_id LIMIT :limit"
    )


def claim(namespace: Namespace) -> str:
    """Take the lease of the runs in ``:rows``, if their version is still the one seen and nobody holds them.

    Expiry is compared with the warehouse's clock, never the controller's.
    """
    return (
        f"MERGE INTO {namespace.table('run_state')} t USING "
        f"{_rows('array<struct<run_id:string,version:bigint>>')} s "
        f"ON t.run_id = s.run_id AND t.version = s.version AND t.fsm_state IN {_CLAIMABLE} "
        f"AND (t.lease_expiry IS NULL OR t.lease_expiry < current_timestamp()) "
        f"WHEN MATCHED THEN UPDATE SET lease_owner = :owner, lease_epoch = t.lease_epoch + 1, "
        f"lease_expiry = timestamp_micros({_NOW_US} + :lease_us), "
        f"version = t.version + 1, write_id = :write_id"
    )


def renew(namespace: Namespace) -> str:
    """Prolong the leases of ``:owner``. The version stays: a renewal is no change of a run.

    Not those that have lapsed: a renewal that was on its way must not undo a release.
    """
    return (
        f"UPDATE {namespace.table('run_state')} SET lease_expiry = timestamp_micros({_NOW_US} + :lease_us) "
        f"WHERE lease_owner = :owner AND lease_expiry >= current_timestamp()"
    )


def release(namespace: Namespace) -> str:
    """End the leases of ``:owner``. The owner stays in the row: the next one must look for a manifest."""
    return (
        f"UPDATE {namespace.table('run_state')} "
        f"SET lease_expiry = timestamp_micros({_NOW_US} - 1) WHERE lease_owner = :owner"
    )


def save(namespace: Namespace) -> str:
    """Compare-and-set the runs in ``:rows`` and release their leases in the same statement.

    The owner is compared too: who wrongly thinks that a claim was won has the winner's version and epoch.
    """
    sets = ", ".join(
        f"{name} = {_landed(name, kind)}"
        for name, kind in columns(RunStateRow).items()
        if name not in _NOT_SAVED
    )
    return (
        f"MERGE INTO {namespace.table('run_state')} t USING {_batch(RunStateRow)} s "
        f"ON t.run_id = s.run_id AND t.version = s.version AND t.lease_epoch = s.lease_epoch "
        f"AND t.lease_owner <=> s.lease_owner "
        f"WHEN MATCHED THEN UPDATE SET {sets}, lease_owner = NULL, lease_expiry = NULL, "
        f"version = t.version + 1, write_id = :write_id, updated_at = current_timestamp()"
    )


def written(namespace: Namespace) -> str:
    """The runs that the statement with this ``:write_id`` changed: settles what it really did."""
    return f"SELECT * FROM {namespace.table('run_state')} WHERE write_id = :write_id"


def by_key(namespace: Namespace, row_type: RowType, *, key: str = "run_id") -> str:
    """All rows of a table with one value of ``key``, in the order of the table's key."""
    order = ", ".join(row_type.KEY)
    return f"SELECT * FROM {namespace.table(row_type.TABLE)} WHERE {key} = :value ORDER BY {order}"


def newest_runs(namespace: Namespace) -> str:
    """The newest runs first."""
    return f"SELECT * FROM {namespace.table('run_state')} ORDER BY created_at DESC, run_id LIMIT :limit"


def unfinished(namespace: Namespace) -> str:
    """How many runs a controller still has work with."""
    table = namespace.table("run_state")
    return f"SELECT count(DISTINCT run_id) AS n FROM {table} WHERE fsm_state IN {_CLAIMABLE}"


def _batch(row_type: RowType) -> str:
    return _rows(json_shape(row_type))


def _rows(shape: str) -> str:
    # Not inline(…): the embedded engine then parses the text again for every column that is used, which
    # makes a save more than twice as slow.
    return f"(SELECT c.* FROM (SELECT explode(from_json(:rows, '{shape}')) AS c))"


def _landed(name: str, kind: str) -> str:
    return f"timestamp_micros(s.{name})" if kind == "TIMESTAMP" else f"s.{name}"
