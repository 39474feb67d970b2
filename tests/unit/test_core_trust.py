"""What the record of a worker does to its state: quarantine, probation, flapping, probes, stalls of the coordinator."""

import math

import pytest

from fleetest.core import commands, events
from fleetest.core.model import Limits, RunId, Verdict, WorkerId
from fleetest.testing.scripted_cluster import ScriptedCluster, task

W1 = WorkerId("w1")
LIMITS = Limits(
    heartbeat_interval_s=math.inf,
    infrastructure_failures_max=2,
    quarantine_s=60.0,
    probation_successes=2,
    flapping_losses=3,
    flapping_window_s=100.0,
    lost_alert_s=50.0,
)


@pytest.fixture
def cluster():
    return ScriptedCluster(LIMITS)


def state(cluster, name="w1"):
    return next(worker.state for worker in cluster.state.snapshot().workers if worker.worker_id == name)


def lasting(cluster):
    return [(alert.worker_id, alert.cause) for alert in cluster.state.snapshot().alerts if alert.cleared_at is None]


def fail(cluster, name="w1"):
    """The worker says that it cannot start what is next there."""
    lease_id = next(i for i, live in cluster.state.cluster.leases.items() if live.slot.worker.worker_id == name)
    return cluster.apply(events.InfrastructureFailed(WorkerId(name), [lease_id], "no disk"))


def leased(cluster):
    return [live.task.task_id for live in cluster.state.cluster.leases.values()]


def quarantine(cluster, tasks=20, slots=3):
    cluster.join("w1", slots=slots)
    cluster.submit(*(task(f"t{number}", expected_s=0.01) for number in range(tasks)))
    fail(cluster)
    fail(cluster)
    assert state(cluster) == "quarantined"
    cluster.give_back(*leased(cluster))
    assert not leased(cluster)


def test_quarantine_ends_in_probation_with_one_task_at_a_time_then_trust(cluster):
    quarantine(cluster)
    assert lasting(cluster) == [("w1", "quarantined")]
    cluster.wait(59.0)
    assert not leased(cluster)
    cluster.wait(1.0)
    assert state(cluster) == "probation"
    for _ in range(2):
        assert lasting(cluster) == [("w1", "quarantined")], "until it has proved itself"
        (only,) = leased(cluster)
        cluster.start(only)
        assert leased(cluster) == [only]
        cluster.finish(only)
    assert state(cluster) == "healthy"
    assert lasting(cluster) == []
    assert len(leased(cluster)) > 3, "all slots, with work queued ahead"
    while leased(cluster):
        cluster.finish(*leased(cluster))
    assert set(cluster.verdicts().values()) == {Verdict.PASSED}


def test_the_other_slots_of_a_worker_on_probation_are_nobodys_to_fill(cluster):
    quarantine(cluster)
    cluster.cancel(kill=True)
    cluster.wait(60.0)
    cluster.apply(events.RunSubmitted(RunId("next")))
    cluster.ready("w1", run="next")
    assert len(cluster.state._dispatch.empty_slots()) == 3
    cluster.plan(task("a"), task("b"), run="next")
    assert leased(cluster) == ["a"]
    # What the balancer is asked to find work for, by taking it from others.
    assert cluster.state._dispatch.empty_slots() == []


def test_a_failure_on_probation_is_quarantine_again_under_the_same_alert(cluster):
    quarantine(cluster)
    cluster.wait(60.0)
    fail(cluster)
    assert state(cluster) == "quarantined"
    assert len(cluster.all(commands.RaiseAlert)) == 1
    (alert,) = cluster.state.snapshot().alerts
    assert alert.message.startswith("failed again on probation: "), "what is so now, not what was"
    assert alert.message.endswith("(tried again in 120 s)")
    cluster.wait(119.0)
    assert state(cluster) == "quarantined"
    cluster.wait(1.0)
    assert state(cluster) == "probation"


def test_the_alert_of_a_quarantine_that_the_operator_takes_over_gives_the_operators_reason(cluster):
    quarantine(cluster)
    cluster.apply(events.WorkerQuarantined(W1, "broken fan"))
    (alert,) = cluster.state.snapshot().alerts
    assert alert.message == "by the operator: broken fan"
    cluster.wait(60.0)
    assert state(cluster) == "quarantined", "nobody else ends that"
    assert cluster.state.snapshot().alerts[0].message == "by the operator: broken fan"
    cluster.apply(events.WorkerReleased(W1))
    assert (state(cluster), lasting(cluster)) == ("healthy", [])


