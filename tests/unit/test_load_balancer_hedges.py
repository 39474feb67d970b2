"""Which running tests are tried a second time on an idle machine."""

import math

import pytest

from fleetest.balancing.hedging import HEDGE_FACTOR, HEDGE_MIN_S
from fleetest.balancing.receivers import worth_a_look
from fleetest.core import events
from fleetest.core.model import Capabilities, Limits, WorkerId
from fleetest.core.requirements import parse_options
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task


@pytest.fixture
def cluster():
    return ScriptedCluster(Limits(heartbeat_interval_s=math.inf))


def running(cluster, *tasks):
    """One running test per task, all on the worker ``busy``; nothing waits."""
    cluster.join("busy", slots=len(tasks))
    cluster.submit(*tasks)
    cluster.start(*(each.task_id for each in tasks))


def join_idle(cluster, name="idle", slots=1, **options):
    cluster.join(name, slots=slots, **options)
    cluster.ready(name)


def has_speeds(cluster, **slowness):
    """These workers have shown that they are so slow, by many tests."""
    state = cluster.state.cluster
    for _ in range(60):
        for name, factor in slowness.items():
            worker, any_task = state.workers[name], next(iter(state.runs[RUN].tasks.values()))
            state.balancing.finished(worker, 1.0, factor, True, any_task.task_class)


def hedged(cluster):
    """Names of tasks with a second lease, and where."""
    return {
        planned.task_id: planned.extra_leases[0].slot.worker.worker_id
        for planned in cluster.state.cluster.runs[RUN].tasks.values()
        if planned.extra_leases
    }


def test_a_test_that_runs_as_expected_on_a_typical_worker_is_not_hedged(cluster):
    running(cluster, task("a", expected_s=10.0))
    join_idle(cluster)
    cluster.wait(15.0)
    assert hedged(cluster) == {}


def test_a_late_test_is_hedged_on_another_worker(cluster):
    running(cluster, task("a", expected_s=10.0))
    join_idle(cluster)
    # Late by as much as a fresh start takes, times the factor: expected to run on for so long at least.
    cluster.wait(10.0 * (1.0 + HEDGE_FACTOR) + 2.0)
    assert hedged(cluster) == {"a": "idle"}


def test_a_test_on_a_slow_worker_is_hedged_at_once(cluster):
    running(cluster, task("a", expected_s=20.0))
    join_idle(cluster)
    for name in ("x", "y"):
        cluster.join(name)
    has_speeds(cluster, busy=2.5, idle=1.0, x=1.0, y=1.0)
    cluster.wait(1.0)
    assert hedged(cluster) == {"a": "idle"}


def test_a_test_on_a_typical_worker_is_not_hedged_on_a_slow_one(cluster):
    running(cluster, task("a", expected_s=10.0))
    join_idle(cluster)
    for name in ("x", "y"):
        cluster.join(name)
    has_speeds(cluster, busy=1.0, idle=3.0, x=1.0, y=1.0)
    cluster.wait(26.0)
    assert hedged(cluster) == {}


def test_the_fastest_idle_worker_gets_the_hedge(cluster):
    running(cluster, task("a", expected_s=1.0))
    for name in ("medium", "fast", "slow"):
        join_idle(cluster, name)
    has_speeds(cluster, busy=1.0, medium=1.0, fast=0.5, slow=2.0)
    cluster.wait(6.0)
    assert hedged(cluster) == {"a": "fast"}


def test_no_hedge_for_a_test_that_is_nearly_done(cluster):
    running(cluster, task("a", expected_s=HEDGE_MIN_S / 5))
    join_idle(cluster)
    cluster.wait(HEDGE_MIN_S)
    assert hedged(cluster) == {}
    cluster.wait(2 * HEDGE_MIN_S)
    assert hedged(cluster) == {"a": "idle"}, "it is late by more than that now"


def test_no_hedge_on_the_same_worker(cluster):
    cluster.join("busy", slots=2)
    cluster.submit(task("a", expected_s=1.0))
    cluster.start("a")
    cluster.wait(60.0)
    assert hedged(cluster) == {}


def test_no_hedge_on_a_worker_that_cannot_run_it(cluster):
    needs = parse_options({"requires": "cuda>=12"}).requirements
    cluster.join("busy", capabilities=Capabilities({"cuda": ("12.4",)}))
    cluster.submit(task("a", expected_s=1.0, requirements=needs))
    cluster.start("a")
    join_idle(cluster)
    cluster.wait(60.0)
    assert hedged(cluster) == {}


