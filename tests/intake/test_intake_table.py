"""Intake from a Jira-like table on the local workspace, through the real connector."""

from __future__ import annotations

from intake_support import Desk, at

from databricks_rlm_agent.domain.fsm import State


def test_every_open_item_of_ours_becomes_one_run(desk: Desk) -> None:
    desk.put("J-1", at(1))
    desk.put("J-2", at(1), state="Closed")
    desk.put("J-3", at(1), owner="somebody@example.com")
    desk.put("J-4", at(1), prio="Highest", details=None)
    controller = desk.controller()
    report = controller.poll()
    assert (report.created, report.rejected) == (2, 0)
    assert {run.item_id for run in desk.runs()} == {"J-1", "J-4"}
    run = desk.run("J-1")
    assert run.capsule.objective == "Do J-1\n\nCount it."
    assert (run.fsm_state, run.item_revision) == (State.PENDING, f"u{int(at(1).timestamp() * 1e6)}")
    assert desk.events(run) == ["work_item"]
    assert [item.run.item_id for item in desk.store.due(limit=9, gap_s=1)] == ["J-4", "J-1"]
    controller.poll()
    assert (desk.row("J-1")["state"], desk.row("J-2")["state"]) == ("In Progress", "Closed")
    assert controller.poll().idle


def test_a_poll_with_nothing_new_is_one_statement(desk: Desk) -> None:
    desk.put("J-1", at(1))
    controller = desk.controller()
    while not controller.poll().idle:
        pass
    before = len(controller.backend.log)
    for _ in range(3):
        assert controller.poll().idle
    assert len(controller.backend.log) == before + 3