def test_a_new_session_does_not_escape_its_quarantine(cluster):
    quarantine(cluster)
    cluster.join("w1", session="new")
    assert state(cluster) == "quarantined"
    assert lasting(cluster) == [("w1", "quarantined")]
    cluster.disconnect("w1", goodbye=True)
    assert lasting(cluster) == []
    cluster.wait(60.0)
    cluster.join("w1", session="newer")
    assert state(cluster) == "probation"


def test_a_quarantine_that_ends_while_the_link_is_broken_is_probation_when_it_is_back(cluster):
    quarantine(cluster)
    cluster.now = 50.0
    cluster.apply(events.WorkerDisconnected(W1, "gone"))
    cluster.wait(14.0)
    cluster.join("w1")
    assert state(cluster) == "probation"


def test_release_by_the_operator_ends_an_automatic_quarantine_too(cluster):
    quarantine(cluster)
    cluster.apply(events.WorkerReleased(W1))
    assert state(cluster) == "healthy"
    assert lasting(cluster) == []
    assert leased(cluster)
    fail(cluster)
    assert state(cluster) == "healthy", "counted from nothing again"


def test_an_operators_quarantine_outlasts_the_automatic_one(cluster):
    quarantine(cluster)
    cluster.apply(events.WorkerQuarantined(W1, "bad disk"))
    cluster.wait(1000.0)
    assert state(cluster) == "quarantined"
    cluster.apply(events.WorkerReleased(W1))
    assert state(cluster) == "healthy"


def flap(cluster, times):
    for _ in range(times):
        cluster.wait(5.1)
        cluster.disconnect("w1")
        cluster.join("w1")


def test_a_worker_that_flaps_comes_back_on_probation(cluster):
    cluster.join("w1")
    flap(cluster, 2)
    assert state(cluster) == "healthy"
    flap(cluster, 1)
    assert state(cluster) == "probation"
    assert lasting(cluster) == [("w1", "flapping")]
    cluster.submit(task("a"), task("b"), task("c"))
    assert leased(cluster) == ["a"]
    cluster.finish("a", "b")
    assert state(cluster) == "healthy"
    cluster.wait(95.0)
    assert lasting(cluster) == []


def test_a_worker_that_flaps_on_is_quarantined(cluster):
    cluster.join("w1")
    flap(cluster, 4)
    assert state(cluster) == "quarantined"
    assert sorted(lasting(cluster)) == [("w1", "flapping"), ("w1", "quarantined")]
    cluster.wait(60.0)
    assert state(cluster) == "probation"


def test_a_test_that_kills_workers_again_and_again_does_not_make_them_flap():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=math.inf, flapping_losses=2, attempts_lost_max=10))
    cluster.join("w1", session="0")
    cluster.submit(task("bad"))
    for number in range(1, 6):
        cluster.start("bad")
        cluster.wait(6.0)
        cluster.disconnect("w1", dead=True)
        cluster.join("w1", session=str(number))
        cluster.ready("w1")
        assert state(cluster) == "healthy"


def test_a_goodbye_is_no_loss(cluster):
    for number in range(10):
        cluster.join("w1", session=str(number))
        cluster.disconnect("w1", goodbye=True)
    cluster.join("w1", session="last")
    assert state(cluster) == "healthy"


def test_a_worker_with_a_probe_gets_work_only_after_it_passed(cluster):
    cluster.apply(events.WorkerJoined(W1, "s", 1, cluster_capabilities(), has_probe=True))
    cluster.submit(task("a"), task("b"))
    assert state(cluster) == "quarantined"
    assert lasting(cluster) == [], "nothing is wrong yet"
    assert cluster.why("a") == "no worker that fits takes new work: w1 is quarantined (its probe has not passed yet)"
    cluster.apply(events.WorkerProbed(W1, is_ok=True))
    assert leased(cluster)
    emitted = cluster.apply(events.WorkerProbed(W1, is_ok=False, detail="no space left"))
    assert commands.RaiseAlert("w1", "probe failed", "no space left") in emitted
    assert state(cluster) == "quarantined"
    assert not any(
        isinstance(c, commands.RaiseAlert)
        for c in cluster.apply(events.WorkerProbed(W1, is_ok=False, detail="still no space"))
    )
    emitted = cluster.apply(events.WorkerProbed(W1, is_ok=True))
    assert commands.ClearAlert("w1", "probe failed") in emitted
    assert state(cluster) == "healthy"


