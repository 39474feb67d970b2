"""What waiting work moves to an idle slot, by benefit and cost."""

import math

import pytest

from fleetest.balancing.migration import MOVED_BEFORE_FACTOR, WORTH_MOVING_SHARE
from fleetest.balancing.simple import LeastLoaded
from fleetest.core import commands, events
from fleetest.core.model import AttemptResult, Limits, Verdict
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task


@pytest.fixture
def cluster():
    # Everything is dealt out at once.
    return ScriptedCluster(Limits(heartbeat_interval_s=math.inf, prefetch_s=1000.0))


def donor(cluster, *expected_s, **options):
    """A worker whose one slot runs the first test, and has the others in its queue."""
    cluster.join("busy")
    specs = [task(f"{number}", expected_s=seconds, **options) for number, seconds in enumerate(expected_s)]
    cluster.submit(*specs)
    while cluster.state.cluster.scheduling.waiting(first(cluster).task_class):
        # Portions are bounded; a slot that asks again gets the next one.
        before = len(cluster.queues["busy", 0])
        cluster.apply(events.DeadlineReached())
        slot = cluster.state.cluster.workers["busy"].slots[0]
        cluster.state.cluster.ask([slot])
        cluster.apply(events.DeadlineReached())
        assert len(cluster.queues["busy", 0]) > before
    cluster.start(cluster.queues["busy", 0][0])
    cluster.state.cluster.balancing.prefetch_s = lambda worker: 0.4


def first(cluster):
    return cluster.state.cluster.runs[RUN].tasks["0"]


def join_idle(cluster, *names):
    for name in names:
        cluster.join(name)
    for name in names:
        cluster.ready(name)
    cluster.wait(0.1)


def has_speeds(cluster, **slowness):
    state = cluster.state.cluster
    for _ in range(60):
        for name, factor in slowness.items():
            state.balancing.finished(state.workers[name], 1.0, factor, True, first(cluster).task_class)


def moved(cluster):
    """Names that were asked back, in the order of the messages."""
    granted = [lease for grant in cluster.all(commands.GrantLeases) for lease in grant.leases]
    by_id = {lease.lease_id: lease.task_id for lease in granted}
    return [[by_id[lease_id] for lease_id in revoke.lease_ids] for revoke in cluster.all(commands.RevokeLeases)]


def test_the_far_half_moves(cluster):
    donor(cluster, *[2.0] * 8)
    planned = list(cluster.queues["busy", 0])
    join_idle(cluster, "idle")
    assert moved(cluster) == [planned[4:]]


def proposals(cluster, *idle, policy=None):
    """What the policy proposes for the empty slots of these workers, before the core has a say."""
    state = cluster.state.cluster
    slots = [slot for name in idle for slot in state.workers[name].slots]
    return list((policy or state.balancing).propose(slots, state.busy, state.now))


def test_two_idle_slots_get_two_thirds(cluster):
    donor(cluster, *[2.0] * 9)
    planned = list(cluster.queues["busy", 0])
    for name in ("one", "two"):
        cluster.join(name)
        cluster.state.cluster.workers[name].counted_in.update(cluster.state.cluster.runs[RUN].suites.values())
    (one,) = proposals(cluster, "one")
    assert [live.task.task_id for live in one.leases] == planned[5:]
    (both,) = proposals(cluster, "one", "two")
    assert [live.task.task_id for live in both.leases] == planned[3:]


def test_what_moved_as_often_as_it_may_is_not_proposed(cluster):
    donor(cluster, 20.0, 20.0)
    join_idle(cluster, "idle")
    limits = Limits(heartbeat_interval_s=math.inf, moves_max=1)
    cluster.state.cluster.limits = cluster.state.cluster.balancing._migration._limits = limits
    (waiting,) = moved(cluster)[0]
    live = cluster.state.cluster.runs[RUN].tasks[waiting].lease
    live.is_revoked, live.task.moves = False, 0
    assert len(proposals(cluster, "idle")) == len(proposals(cluster, "idle", policy=bound(LeastLoaded(), cluster))) == 1
    live.task.moves = cluster.state.cluster.limits.moves_max
    assert proposals(cluster, "idle") == proposals(cluster, "idle", policy=bound(LeastLoaded(), cluster)) == []


