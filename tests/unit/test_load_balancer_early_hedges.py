"""A test that alone decides when everything ends is tried a second time before any slot is idle."""

import math

import pytest

from fleetest.balancing.migration import is_movable
from fleetest.core import commands, events
from fleetest.core.asking_back import part_suspect
from fleetest.core.model import Capabilities, Limits, Requirements, Verdict
from fleetest.core.requirements import parse_options
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task

MACHINE = Capabilities({}, {"cpus": 4.0})
ON_A_CPU = parse_options({"resources": {"cpus": 1}}).requirements


@pytest.fixture
def cluster():
    return ScriptedCluster(Limits(heartbeat_interval_s=math.inf))


def begin(cluster, *, others=60, slow=2.0, long_s=100.0, known=True, needs=None, **options):
    """``long`` runs on a worker that turns out to be slow; the other one executes tests of one second."""
    for name in ("slow", "other", "x", "y"):
        cluster.join(name, capabilities=MACHINE)
    # Else the longest test would wait until something is known of them.
    cluster.apply(events.SlownessRecalled(dict.fromkeys(("slow", "other", "x", "y"), 1.0)))
    needs = {} if needs is None else {"requirements": needs}
    cluster.submit(
        task("long", expected_s=long_s if known else None, **options),
        *(task(f"{number}", expected_s=1.0 if known else None, **needs) for number in range(others)),
        ready=False,
    )
    cluster.ready("slow")
    cluster.ready("other")
    (first,) = cluster.queues["other", 0][:1]
    cluster.start("long", first)
    state = cluster.state.cluster
    any_class = state.runs[RUN].tasks["long"].task_class
    for _ in range(60):
        for name, factor in {"slow": slow, "other": 1.0, "x": 1.0, "y": 1.0}.items():
            state.balancing.finished(state.workers[name], 1.0, factor, True, any_class)
    cluster.wait(1.0)


def hedge(cluster):
    """The second lease of ``long``, if there is one."""
    return next(iter(cluster.state.cluster.runs[RUN].tasks["long"].extra_leases), None)


def test_it_is_hedged_behind_what_another_worker_has(cluster):
    begin(cluster)
    slot = hedge(cluster).slot
    assert slot.worker.worker_id == "other"
    assert list(slot.leases.values())[-1] is hedge(cluster)
    assert len(slot.leases) > 1


def test_the_first_verdict_is_the_tests(cluster):
    begin(cluster)
    first, second = cluster.state.cluster.runs[RUN].tasks["long"].live_leases
    waiting = [live.task.task_id for live in second.slot.leases.values() if live is not second]
    for name in waiting:
        cluster.finish(name, duration_s=1.0)
    cluster.apply(events.AttemptsStarted("other", [second.lease_id]))
    cluster.report(second, "other", duration_s=100.0)
    assert cluster.verdicts()["long"] is Verdict.PASSED
    assert [kill.lease_ids for kill in cluster.all(commands.KillLeases)] == [(first.lease_id,)]


def test_a_hedge_that_still_waits_is_taken_back_when_the_test_has_ended(cluster):
    begin(cluster)
    first, second = cluster.state.cluster.runs[RUN].tasks["long"].live_leases
    cluster.report(first, "slow", duration_s=5.0)
    assert cluster.verdicts()["long"] is Verdict.PASSED
    assert [kill.lease_ids for kill in cluster.all(commands.KillLeases)] == [(second.lease_id,)]
    assert second.lease_id not in cluster.state.cluster.leases


def test_a_hedge_that_waits_is_not_moved(cluster):
    begin(cluster)
    second = hedge(cluster)
    assert not second.is_started
    assert not is_movable(second, cluster.state.cluster.limits)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"others": 1000}, id="all that is left takes longer anyway"),
        pytest.param({"slow": 1.2}, id="a fresh start would hardly end sooner"),
        pytest.param({"long_s": 1.0, "others": 3}, id="it gains too little"),
        pytest.param({"known": False}, id="nobody knows how much is left"),
        pytest.param({"long_s": None}, id="nobody knows how long it takes"),
        pytest.param({"hedge": False}, id="it must not be hedged"),
        pytest.param({"requirements": ON_A_CPU}, id="it reserves what only an empty slot is sure to have"),
        pytest.param({"needs": ON_A_CPU}, id="nothing may follow what the other worker has"),
    ],
)
def test_it_is_not_hedged(cluster, options):
    begin(cluster, **options)
    assert hedge(cluster) is None


def test_what_nobody_can_run_is_not_left_to_be_done(cluster):
    cluster.join("w")
    nobody = Requirements(resources=(("gpus", 1.0),))
    cluster.submit(
        task("a", expected_s=2.0), task("b", requirements=nobody, expected_s=100.0), task("c", requirements=nobody)
    )
    run = cluster.state.cluster.runs[RUN]
    assert run.left_s == 2.0
    cluster.join("with one", capabilities=Capabilities({}, {"gpus": 1.0}))
    assert run.left_s == math.inf
    cluster.disconnect("with one", goodbye=True)
    assert run.left_s == 2.0


def test_what_is_left_of_a_run_is_counted(cluster):
    cluster.submit(task("a", expected_s=2.0), task("b", expected_s=3.0), task("c"), task("d"))
    run = cluster.state.cluster.runs[RUN]
    assert run.left_s == math.inf
    cluster.join("w")
    cluster.ready("w")
    cluster.start("a")
    cluster.finish("a", duration_s=4.0)
    assert run.left_s == 3.0 + 2 * 4.0
    cluster.cancel(kill=True)
    cluster.wait(60.0)
    assert (run.left_s, run.left.unknown) == (0.0, 0)


