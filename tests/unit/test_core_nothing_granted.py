"""While the coordinator's disk is nearly full no lease is granted; what has one goes on, and then all goes on."""

import math

import pytest

from fleetest.core import commands, events
from fleetest.core.alerts import Cause
from fleetest.core.model import Limits, Requirements, Verdict
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task

LIMITS = Limits(heartbeat_interval_s=math.inf, prefetch_tasks_max=2)
FULL = events.CoordinatorChecked(Cause.DISK_NEARLY_FULL, "3 MiB free: make room")
ROOM = events.CoordinatorChecked(Cause.DISK_NEARLY_FULL)


@pytest.fixture
def cluster():
    return ScriptedCluster(LIMITS)


def granted(emitted):
    return [
        lease.task_id for command in emitted if isinstance(command, commands.GrantLeases) for lease in command.leases
    ]


def notices(emitted):
    return [command.text for command in emitted if isinstance(command, commands.PublishNotice)]


def test_what_has_its_lease_goes_on_and_nothing_follows_until_there_is_room(cluster):
    cluster.join("w")
    cluster.submit(*(task(name) for name in "abcd"))
    assert cluster.queues["w", 0] == ["a", "b"]
    emitted = cluster.apply(FULL)
    assert notices(emitted) == ["no further test is started for now: 3 MiB free: make room"]
    assert [command.cause for command in emitted if isinstance(command, commands.RaiseAlert)] == ["disk nearly full"]
    assert granted(cluster.finish("a", "b")) == []
    assert cluster.why("c") == "no further test is started for now: 3 MiB free: make room"
    assert commands.SlotIdle("w", 0) in cluster.emitted, "its runner need not wait for a successor"
    assert cluster.apply(FULL) == [], "said once"
    emitted = cluster.apply(ROOM)
    assert notices(emitted) == ["tests are started again"]
    assert granted(emitted) == ["c", "d"]
    cluster.finish("c", "d")
    assert set(cluster.verdicts().values()) == {Verdict.PASSED}


def test_nobody_is_an_exception_neither_a_worker_that_joins_nor_what_is_lost(cluster):
    cluster.join("v")
    cluster.submit(task("a"))
    cluster.start("a")
    cluster.apply(FULL)
    cluster.join("w")
    cluster.ready("w")
    assert granted(cluster.disconnect("v", dead=True)) == []
    assert cluster.why("a").startswith("no further test is started for now: ")
    assert granted(cluster.apply(ROOM)) == ["a"]
    assert cluster.worker_of("a") == "w"


def test_a_gang_starts_when_there_is_room(cluster):
    cluster.join("v")
    cluster.join("w")
    cluster.apply(FULL)
    cluster.submit(task("g", requirements=Requirements(workers=2)))
    assert cluster.why("g").startswith("no further test is started for now: ")
    assert granted(cluster.wait(600.0)) == []
    assert granted(cluster.apply(ROOM)) == ["g", "g"]


def test_a_late_test_is_not_hedged(cluster):
    cluster.join("v")
    cluster.join("w")
    cluster.submit(task("a", expected_s=1.0))
    cluster.start("a")
    cluster.apply(FULL)
    assert granted(cluster.wait(600.0)) == []
    assert granted(cluster.apply(ROOM) + cluster.wait(5.0)) == ["a"]


def test_a_run_that_waits_is_cancelled_as_ever(cluster):
    cluster.join("w")
    cluster.apply(FULL)
    cluster.submit(task("a"))
    emitted = cluster.cancel()
    assert commands.RunFinished(RUN, {Verdict.CANCELLED: 1}) in emitted
