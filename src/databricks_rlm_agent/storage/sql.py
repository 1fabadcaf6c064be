"""Every statement on our state, named. Values are bound parameters; only checked names are formatted in."""

from __future__ import annotations

from collections.abc import Collection

from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.runs.fsm import CLAIMABLE, TERMINAL, WAITING_FOR_PERSON, State
from databricks_rlm_agent.storage.schema import RowType, RunStateRow, columns, json_shape

_NOW_US = "unix_micros(current_timestamp())"
_LEASE_FREE = "(lease_expiry IS NULL OR lease_expiry < current_timestamp())"
# An intent to cancel is not kept waiting.
_IS_DUE = "(due_at IS NULL OR due_at <= current_timestamp() OR cancel_reason IS NOT NULL)"
_AGE_S = f"(({_NOW_US} - unix_micros(updated_at)) / 1000000.0)"
# The poll schedule. A job run that nothing was heard of is asked about at ages of first_s seconds, twice
# that, … 2**DOUBLINGS times that, then every EVERY * first_s. A factor of 1 to 1 + SPREAD on its age keeps
# runs that began together from being asked about together. No controller need remember whom it has asked:
# the number of polls that are due follows from the age, and falls to whoever ticks when that number grows.
DOUBLINGS, EVERY, SPREAD = 5, 30, 0.25
SPREAD_FACTOR = f"(1 + {SPREAD} * (crc32(run_id) % 1000) / 1000.0)"
_HELD = "array_contains(split(:owners, ','), lease_owner)"


def states(chosen: Collection[State]) -> str:
    """A list of states for ``IN``."""
    return "(" + ", ".join(f"'{state}'" for state in State if state in chosen) + ")"


def _claimable(row: str = "") -> str:
    """Return whether a controller may have something to do with a run."""
    return (
        f"({row}fsm_state IN {states(CLAIMABLE)} "
        f"OR {row}cancel_reason IS NOT NULL AND {row}fsm_state IN {states(WAITING_FOR_PERSON)})"
    )


_TERMINAL = states(TERMINAL)
_EXECUTING, _FOR_CHILDREN = f"'{State.EXECUTING}'", f"'{State.WAITING_FOR_CHILDREN}'"
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
        "cancel_reason",  # somebody else's intent: a controller that knows nothing of it must not undo it
        "item_revision",
        "due_at",
    }
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
    """Runs that nobody holds and that have something to do, in ``Due.order`` (``ports.RunStore.due``)."""
    names = ", ".join(f"r.{name}" for name in columns(RunStateRow))
    crossed = f"{polls('r.age_s')} > {polls('greatest(r.age_s - :gap_s * r.spread, 0)')}"
    return (
        f"SELECT {names}, x.status AS reported_status FROM (SELECT *, {_AGE_S} * {SPREAD_FACTOR} AS age_s, "
        f"{SPREAD_FACTOR} AS spread FROM {namespace.table('run_state')} "
        f"WHERE {_claimable()} AND {_LEASE_FREE} AND {_IS_DUE} "
        f"AND (:only = '' OR array_contains(split(:only, ','), run_id))) r "
        f"LEFT JOIN {_alive_children(namespace)} k ON r.run_id = k.parent_run_id "
        # Not grouped by its key: that would read the whole ledger. Who reads takes two rows for one.
        f"LEFT JOIN {namespace.table('execution_results')} x "
        f"ON r.run_id = x.run_id AND r.iter_n = x.iter_n AND r.attempt = x.attempt "
        f"WHERE r.fsm_state NOT IN ({_EXECUTING}, {_FOR_CHILDREN}) "
        f"OR (r.fsm_state = {_FOR_CHILDREN} "
        f"AND (k.alive IS NULL OR r.cancel_reason IS NOT NULL AND k.wanted > 0)) "
        f"OR r.fsm_state = {_EXECUTING} AND (x.status IS NOT NULL OR r.cancel_reason IS NOT NULL "
        f"OR {crossed} AND NOT array_contains(split(:asked, ','), r.run_id)) "
        # As Due.order: many waiting jobs must not crowd out those that surely have something to do.
        f"ORDER BY CASE WHEN r.fsm_state = {_EXECUTING} AND x.status IS NULL THEN 1 ELSE 0 END, "
        f"r.updated_at, r.run_id LIMIT :limit"
    )


def _alive_children(namespace: Namespace) -> str:
    """By parent: how many child runs have not ended, and how many of them nobody has cancelled."""
    return (
        f"(SELECT parent_run_id, count(*) AS alive, "
        f"sum(CASE WHEN cancel_reason IS NULL THEN 1 ELSE 0 END) AS wanted "
        f"FROM {namespace.table('run_state')} "
        f"WHERE parent_run_id IS NOT NULL AND fsm_state NOT IN {_TERMINAL} GROUP BY parent_run_id)"
    )


def polls(age_s: str) -> str:
    """How many times a job run of that age should have been asked about."""
    last = f":first_s * {2**DOUBLINGS}"
    return (
        f"CASE WHEN {age_s} < :first_s THEN 0 "
        f"WHEN {age_s} < {last} THEN 1 + floor(log2({age_s} / :first_s)) "
        f"ELSE {1 + DOUBLINGS} + floor(({age_s} - {last}) / ({EVERY} * :first_s)) END"
    )


