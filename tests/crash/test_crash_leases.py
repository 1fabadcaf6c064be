"""Leases, on the real store: what a failed tick leaves behind becomes free, however busy its owner."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from crash_controller import warm_up
from crash_rig import Rig, eventually, rig

from databricks_rlm_agent.control.lease import Leases
from databricks_rlm_agent.errors import Unreachable

LEASE_S = 0.6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    warm_up()
    with rig(tmp_path_factory.mktemp("leases")) as started:
        yield started


def claim(made: Rig, run_id: str, holder: str) -> None:
    run = made.app.store.get(run_id)
    assert made.app.store.claim([run], owner=holder, lease_s=LEASE_S, write_id=f"w-{holder}")


def due(made: Rig) -> set[str]:
    return {item.run.run_id for item in made.app.store.due(limit=10)}


def test_what_a_failed_tick_left_is_not_renewed_by_the_next(made: Rig) -> None:
    for run_id in ("left", "held"):
        made.submit(run_id)
    leases = Leases(store=made.app.store, owner="c1", lease_s=LEASE_S)
    with contextlib.suppress(Unreachable), leases.held() as holder:
        claim(made, "left", holder)
        raise Unreachable("the save was not answered")
    with leases.held() as holder:
        claim(made, "held", holder)
        eventually(lambda: "left" in due(made) or None)
        assert "held" not in due(made)
        leases.release()
        assert "held" in due(made)