def test_no_hedge_for_who_does_not_want_one(cluster):
    running(cluster, task("a", expected_s=1.0, hedge=False))
    join_idle(cluster)
    cluster.wait(60.0)
    assert hedged(cluster) == {}


def test_a_test_that_should_have_ended_is_hedged_though_nobody_said_that_it_began(cluster):
    cluster.join("busy")
    cluster.submit(task("a", expected_s=1.0))
    join_idle(cluster)
    assert hedged(cluster) == {}
    # Its worker may have been stopped before it could say so.
    cluster.wait(60.0)
    assert hedged(cluster) == {"a": "idle"}


def test_at_most_a_quarter_of_the_slots_executes_hedges(cluster):
    running(cluster, *(task(f"{number}", expected_s=1.0) for number in range(8)))
    join_idle(cluster, slots=8)
    cluster.wait(60.0)
    assert len(hedged(cluster)) == 4


def test_who_would_end_last_is_hedged_first(cluster):
    running(cluster, task("short", expected_s=2.0), task("long", expected_s=4.0))
    join_idle(cluster, slots=2)
    for name in ("x", "y"):
        cluster.join(name)
    has_speeds(cluster, busy=3.0, idle=1.0, x=1.0, y=1.0)
    cluster.wait(0.5)
    assert hedged(cluster) == {"long": "idle"}, "of six slots one may execute hedges"


def test_what_runs_on_a_suspect_worker_is_hedged_first(cluster):
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=5.0, reconnect_grace_s=1000.0))
    for name in ("good", "bad"):
        cluster.join(name)
        cluster.submit(task(name, expected_s=100.0 if name == "good" else 20.0), run=f"run of {name}", ready=False)
        cluster.ready(name, run=f"run of {name}")
        cluster.start(name)
    cluster.join("idle")
    for name in ("good", "bad"):
        cluster.ready("idle", run=f"run of {name}")
    cluster.apply(events.WorkerDisconnected(WorkerId("bad"), "connection reset"))
    cluster.apply(events.WorkerHeartbeat(WorkerId("idle")))
    cluster.wait(0.5)
    (live,) = cluster.state.cluster.workers["idle"].slots[0].leases.values()
    assert live.task.task_id == "bad"


def test_a_second_look_does_not_hedge_twice(cluster):
    running(cluster, task("a", expected_s=1.0))
    join_idle(cluster, "one", slots=4)
    join_idle(cluster, "two", slots=4)
    cluster.wait(60.0)
    planned = cluster.state.cluster.runs[RUN].tasks["a"]
    assert len(planned.extra_leases) == 1


def test_in_a_large_fleet_those_that_end_last_are_looked_at(cluster, monkeypatch):
    monkeypatch.setattr("fleetest.balancing.receivers.LOOKED_AT", 0)
    running(cluster, *(task(f"{number}", expected_s=1.0 + number) for number in range(12)))
    slots = worth_a_look(cluster.state.cluster.busy, 1, cluster.now)
    assert [slot.head().task.task_id for slot in slots] == ["11", "10", "9", "8"]
    monkeypatch.undo()
    assert len(worth_a_look(cluster.state.cluster.busy, 1, cluster.now)) == 12


def proposed(cluster, *idle):
    """Before the core has a say."""
    state = cluster.state.cluster
    slots = [slot for name in idle for slot in state.workers[name].slots if not slot.leases]
    return list(state.balancing.propose(slots, state.busy, state.now + 60.0))


def test_nothing_impossible_is_proposed(cluster):
    gpu = Capabilities({"cuda": ("12.4",)}, {"gpus": 1.0})
    cluster.join("busy", slots=3, capabilities=gpu)
    cluster.submit(
        task("plain", expected_s=1.0, requirements=parse_options({"requires": "cuda>=12"}).requirements), run="plain"
    )
    cluster.submit(task("a", expected_s=0.5, requirements=parse_options({"gpus": 1}).requirements))
    cluster.start("plain", "a")
    assert proposed(cluster, "busy") == []
    for name, capabilities in (("without", Capabilities()), ("taken", gpu), ("free", gpu)):
        cluster.join(name, capabilities=capabilities)
        cluster.ready(name, run="plain")
        cluster.ready(name)
    assert proposed(cluster, "without") == []
    assert len(proposed(cluster, "free")) == 1
    cluster.state.cluster.workers["taken"].free["gpus"] = 0.0
    assert [hedge.lease.task.task_id for hedge in proposed(cluster, "taken")] == ["plain"]
    cluster.state.cluster.workers["taken"].free["gpus"] = 1.0