def claim(namespace: Namespace) -> str:
    """Take the lease of the runs in ``:rows``, if their version is still the one seen and nobody holds them.

    Expiry is compared with the warehouse's clock, never the controller's. ``pause_us`` says for how long the
    run is left alone should this lease lapse too.
    """
    return (
        f"MERGE INTO {namespace.table('run_state')} t USING "
        f"{_rows('array<struct<run_id:string,version:bigint,pause_us:bigint>>')} s "
        # A damaged row may have no version and no epoch: it is read as 0, and can be ended for its damage.
        f"ON t.run_id = s.run_id AND coalesce(t.version, 0) = s.version AND {_claimable('t.')} "
        f"AND (t.lease_expiry IS NULL OR t.lease_expiry < current_timestamp()) "
        f"WHEN MATCHED THEN UPDATE SET lease_owner = :owner, lease_epoch = coalesce(t.lease_epoch, 0) + 1, "
        f"lease_expiry = timestamp_micros({_NOW_US} + :lease_us), "
        f"due_at = timestamp_micros({_NOW_US} + :lease_us + s.pause_us), "
        f"version = coalesce(t.version, 0) + 1, write_id = :write_id"
    )


def request_cancel(namespace: Namespace, *, key: str = "run_id") -> str:
    """Put the intent to cancel on record: of a run, or, with ``key`` parent_run_id, of all its child runs.

    The version stays, so a controller at work is not fenced.
    """
    return (
        f"UPDATE {namespace.table('run_state')} SET cancel_reason = :reason "
        f"WHERE {key} = :run_id AND cancel_reason IS NULL AND fsm_state NOT IN {_TERMINAL}"
    )


def children(namespace: Namespace) -> str:
    """The child runs of ``:parents``, oldest first."""
    return (
        f"SELECT * FROM {namespace.table('run_state')} "
        f"WHERE array_contains(split(:parents, ','), parent_run_id) ORDER BY created_at, run_id"
    )


def renew(namespace: Namespace) -> str:
    """Prolong the leases of ``:owners``. The version stays: a renewal is no change of a run.

    Not those that have lapsed: a renewal that was on its way must not undo a release.
    """
    return (
        f"UPDATE {namespace.table('run_state')} SET lease_expiry = timestamp_micros({_NOW_US} + :lease_us), "
        f"due_at = timestamp_micros({_NOW_US} + :lease_us + unix_micros(due_at) - unix_micros(lease_expiry)) "
        f"WHERE {_HELD} AND lease_expiry >= current_timestamp()"
    )


def release(namespace: Namespace) -> str:
    """End the leases of ``:owners``. The owner stays in the row: the next one must look for a manifest."""
    return (
        f"UPDATE {namespace.table('run_state')} "
        f"SET lease_expiry = timestamp_micros({_NOW_US} - 1), due_at = NULL WHERE {_HELD}"
    )


def save(namespace: Namespace) -> str:
    """Compare-and-set the runs in ``:rows`` and release their leases in the same statement.

    The owner is compared too: who wrongly thinks that a claim was won has the winner's version and epoch.
    ``due_at`` comes as a pause after the epoch of 1970: the time to which it is added is the warehouse's.
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
        f"due_at = timestamp_micros({_NOW_US} + s.due_at), "
        f"version = t.version + 1, write_id = :write_id, updated_at = current_timestamp()"
    )


def written(namespace: Namespace) -> str:
    """The runs that the statement with this ``:write_id`` changed: settles what it really did."""
    return f"SELECT run_id FROM {namespace.table('run_state')} WHERE write_id = :write_id"


def by_key(namespace: Namespace, row_type: RowType, *, key: str = "run_id") -> str:
    """All rows of a table with one value of ``key``, in the order of the table's key."""
    order = ", ".join(row_type.KEY)
    return f"SELECT * FROM {namespace.table(row_type.TABLE)} WHERE {key} = :value ORDER BY {order}"


def newest_runs(namespace: Namespace) -> str:
    """The newest runs first."""
    return f"SELECT * FROM {namespace.table('run_state')} ORDER BY created_at DESC, run_id LIMIT :limit"


def unfinished(namespace: Namespace) -> str:
    """How many of the runs a controller still has work with: of all, or of ``:only``.

    A run that waits for child runs is none while one of them has not ended: that one is counted itself, or
    waits for a person.
    """
    return (
        f"SELECT count(DISTINCT r.run_id) AS n FROM {namespace.table('run_state')} r "
        f"LEFT JOIN {_alive_children(namespace)} k ON r.run_id = k.parent_run_id "
        f"WHERE {_claimable('r.')} AND (r.fsm_state <> {_FOR_CHILDREN} OR k.alive IS NULL) "
        f"AND (:only = '' OR array_contains(split(:only, ','), r.run_id))"
    )


def _batch(row_type: RowType) -> str:
    return _rows(json_shape(row_type))


def _rows(shape: str) -> str:
    # Not inline(…): the embedded engine then parses the text again for every column that is used, which
    # makes a save more than twice as slow.
    return f"(SELECT c.* FROM (SELECT explode(from_json(:rows, '{shape}')) AS c))"


def _landed(name: str, kind: str) -> str:
    return f"timestamp_micros(s.{name})" if kind == "TIMESTAMP" else f"s.{name}"
