"""The store under faults: leases that a tick left, replies that were lost, claims wrongly believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from databricks_rlm_agent.controller.claims import Leases
from tools.crash.controller import warm_up
from tools.crash.kinds import CLAIM, SAVE
from tools.crash.rig import Rig, eventually, start_rig

LEASE_S = 0.6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    warm_up()
    with start_rig(tmp_path_factory.mktemp("leases")) as started:
        yield started


def claim(made: Rig, run_id: str, holder: str) -> None:
    run = made.app.store.get(run_id)
    assert made.app.store.claim([run], owner=holder, lease_s=LEASE_S, write_id=f"w-{holder}")


def due(made: Rig) -> set[str]:
    return {item.run.run_id for item in made.app.store.due(limit=10, gap_s=1e12)}


def test_what_a_failed_tick_left_is_not_renewed_by_the_next(made: Rig) -> None:
    for run_id in ("left", "held"):
        made.submit(run_id)
    leases = Leases(store=made.app.store, owner="c1", lease_s=LEASE_S)
    claim(made, "left", leases.take())
    leases.keep(set())  # its save was not answered: nobody works on it any more
    claim(made, "held", leases.take())
    eventually(lambda: "left" in due(made) or None)
    assert "held" not in due(made)
    leases.release()
    assert "held" in due(made)
    leases.keep(set())


def test_a_statement_whose_reply_was_lost_says_what_it_did(made: Rig) -> None:
    """What became of it is read back by its write id; it is not sent again."""
    made.submit("twice")
    run = made.app.store.get("twice")
    made.fault(*(kind.rule(action="drop", after_effect=True) for kind in (CLAIM, SAVE)))
    (claimed,) = made.app.store.claim([run], owner="c1/1", lease_s=60, write_id="w-claim")
    assert (claimed.lease_owner, claimed.version) == ("c1/1", run.version + 1)
    assert made.app.store.save([claimed], write_id="w-save") == {"twice"}
    saved = made.app.store.get("twice")
    assert (saved.lease_owner, saved.version) == (None, run.version + 2)
    sent = [entry["status"] for kind in (CLAIM, SAVE) for entry in made.log() if kind.matches(entry)]
    assert sent == [0, 0]
    # Another epoch has come since: the same save once more changes nothing, and says so.
    assert made.app.store.save([claimed], write_id="w-late") == set()


def test_a_claim_that_was_wrongly_believed_cannot_save(made: Rig) -> None:
    """Version and epoch of a claim can be guessed by who lost it; its owner cannot."""
    made.submit("believed")
    seen = made.app.store.get("believed")
    (winner,) = made.app.store.claim([seen], owner="c1/1", lease_s=60, write_id="w-winner")
    loser = replace(winner, lease_owner="c2/1", write_id="w-loser")
    assert made.app.store.save([loser], write_id="w-wrong") == set()
    assert made.app.store.save([winner], write_id="w-right") == {"believed"}
