"""What the operator says of workers: drain, resume, quarantine, release; and that silence and alerts go beside it."""

import pytest

from fleetest.core import commands, events
from fleetest.core.model import AlertId, Limits, Verdict, WorkerId
from fleetest.testing.scripted_cluster import ScriptedCluster, task

W1 = WorkerId("w1")
LIMITS = Limits(heartbeat_interval_s=5.0, alerts_kept_max=2)


@pytest.fixture
def cluster():
    cluster = ScriptedCluster(LIMITS)
    cluster.join("w1")
    return cluster


def state(cluster):
    (worker,) = cluster.state.snapshot().workers
    return worker.state


def alerts(cluster):
    return [(alert.cause, alert.cleared_at is None) for alert in cluster.state.snapshot().alerts]


def test_drain_gives_back_what_has_not_started_and_resume_takes_work_again(cluster):
    cluster.submit(*(task(name, expected_s=1.0) for name in "abc"))
    cluster.start("a")
    emitted = cluster.apply(events.WorkerDrainRequested(W1))
    assert commands.RevokeLeases("w1", [cluster.leases["b"].lease_id]) in emitted
    cluster.give_back("b")
    assert state(cluster) == "draining"
    cluster.finish("a")
    assert not cluster.state.cluster.leases
    emitted = cluster.apply(events.WorkerResumed(W1))
    assert state(cluster) == "healthy"
    assert any(isinstance(command, commands.GrantLeases) for command in emitted)
    cluster.finish("b", "c")
    assert cluster.verdicts() == dict.fromkeys("abc", Verdict.PASSED)


def test_a_worker_that_drains_by_itself_is_not_resumed(cluster):
    cluster.apply(events.WorkerDraining(W1))
    cluster.apply(events.WorkerResumed(W1))
    assert state(cluster) == "draining"


def test_a_drain_is_of_the_session_and_a_quarantine_of_the_name(cluster):
    cluster.apply(events.WorkerDrainRequested(W1))
    cluster.join("w1", session="new")
    assert state(cluster) == "healthy"
    cluster.apply(events.WorkerQuarantined(W1, "bad disk"))
    cluster.join("w1", session="newer")
    assert state(cluster) == "quarantined"
    assert alerts(cluster) == [("quarantined", True)]
    cluster.disconnect("w1", goodbye=True)
    assert alerts(cluster) == [("quarantined", True)]


def test_a_broken_link_changes_nothing_of_it(cluster):
    cluster.apply(events.WorkerDrainRequested(W1))
    cluster.apply(events.WorkerQuarantined(W1, "bad disk"))
    cluster.disconnect("w1")
    cluster.join("w1")
    assert state(cluster) == "draining"
    cluster.apply(events.WorkerResumed(W1))
    assert state(cluster) == "quarantined"


def test_what_is_said_of_a_worker_without_link_holds_when_it_is_back(cluster):
    cluster.submit(task("a"))
    held = [cluster.leases["a"].lease_id]
    cluster.disconnect("w1")
    cluster.apply(events.WorkerQuarantined(W1, "bad disk"))
    assert state(cluster) == "disconnected"
    emitted = cluster.join("w1", held=held)
    assert state(cluster) == "quarantined"
    assert commands.RevokeLeases("w1", held) in emitted


def test_quarantine_raises_an_alert_with_the_reason_until_it_is_released(cluster):
    emitted = cluster.apply(events.WorkerQuarantined(W1, "bad disk"))
    assert emitted[0] == commands.RaiseAlert("w1", "quarantined", "by the operator: bad disk")
    assert emitted[0].alert_id == "1-1"
    cluster.apply(events.WorkerQuarantined(W1, "bad disk"))
    cluster.submit(task("a"))
    assert not cluster.leases
    assert cluster.why("a") == "no worker that fits takes new work: w1 is quarantined (by the operator: bad disk)"
    emitted = cluster.apply(events.WorkerReleased(W1))
    assert commands.ClearAlert("w1", "quarantined") in emitted
    assert state(cluster) == "healthy"
    assert cluster.leases
    assert alerts(cluster) == [("quarantined", False)]


def test_what_the_operator_says_is_no_sign_of_life(cluster):
    cluster.wait(14.0)
    cluster.apply(events.WorkerDrainRequested(W1))
    cluster.apply(events.WorkerResumed(W1))
    cluster.wait(1.0)
    assert state(cluster) == "suspect"


def test_silence_goes_on_behind_a_drain_and_shows_when_it_is_resumed(cluster):
    cluster.apply(events.WorkerDrainRequested(W1))
    cluster.wait(16.0)
    assert (state(cluster), alerts(cluster)) == ("draining", [("suspect", True)])
    cluster.apply(events.WorkerResumed(W1))
    assert state(cluster) == "suspect"
    cluster.apply(events.WorkerHeartbeat(W1))
    assert (state(cluster), alerts(cluster)) == ("healthy", [("suspect", False)])


def test_an_alert_is_acknowledged_once_and_stays_so_when_it_is_over(cluster):
    cluster.apply(events.WorkerQuarantined(W1, "bad disk"))
    cluster.now = 3.0
    cluster.apply(events.AlertAcknowledged(AlertId("1-1"), "ann"))
    cluster.apply(events.AlertAcknowledged(AlertId("1-1"), "bob"))
    cluster.apply(events.AlertAcknowledged(AlertId("1-99"), "bob"))
    cluster.now = 4.0
    cluster.apply(events.WorkerReleased(W1))
    (alert,) = cluster.state.snapshot().alerts
    assert (alert.raised_at, alert.acknowledged_at, alert.cleared_at) == (0.0, 3.0, 4.0)
    assert alert.acknowledged_by == "ann"


def test_only_the_latest_alerts_that_are_over_are_kept(cluster):
    for number in range(5):
        cluster.apply(events.WorkerQuarantined(W1, str(number)))
        cluster.apply(events.WorkerReleased(W1))
    cluster.apply(events.WorkerQuarantined(W1, "now"))
    kept = cluster.state.snapshot().alerts
    assert [alert.message[-3:] for alert in kept] == [": 3", ": 4", "now"]
    assert len({alert.alert_id for alert in kept}) == 3
