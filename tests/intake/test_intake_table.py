"""Intake from a Jira-like table on the local workspace, through the real connector."""

from __future__ import annotations

import pytest
from intake_support import Controller, Rig, at

from databricks_rlm_agent.intake.mapping import default_mapping
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import Run


def test_every_open_item_of_ours_becomes_one_run(rig: Rig) -> None:
    rig.put("J-1", at(1))
    rig.put("J-2", at(1), state="Closed")
    rig.put("J-3", at(1), owner="somebody@example.com")
    rig.put("J-4", at(1), prio="Highest", details=None)
    controller = rig.controller()
    report = controller.poll()
    assert (report.created, report.rejected) == (2, 0)
    assert {run.item_id for run in rig.runs()} == {"J-1", "J-4"}
    run = rig.run("J-1")
    assert run.capsule.objective == "Do J-1\n\nCount it."
    assert (run.fsm_state, run.item_revision) == (State.PENDING, f"u{int(at(1).timestamp() * 1e6)}")
    assert rig.events(run) == ["work_item"]
    assert [item.run.item_id for item in rig.store.due(limit=9, gap_s=1)] == ["J-4", "J-1"]
    controller.poll()
    assert (rig.row("J-1")["state"], rig.row("J-2")["state"]) == ("In Progress", "Closed")
    assert controller.poll().idle


def test_a_poll_with_nothing_new_is_one_statement(rig: Rig) -> None:
    rig.put("J-1", at(1))
    controller = rig.controller()
    while not controller.poll().idle:
        pass
    before = len(controller.session.log)
    for _ in range(3):
        assert controller.poll().idle
    assert len(controller.session.log) == before + 3


def test_ties_and_late_rows(rig: Rig) -> None:
    rig.put("J-1", at(10))
    controller = rig.controller()
    controller.poll()
    rig.put("J-2", at(10))  # the same instant, another commit
    rig.put("J-3", at(9.5))  # older than what was read, within lookback_s
    rig.put("J-4", at(2))  # far older
    assert controller.poll().created == 2
    assert {run.item_id for run in rig.runs()} == {"J-1", "J-2", "J-3"}
    rig.clock.now_s = rig.mapping.rescan_s
    assert controller.poll().created == 1
    assert [run.item_id for run in rig.runs()] == ["J-1", "J-2", "J-3", "J-4"]


def test_another_controller_finds_what_is_late_at_once(rig: Rig) -> None:
    rig.put("J-1", at(10))
    rig.controller().poll()
    rig.put("J-4", at(2))
    assert rig.controller(name="c2").poll().created == 1


def test_a_date_in_the_future_hides_nothing(rig: Rig) -> None:
    rig.put("J-1", at(60 * 24 * 365 * 50))
    controller = rig.controller()
    controller.poll()
    now = rig.clock.time()
    rig.put("J-2", now)
    assert controller.poll().created == 1


def test_reopened_items_are_done_again(rig: Rig) -> None:
    rig.put("J-1", at(1))
    controller = rig.controller()
    controller.poll()
    rig.settle(rig.run("J-1"), State.SUCCEEDED, answer="There are 42.")
    assert controller.poll().reported == 1
    assert (rig.row("J-1")["state"], rig.row("J-1")["agent_note"]) == ("Done", "There are 42.")
    assert rig.row("J-1")["changed"] == at(1)
    assert controller.poll().idle
    rig.change("J-1", at(5), state="Reopened", details="Count them again.")
    assert controller.poll().created == 1
    first, second = rig.runs("J-1")
    assert (first.fsm_state, second.fsm_state) == (State.SUCCEEDED, State.PENDING)
    assert second.capsule.objective == "Do J-1\n\nCount them again."


def test_an_edit_supersedes_the_run_that_goes_on(rig: Rig) -> None:
    rig.put("J-1", at(1))
    controller = rig.controller()
    controller.poll()
    controller.poll()
    rig.change("J-1", at(2), details="Count something else.")  # its status stays In Progress
    report = controller.poll()
    assert (report.created, report.superseded) == (1, 1)
    old, new = rig.runs("J-1")
    assert old.cancel_reason == f"superseded by revision {new.item_revision} of its work item"
    assert (new.cancel_reason, new.fsm_state) == (None, State.PENDING)
    rig.settle(old, State.CANCELLED, reason="superseded")
    controller.poll()
    assert rig.row("J-1")["state"] == "In Progress"  # not Dropped: that was another revision


def test_items_that_others_work_on_are_theirs(rig: Rig) -> None:
    rig.put("J-1", at(1), state="In Progress")
    controller = rig.controller()
    assert controller.poll().idle
    rig.change("J-1", at(2), details="More.")
    assert controller.poll().idle


def test_a_status_that_somebody_set_stays(rig: Rig) -> None:
    rig.put("J-1", at(1))
    controller = rig.controller()
    controller.poll()
    rig.change("J-1", state="Closed")
    rig.settle(rig.run("J-1"), State.SUCCEEDED, answer="42")
    controller.poll()
    assert rig.row("J-1")["state"] == "Closed"