def test_a_broken_link_does_not_ask_for_the_probe_again(cluster):
    cluster.apply(events.WorkerJoined(W1, "s", 1, cluster_capabilities(), has_probe=True))
    cluster.apply(events.WorkerProbed(W1, is_ok=True))
    cluster.disconnect("w1")
    cluster.apply(events.WorkerJoined(W1, "s", 1, cluster_capabilities(), has_probe=True))
    assert state(cluster) == "healthy"


def cluster_capabilities():
    from fleetest.core.model import Capabilities

    return Capabilities()


def test_the_alert_of_a_loss_says_what_became_of_its_tests_and_ends_with_time(cluster):
    cluster.join("w1", slots=2)
    cluster.submit(*(task(f"t{number}", expected_s=0.1) for number in range(5)))
    cluster.start("t0", "t4") if "t4" in leased(cluster) else cluster.start("t0")
    running = sum(live.is_started for live in cluster.state.cluster.leases.values())
    waiting = len(leased(cluster)) - running
    cluster.disconnect("w1", dead=True)
    (alert,) = cluster.state.snapshot().alerts
    expected = f"gone ({running} running and {waiting} not begun: {running + waiting} queued again)"
    assert (alert.cause, alert.message) == ("lost", expected)
    cluster.wait(49.0)
    assert lasting(cluster) == [("w1", "lost")]
    cluster.wait(1.0)
    assert lasting(cluster) == []


def test_all_are_silent_because_the_coordinator_itself_stood_still():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=5.0, reconnect_grace_s=15.0))
    for name in ("w1", "w2", "w3"):
        cluster.join(name)
    cluster.wait(4.0)
    cluster.disconnect("w3")
    cluster.now += 600.0  # Nothing ran in between: no deadline was kept.
    cluster.apply(events.DeadlineReached())
    assert not cluster.all(commands.RaiseAlert)
    for name in ("w1", "w2"):  # What they said meanwhile waits to be read.
        cluster.apply(events.WorkerHeartbeat(WorkerId(name)))
    cluster.join("w3")
    assert {worker.state for worker in cluster.state.snapshot().workers} == {"healthy"}


def test_who_stays_silent_after_the_coordinator_stood_still_is_lost_all_the_same():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=5.0))
    cluster.join("w1")
    cluster.now += 600.0
    cluster.apply(events.DeadlineReached())
    cluster.wait(6.0)
    assert state(cluster) == "suspect"
    cluster.wait(15.0)
    assert not cluster.state.snapshot().workers


def test_all_are_lost_when_all_are_silent():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=5.0))
    for number in range(50):
        cluster.join(f"w{number}")
    cluster.wait(31.0)
    assert not cluster.state.snapshot().workers
    assert len([alert for alert in lasting(cluster) if alert[1] == "lost"]) == 50


def test_a_large_fleet_beats_more_slowly_and_is_told_so():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=1.0))
    for number in range(100):
        cluster.join(f"w{number}")
    emitted = cluster.apply(events.WorkerHeartbeat(WorkerId("w0")))
    assert emitted == [commands.SetHeartbeat("w0", 2.0)]
    assert cluster.apply(events.WorkerHeartbeat(WorkerId("w0"))) == []
    cluster.wait(5.9)
    assert state(cluster, "w0") == "healthy", "it is expected every two seconds now"
    assert state(cluster, "w1") == "suspect", "it was told one second when it joined"


def test_results_that_others_contradict_raise_an_alert():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=math.inf))
    cluster.join("bad")
    cluster.join("good")
    cluster.submit(*(task(f"t{number}", retries=1, expected_s=0.001) for number in range(400)))
    while leased(cluster):
        for name in leased(cluster):
            worker = cluster.worker_of(name)
            cluster.finish(name, verdict=Verdict.FAILED if worker == "bad" else Verdict.PASSED)
    assert ("bad", "fails what others pass") in lasting(cluster)
    assert not [alert for alert in lasting(cluster) if alert[0] == "good"]
