"""A test on a slow machine is tried again behind the work of another one, with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from support.fleet import Fleet
from support.following import Command, command

from fleetest.core.entities import Task
from fleetest.core.model import RunId, TaskId, WorkerId


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = Fleet()
    try:
        yield made
    finally:
        made.close()
    assert made.survivors() == []


def expected(fleet: Fleet, name: str, expected_s: float) -> Command:
    """A command that runs until it is let go, whatever is expected of it."""
    made = command(name, fleet.meeting.argv(name), hedge=True)
    return replace(made, task=replace(made.task, expected_s=expected_s))


def task(fleet: Fleet, run_id: RunId, name: str) -> Task:
    return fleet.state.cluster.runs[run_id].tasks[TaskId(name)]


def show_speeds(fleet: Fleet, run_id: RunId, **slowness: float) -> None:
    """As if these workers had executed many tests of this kind."""
    task_class = task(fleet, run_id, "long").task_class
    cluster = fleet.state.cluster
    for _ in range(60):
        for name, factor in slowness.items():
            cluster.balancing.finished(cluster.workers[WorkerId(name)], 1.0, factor, True, task_class)


def test_the_second_attempt_waits_for_the_other_workers_test_and_its_verdict_counts(fleet):
    fleet.start_workers("slow")
    run = fleet.submit(expected(fleet, "long", 100.0), expected(fleet, "short", 1.0))
    fleet.meeting.wait_for("long")
    fleet.start_workers("other")
    fleet.meeting.wait_for("long", "short")
    fleet.ask(lambda: show_speeds(fleet, run.run_id, slow=4.0, other=1.0))

    def queue() -> list[tuple[str, int, bool]]:
        """Of the other worker: task, attempt, and whether it runs."""
        (slot,) = fleet.state.cluster.workers[WorkerId("other")].slots
        return [(live.task.task_id, live.attempt, live.is_started) for live in slot.leases.values()]

    fleet.wait_until(lambda _: len(queue()) == 2, "the long test is hedged")
    assert fleet.ask(queue) == [("short", 1, True), ("long", 2, False)]
    assert fleet.meeting.arrivals == ["long", "short"]
    fleet.meeting.release("short")
    fleet.meeting.wait_until(lambda: fleet.meeting.arrivals == ["long", "short", "long"], "the second attempt begins")
    fleet.meeting.release("long")
    assert run.wait_for_end() == {"long": "passed", "short": "passed"}
    fleet.wait_until_recorded(run.run_id)
    first, second = fleet.rows(
        "SELECT attempt, verdict, is_final, worker, reason FROM attempts WHERE task_id = 'long' ORDER BY attempt"
    )
    assert first == (1, "cancelled", False, "slow", "superseded: attempt 2 on other was first")
    assert second[:4] == (2, "passed", True, "other")