def bound(policy, cluster):
    state = cluster.state.cluster
    policy.bind(state.placement, state.predict_s, state.limits)
    return policy


def test_counting_tests_half_of_what_waits_moves_and_never_the_first(cluster):
    donor(cluster, *[2.0] * 5)
    planned = list(cluster.queues["busy", 0])
    cluster.join("idle")
    cluster.state.cluster.workers["idle"].counted_in.update(cluster.state.cluster.runs[RUN].suites.values())
    policy = bound(LeastLoaded(), cluster)
    (move,) = proposals(cluster, "idle", policy=policy)
    assert [live.task.task_id for live in move.leases] == planned[3:]
    first_lease, *others = cluster.state.cluster.workers["busy"].slots[0].leases.values()
    first_lease.is_started = False
    for live in others:
        live.is_revoked = True
    assert proposals(cluster, "idle", policy=policy) == []


def test_a_slow_worker_gets_less(cluster):
    donor(cluster, *[2.0] * 8)
    planned = list(cluster.queues["busy", 0])
    for name in ("idle", "x", "y"):
        cluster.join(name)
    has_speeds(cluster, busy=1.0, idle=3.0, x=1.0, y=1.0)
    cluster.ready("idle")
    cluster.wait(0.1)
    assert moved(cluster) == [planned[6:]]


def test_nothing_moves_to_a_worker_that_would_end_later(cluster):
    donor(cluster, 2.0, 2.0)
    for name in ("idle", "x", "y"):
        cluster.join(name)
    has_speeds(cluster, busy=1.0, idle=4.0, x=1.0, y=1.0)
    cluster.ready("idle")
    cluster.wait(1.0)
    assert moved(cluster) == []


def test_the_fixtures_of_a_group_are_a_cost(cluster):
    donor(cluster, *[1.0] * 5, group="g")
    names = list(cluster.queues["busy", 0])
    lease = cluster.leases[names[0]]
    cluster.apply(
        events.AttemptsFinished("busy", [AttemptResult(lease.lease_id, Verdict.PASSED, duration_s=11.0, setup_s=10.0)])
    )
    cluster.start(names[1])
    assert first(cluster).group.set_up_s == 10.0
    join_idle(cluster, "idle")
    assert moved(cluster) == [], "four seconds of work are not worth ten of fixtures"


def test_what_moved_before_moves_only_for_clearly_more(cluster):
    donor(cluster, 30.0, 2.0)
    waiting = cluster.state.cluster.runs[RUN].tasks[cluster.queues["busy", 0][1]]
    share = WORTH_MOVING_SHARE
    while share <= 1.0:
        waiting.moves += 1
        share *= MOVED_BEFORE_FACTOR
    cluster.state.cluster.runs[RUN].tasks[waiting.task_id].moves = waiting.moves
    limits = Limits(heartbeat_interval_s=math.inf, moves_max=99)
    cluster.state.cluster.limits = cluster.state.cluster.balancing._migration._limits = limits
    join_idle(cluster, "idle")
    assert moved(cluster) == []
    waiting.moves = 0
    cluster.wait(5.0)
    assert moved(cluster) == [[waiting.task_id]]


def test_work_that_waits_nowhere_long_does_not_move_for_a_slow_network(cluster):
    donor(cluster, 0.2, 0.3)
    for name in ("idle", "x"):
        cluster.join(name)
    state = cluster.state.cluster
    state.balancing.answered(state.workers["idle"], 0.3)
    cluster.ready("idle")
    cluster.wait(0.05)
    assert moved(cluster) == []


def test_it_never_goes_to_and_fro(cluster):
    """Two slots of one fleet, unequal tests, no one starts anything: the same work is not asked back for ever."""
    donor(cluster, *[1.0, 3.0, 2.0, 5.0, 1.0, 4.0])
    join_idle(cluster, "idle")
    for _ in range(50):
        for revoke in cluster.all(commands.RevokeLeases)[-1:]:
            live = [cluster.state.cluster.leases.get(lease_id) for lease_id in revoke.lease_ids]
            names = [each.task.task_id for each in live if each is not None and each.is_revoked]
            if names:
                cluster.give_back(*names)
        cluster.wait(1.0)
    asked = [name for names in moved(cluster) for name in names]
    assert asked
    assert max(asked.count(name) for name in asked) <= 2