def test_what_happened_while_nobody_polled_is_reported(rig: Rig) -> None:
    rig.put("J-1", at(1))
    rig.put("J-2", at(1))
    rig.controller().poll()
    rig.settle(rig.run("J-1"), State.FAILED, reason="No such table.")
    assert rig.controller().poll().reported == 1
    assert (rig.row("J-1")["state"], rig.row("J-1")["agent_note"]) == ("Blocked", "No such table.")
    assert rig.row("J-2")["state"] == "In Progress"


def ask(rig: Rig, controller: Controller) -> Run:
    rig.put("J-1", at(1))
    controller.poll()
    rig.settle(rig.run("J-1"), State.WAITING_FOR_INPUT, question="Which shop?")
    controller.poll()
    assert (rig.row("J-1")["state"], rig.row("J-1")["agent_note"]) == ("Needs Info", "Which shop?")
    return rig.run("J-1")


def constraints(rig: Rig) -> str:
    return "\n".join(rig.run("J-1").capsule.constraints)


def test_the_answer_column_answers_a_waiting_run(rig: Rig) -> None:
    controller = rig.controller()
    ask(rig, controller)
    rig.change("J-1", reply="The blue one.")  # without a new updated_at
    assert controller.poll().answered == 1
    run = rig.run("J-1")
    assert (run.fsm_state, run.iter_n) == (State.PLANNING, 2)
    assert constraints(rig) == "Asked: Which shop? Answered: The blue one."
    controller.poll()
    assert rig.row("J-1")["state"] == "In Progress"
    assert "answered_by_item" in rig.events(run)
    rig.settle(run, State.WAITING_FOR_INPUT, question="Which year?")
    controller.poll()
    assert controller.poll().idle  # the old answer answers no other question
    assert rig.row("J-1")["agent_note"] == "Which year?"
    rig.change("J-1", at(3), reply="2025")
    assert controller.poll().answered == 1
    assert rig.run("J-1").iter_n == 3


def test_an_edit_answers_a_waiting_run(rig: Rig) -> None:
    controller = rig.controller()
    ask(rig, controller)
    rig.change("J-1", at(2), prio="Low")  # neither opened again nor a word more
    assert controller.poll().idle
    rig.change("J-1", at(3), state="To Do", details="Count it.\nThe blue one.")
    assert controller.poll().answered == 1
    assert constraints(rig) == "Asked: Which shop? Answered: The blue one."
    assert rig.run("J-1").item_revision == f"u{int(at(3).timestamp() * 1e6)}"
    rig.settle(rig.run("J-1"), State.SUCCEEDED, answer="7")
    controller.poll()
    assert rig.row("J-1")["state"] == "Done"
    assert len(rig.runs("J-1")) == 1


def test_a_waiting_run_that_is_cancelled_is_not_answered(rig: Rig) -> None:
    controller = rig.controller()
    run = ask(rig, controller)
    rig.store.request_cancel(run.run_id, reason="enough")
    rig.change("J-1", reply="The blue one.")
    assert controller.poll().answered == 0
    assert rig.run("J-1").fsm_state is State.WAITING_FOR_INPUT


def test_malformed_items_are_rejected_and_told_so(rig: Rig) -> None:
    rig.put("ok", at(1))
    rig.put("empty", at(1), summary="  ", details=None)
    rig.put(None, at(1))
    rig.put("", at(1))
    rig.put("tab\tid", at(1))
    rig.put("x" * 100_000, at(1))
    rig.put("long", at(1), details="y" * 200_000)
    rig.put("twice", at(1))
    rig.put("twice", at(2))
    rig.put("quo'te`;--\"\\", at(1))
    controller = rig.controller()
    report = controller.poll()
    assert (report.created, report.rejected) == (2, 8)
    controller.poll()
    assert controller.poll().idle
    assert rig.controller(name="c2").poll().idle
    reasons = {run.item_id: run.outcome.reason for run in rig.runs() if run.fsm_state is State.FAILED}
    assert reasons["empty"] == "The work item was rejected: The item has neither a title nor a description."
    assert "2 rows of the table have this id" in str(reasons["twice"])
    assert "no id" in str(reasons[""])
    for run in rig.runs():
        assert rig.events(run) == ["rejected_item" if run.fsm_state is State.FAILED else "work_item"]
    assert (rig.row("empty")["state"], rig.row("empty")["agent_note"]) == ("Blocked", reasons["empty"])
    assert rig.row("quo'te`;--\"\\")["state"] == "In Progress"
    assert rig.row("tab\tid")["state"] == "Blocked"
    rig.change("empty", at(3), state="To Do", details="Now there is something.")
    assert controller.poll().created == 1


def test_items_without_a_date_are_done_once(rig: Rig) -> None:
    rig.put("J-1", None)
    controller = rig.controller()
    assert controller.poll().created == 1
    assert rig.run("J-1").item_revision == "u0"
    controller.poll()
    assert controller.poll().idle