def test_hedges_of_both_kinds_share_their_quarter_of_the_slots(cluster):
    """Of four slots one may execute hedges: the idle one, and then not another one behind other work."""
    tests = {
        "only on an idle slot": task("t", expected_s=100.0, requirements=ON_A_CPU),
        "also early": task("t", expected_s=90.0),
        "short": task("t", expected_s=5.0),
    }
    for name, test in tests.items():
        cluster.join(name, capabilities=MACHINE)
        cluster.submit(test, run=name, ready=False)
        cluster.ready(name, run=name)
        cluster.start("t")
    cluster.join("idle", capabilities=MACHINE)
    *slow, _ = tests
    state = cluster.state.cluster
    for run in slow:
        for name in state.workers:
            cluster.ready(name, run=run)
    # All is known at one look.
    for run in slow:
        any_class = state.runs[run].tasks["t"].task_class
        for _ in range(60):
            for worker in state.workers.values():
                slowness = 2.5 if worker.worker_id in slow else 1.0
                state.balancing.finished(worker, 1.0, slowness, True, any_class)
    cluster.wait(10.0)
    assert [run for run in slow if state.runs[run].tasks["t"].extra_leases] == ["only on an idle slot"]


def asked_back(cluster):
    names = {live: task_id for task_id, live in cluster.leases.items()}
    revoked = {lease_id for command in cluster.all(commands.RevokeLeases) for lease_id in command.lease_ids}
    return [task_id for lease, task_id in names.items() if lease.lease_id in revoked]


def test_a_hedge_that_waits_is_asked_back_when_the_test_may_have_ended_its_worker(cluster):
    begin(cluster)
    second = hedge(cluster)
    before = [live.task.task_id for live in second.slot.leases.values() if live is not second]
    cluster.start(before[0])
    cluster.disconnect("slow", dead=True)
    assert asked_back(cluster) == ["long"]
    cluster.finish(before[0], duration_s=1.0)
    cluster.give_back("long")
    assert cluster.queues["other", 0][-1] != "long"
    cluster.ready("x")
    (suspect,) = cluster.state.cluster.workers["x"].slots[0].leases.values()
    assert suspect.task.task_id == "long", "it has a slot to itself"


@pytest.mark.parametrize("is_started", [True, False])
def test_what_waits_behind_a_hedge_is_asked_back(cluster, is_started):
    begin(cluster)
    second = hedge(cluster)
    cluster.finish(*[live.task.task_id for live in second.slot.leases.values() if live is not second])
    head, behind = second.slot.leases.values()
    assert head is second
    if is_started:
        cluster.apply(events.AttemptsStarted("other", [second.lease_id]))
    cluster.disconnect("slow", dead=True)
    assert asked_back(cluster) == [behind.task.task_id]
    cluster.give_back(behind.task.task_id)
    cluster.wait(5.0)
    assert list(second.slot.leases.values()) == [second]
    cluster.report(second, "other", duration_s=100.0)
    assert cluster.verdicts()["long"] is Verdict.PASSED
    assert len(second.slot.leases) > 1


def test_a_worker_without_a_link_is_asked_when_it_is_back(cluster):
    begin(cluster)
    second = hedge(cluster)
    cluster.disconnect("other")
    cluster.disconnect("slow", dead=True)
    assert asked_back(cluster) == []
    cluster.join("other", held=[live.lease_id for live in second.slot.leases.values()])
    assert asked_back(cluster) == ["long"]


def test_a_slot_stays_closed_until_the_last_of_several_suspects_has_gone(cluster):
    cluster.join("w")
    cluster.submit(*(task(f"{number}", group=f"{number}", expected_s=0.01) for number in range(99)))
    cluster.start("0")
    (slot,) = cluster.state.cluster.workers["w"].slots
    first, *others, last = slot.leases.values()
    first.task.losses = last.task.losses = 1
    part_suspect(cluster.state.cluster, slot)
    assert others
    assert all(live.is_revoked for live in (*others, last))
    # None of them is given back: they had begun before their worker heard of that.
    for live in (first, *others):
        cluster.report(live, "w")
    assert list(slot.leases.values()) == [last]


def test_a_slot_stays_closed_while_one_of_several_suspects_has_not_gone(cluster):
    """That which was asked back later, and stands before the others, may begin."""
    cluster.join("w")
    cluster.submit(*(task(f"{number}", group=f"{number}", expected_s=0.01) for number in range(99)))
    cluster.start("0")
    (slot,) = cluster.state.cluster.workers["w"].slots
    first, second, third, *others = slot.leases.values()
    for suspect in (others[0], third):
        suspect.task.losses = 1
        part_suspect(cluster.state.cluster, slot)
    cluster.apply(events.LeasesReturned("w", [live.lease_id for live in others]))
    assert list(slot.leases.values()) == [first, second, third]


def test_what_waits_behind_a_hedge_of_a_cancelled_run_is_asked_back_too(cluster):
    begin(cluster)
    second = hedge(cluster)
    cluster.finish(*[live.task.task_id for live in second.slot.leases.values() if live is not second])
    cluster.apply(events.AttemptsStarted("other", [second.lease_id]))
    cluster.cancel()
    cluster.give_back(*[live.task.task_id for live in second.slot.leases.values() if live is not second])
    cluster.submit(*(task(f"innocent{number}", expected_s=1.0) for number in range(9)), run="another")
    head, *behind = second.slot.leases.values()
    assert head is second
    assert behind
    cluster.disconnect("slow", dead=True)
    assert all(live.is_revoked for live in behind)