def test_long_descriptions_become_inputs(rig: Rig) -> None:
    text = "\n".join(f"line {n}" for n in range(1000))
    rig.put("J-1", at(1), details=text)
    rig.controller().poll()
    run = rig.run("J-1")
    assert run.capsule.inputs == {"description": {"kind": "text", "text": text}}
    assert "rlm.inputs['description']" in run.capsule.objective


def test_many_items_come_in_batches_the_urgent_first(rig: Rig) -> None:
    rows = ", ".join(
        f"('J-{n}', 'Do', 'it', '{'Low' if n % 3 else 'Highest'}', 'To Do', 'robot@example.com', "
        "timestamp'2026-01-01 00:01:00', NULL, NULL)"
        for n in range(450)
    )
    rig.session.execute(f"INSERT INTO {rig.mapping.table} VALUES {rows}")
    controller = rig.controller()
    first = controller.poll()
    assert (first.created, first.more) == (200, True)
    urgent = [due.run.item_id for due in rig.store.due(limit=150, gap_s=1)]
    assert {int(str(item).removeprefix("J-")) % 3 for item in urgent} == {0}
    assert (controller.poll().created, controller.poll().created) == (200, 50)
    assert controller.poll().created == 0
    assert len(rig.runs()) == 450


def test_controllers_that_poll_at_once_make_one_run(rig: Rig) -> None:
    for n in range(5):
        rig.put(f"J-{n}", at(1))
    one, two = rig.controller(), rig.controller(name="c2")
    fault = {"done": False}

    def meanwhile(number: int, after: bool) -> None:
        if after and not fault["done"] and one.session.log[number].startswith("SELECT 'item'"):
            fault["done"] = True
            assert two.poll().created == 5

    one.session.fault = meanwhile
    one.poll()
    assert len(rig.runs()) == 5


def test_a_reader_that_was_slow_does_not_bring_back_an_old_revision(rig: Rig) -> None:
    rig.put("J-1", at(1))
    slow, quick = rig.controller(), rig.controller(name="c2")
    fault = {"done": False}

    def meanwhile(number: int, after: bool) -> None:
        if after and not fault["done"] and slow.session.log[number].startswith("SELECT 'item'"):
            fault["done"] = True
            rig.change("J-1", at(2), details="Something else.")
            assert quick.poll().created == 1

    slow.session.fault = meanwhile
    slow.poll()
    quick.poll()
    old, new = sorted(rig.runs("J-1"), key=lambda run: str(run.item_revision))
    assert (old.cancel_reason is not None, new.cancel_reason) == (True, None)


def test_a_table_made_anew_starts_over_and_repeats_nothing(rig: Rig) -> None:
    rig.put("J-1", at(1))
    rig.put("J-2", at(1))
    controller = rig.controller()
    controller.poll()
    ddl = rig.session.fetch(f"DESCRIBE TABLE {rig.mapping.table}")
    columns = ", ".join(f"{row['col_name']} {row['data_type']}" for row in ddl)
    rig.session.execute(f"DROP TABLE {rig.mapping.table}")
    report = controller.intake()
    assert report.idle  # no such table is no reason to stop
    rig.session.execute(f"CREATE TABLE {rig.mapping.table} ({columns}) USING DELTA")
    rig.put("J-1", at(1))
    rig.put("J-3", at(1))
    rig.clock.now_s = 120
    assert controller.intake().created == 1
    assert [run.item_id for run in rig.runs()] == ["J-1", "J-2", "J-3"]


def test_a_mapping_that_does_not_fit_is_said_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    columns = rig.mapping.columns.model_copy(update={"title": "subject"})
    controller = rig.controller(mapping=rig.mapping.model_copy(update={"columns": columns}))
    for _ in range(3):
        assert controller.intake().idle
        rig.clock.now_s += 100
    assert len([record for record in caplog.records if "subject" in record.message]) == 1


def test_own_work_items_need_no_mapping(rig: Rig) -> None:
    mapping = default_mapping(rig.namespace.table("work_items"))
    rig.session.execute(
        f"INSERT INTO {mapping.table} VALUES ('a', 'Count', NULL, 2, NULL, NULL, 'prod', NULL), "
        "('b', 'Sum', NULL, 1, NULL, NULL, NULL, NULL), ('c', 'Guess', NULL, 1, NULL, NULL, 'turbo', NULL)"
    )
    controller = rig.controller(mapping=mapping)
    assert (controller.poll().created, controller.poll().created) == (2, 0)
    assert (rig.run("a").current_mode, rig.run("b").current_mode) == ("PROD", "DEV")
    found = rig.session.fetch(f"SELECT item_id, status FROM {mapping.table}")
    assert {row["item_id"]: row["status"] for row in found} == {
        "a": "IN_PROGRESS",
        "b": "IN_PROGRESS",
        "c": "FAILED",
    }
