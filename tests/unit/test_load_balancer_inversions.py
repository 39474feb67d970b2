"""Urgent work that waits behind a long test is taken to where less urgent work would be next."""

import math
from itertools import pairwise

import pytest

from fleetest.balancing import inversions
from fleetest.core import commands, events
from fleetest.core.model import Capabilities, Limits
from fleetest.core.requirements import parse_options
from fleetest.testing.scripted_cluster import ScriptedCluster, task

URGENT = 5


@pytest.fixture
def cluster():
    return ScriptedCluster(Limits(heartbeat_interval_s=math.inf))


def low(count=20, **options):
    return [task(f"low{number}", expected_s=0.3, **options) for number in range(count)]


def begin(cluster, *, long_s=60.0, known=True, **options):
    """``long`` runs on one worker and ``waits`` is next there; the other one has begun with the low ones."""
    cluster.join("busy")
    cluster.join("other")
    cluster.submit(
        task("long", expected_s=long_s if known else None, priority=2 * URGENT, group=options.get("group", "")),
        task("waits", expected_s=0.3, priority=URGENT, **options),
        *low(),
    )
    cluster.start("long", "low0")
    assert cluster.queues["busy", 0] == ["long", "waits"]


def asked_back(cluster):
    names = {lease.lease_id: name for name, lease in cluster.leases.items()}
    return [names[lease_id] for revoke in cluster.all(commands.RevokeLeases) for lease_id in revoke.lease_ids]


def test_urgent_work_leaves_the_slot_of_a_long_test_for_the_next_one_that_is_free(cluster):
    begin(cluster)
    cluster.wait(1.0)
    assert asked_back(cluster) == ["waits"]
    cluster.give_back("waits")
    assert cluster.queues["busy", 0] == ["long", "waits"], "it would only wait there again"
    cluster.finish("low0", duration_s=0.3)
    cluster.start("low1")
    assert cluster.queues["other", 0][-1] == "waits"
    cluster.finish("low1", "waits")
    assert cluster.worker_of("waits") == "other"
    assert list(cluster.verdicts()).count("waits") == 1


def test_it_does_not_go_from_behind_one_long_test_to_behind_another(cluster):
    cluster.join("busy")
    cluster.join("as busy")
    cluster.submit(task("long", expected_s=60.0), run="long")
    cluster.submit(task("as long", expected_s=60.0), run="as long", ready=False)
    cluster.ready("as busy", run="as long")
    cluster.join("other")
    lows = [task(f"low{number}", expected_s=3.0, group="g", keep_together=True) for number in range(9)]
    cluster.submit(*lows, run="low", ready=False)
    cluster.ready("other", run="low")
    cluster.start("long", "as long", "low0")
    cluster.submit(task("waits", expected_s=0.3), run="urgent", priority=URGENT, ready=False)
    for name in ("busy", "as busy", "other"):
        cluster.ready(name, run="urgent")
    assert cluster.worker_of("waits") in ("busy", "as busy")
    cluster.wait(1.5)
    assert asked_back(cluster) == ["waits"]
    cluster.give_back("waits")
    was_granted_to = [name for name in ("busy", "as busy", "other") if "waits" in cluster.queues[name, 0]]
    assert was_granted_to == ["busy"]
    cluster.finish("low0", duration_s=3.0)
    assert cluster.worker_of("waits") == "other"


def test_the_slot_of_the_long_test_gets_work_again_when_that_has_ended(cluster):
    begin(cluster)
    cluster.wait(1.0)
    cluster.give_back("waits")
    assert commands.SlotIdle("busy", 0) in cluster.emitted, "its runner must not wait for what does not come"
    cluster.finish("long", duration_s=60.0)
    assert cluster.queues["busy", 0][2:]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"long_s": 1.5}, id="it does not wait for long"),
        pytest.param({"group": "g", "keep_together": True}, id="its group is kept together"),
    ],
)
def test_it_stays(cluster, options):
    begin(cluster, **options)
    cluster.wait(1.0)
    assert asked_back(cluster) == []


def test_a_class_stays_together(cluster):
    cluster.join("busy")
    cluster.join("other")
    cluster.submit(
        task("f.py::A::test_long", expected_s=60.0, priority=2 * URGENT, group="f.py"),
        task("f.py::A::test_next", expected_s=0.3, priority=URGENT, group="f.py"),
        *low(),
    )
    cluster.start("f.py::A::test_long", "low0")
    assert "f.py::A::test_next" in cluster.queues["busy", 0]
    cluster.wait(1.0)
    assert asked_back(cluster) == []


def test_what_moved_as_often_as_it_may_stays(cluster):
    begin(cluster)
    waits = cluster.state.cluster.runs["run"].tasks["waits"]
    waits.moves = cluster.state.cluster.limits.moves_max
    cluster.wait(3.0)
    assert asked_back(cluster) == []


def test_what_moved_before_moves_only_for_clearly_more(cluster):
    begin(cluster, long_s=8.0)
    cluster.state.cluster.runs["run"].tasks["waits"].moves = 2
    cluster.wait(1.0)
    assert asked_back(cluster) == [], "nine seconds are wanted"


def test_nothing_moves_to_a_worker_that_cannot_run_it(cluster):
    cluster.join("busy", capabilities=Capabilities({"os": ("linux",)}))
    cluster.join("other")
    on_linux = parse_options({"requires": "os=linux"}).requirements
    cluster.submit(
        task("long", expected_s=60.0, priority=2 * URGENT, requirements=on_linux),
        task("waits", expected_s=0.3, priority=URGENT, requirements=on_linux),
        *low(),
    )
    cluster.start("long", "low0")
    assert cluster.queues["busy", 0] == ["long", "waits"]
    cluster.wait(3.0)
    assert asked_back(cluster) == []


def test_work_of_equal_priority_stays_where_it_is_and_nobody_looks(cluster):
    cluster.join("busy")
    cluster.join("other")
    # Else the longest test would wait until something is known of them.
    cluster.apply(events.SlownessRecalled({"busy": 1.0, "other": 1.0}))
    cluster.submit(task("long", expected_s=60.0), *low())
    cluster.start("long", "low0")
    assert not cluster.state.cluster.has_priorities
    cluster.wait(3.0)
    assert asked_back(cluster) == []


def test_priorities_of_runs_that_have_ended_do_not_count(cluster):
    begin(cluster)
    assert cluster.state.cluster.has_priorities
    cluster.cancel(kill=True)
    cluster.wait(60.0)
    assert cluster.state.cluster.priorities == {}


def test_a_test_of_unknown_duration_turns_out_to_be_long(cluster):
    begin(cluster, known=False)
    cluster.wait(0.8)
    assert asked_back(cluster) == []
    for number in range(10):
        cluster.finish(f"low{number}", duration_s=0.3)
        cluster.start(f"low{number + 1}")
        cluster.wait(0.3)
    assert asked_back(cluster) == ["waits"]


def test_in_a_large_fleet_only_some_slots_are_looked_at(cluster, monkeypatch):
    begin(cluster)
    state = cluster.state.cluster
    assert len(state.balancing.inversions(state.busy, cluster.now, {}).leases) == 1
    monkeypatch.setattr(inversions, "LOOKED_AT", 0)
    assert list(state.balancing.inversions(state.busy, cluster.now, {}).leases) == []


def slots_of(cluster, *names):
    return [cluster.state.cluster.workers[name].slots[0] for name in names]


def two_busy_slots(cluster, *, first_s=1.5, late_s=50.0, next_s=60.0):
    """Both run one test, and have a long one next that is no more urgent than what else waits."""
    for number, name in enumerate(("soon", "late")):
        cluster.join(name)
        head_s = first_s if name == "soon" else late_s
        run = [task("head", expected_s=head_s, priority=1), task("next", expected_s=next_s)]
        cluster.submit(*run, run=name, ready=False)
        cluster.ready(name, run=name)
        cluster.start("head")
        assert cluster.queues[name, 0] == ["head", "next"]
        assert len(cluster.state.cluster.leases) == 2 * (number + 1)


def revoked(cluster):
    """Names of what was asked back so far, with where it waited."""
    leases = {
        lease.lease_id: (command.worker_id, lease.task_id)
        for command in cluster.all(commands.GrantLeases)
        for lease in command.leases
    }
    return [leases[lease_id] for command in cluster.all(commands.RevokeLeases) for lease_id in command.lease_ids]


def returned(cluster, worker):
    """The worker gives back all that it was asked for."""
    lease_ids = [
        live.lease_id for slot in slots_of(cluster, worker) for live in slot.leases.values() if live.is_revoked
    ]
    cluster.apply(events.LeasesReturned(worker, lease_ids))


def submit_urgent(cluster, *tasks):
    cluster.submit(*tasks, run="urgent", priority=URGENT, ready=False)
    for name in cluster.state.cluster.workers:
        cluster.ready(name, run="urgent")


def test_a_long_successor_gives_way_to_urgent_work_that_is_queued(cluster):
    two_busy_slots(cluster)
    submit_urgent(cluster, task("urgent", expected_s=0.3))
    assert "urgent" not in cluster.leases
    cluster.wait(1.0)
    assert revoked(cluster) == [("soon", "next")], "and of those where it is of use only"
    returned(cluster, "soon")
    assert cluster.queues["soon", 0][-1] == "urgent"


def test_as_many_give_way_as_urgent_tests_are_queued(cluster):
    two_busy_slots(cluster, late_s=3.0)
    submit_urgent(cluster, *(task(f"{number}", expected_s=0.3, group=f"{number}") for number in range(2)))
    cluster.wait(1.0)
    assert revoked(cluster) == [("soon", "next"), ("late", "next")]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"next_s": 0.9}, id="it is not long"),
        pytest.param({"first_s": 70.0}, id="that would help too little"),
    ],
)
def test_a_successor_stays(cluster, options):
    two_busy_slots(cluster, **options)
    submit_urgent(cluster, task("urgent", expected_s=0.3))
    cluster.wait(1.0)
    assert ("soon", "next") not in revoked(cluster)


def test_what_gave_way_as_often_as_it_may_stays(cluster):
    two_busy_slots(cluster)
    for run in ("soon", "late"):
        cluster.state.cluster.runs[run].tasks["next"].moves = cluster.state.cluster.limits.moves_max
    submit_urgent(cluster, task("urgent", expected_s=0.3))
    cluster.wait(3.0)
    assert revoked(cluster) == []


def test_a_long_test_before_an_urgent_one_in_the_same_queue_gives_way(cluster):
    """That it is long shows only when the urgent one is there already."""
    for name in ("here", "there"):
        cluster.join(name)
    cluster.submit(*(task(f"{number}", group=f"{number}") for number in range(9)), run="low")
    here, there = slots_of(cluster, "here", "there")
    for slot in (here, here, there):
        cluster.report(slot.head(), slot.worker.worker_id, duration_s=0.01)
    cluster.submit(task("urgent", expected_s=0.3), run="urgent", priority=URGENT, ready=False)
    cluster.ready("here", run="urgent")
    *before, urgent = [live.task.task_id for live in here.leases.values()][1:]
    assert (urgent, bool(before)) == ("urgent", True)
    cluster.report(there.head(), "there", duration_s=60.0)
    cluster.wait(2.0)
    assert revoked(cluster) == [("here", name) for name in before]


def test_a_slot_is_cleared_for_what_is_taken_from_behind_a_long_test(cluster):
    begin(cluster)
    (other,) = slots_of(cluster, "other")
    cluster.submit(task("longer", expected_s=60.0, priority=1), run="longer", ready=False)
    cluster.ready("other", run="longer")
    names = [live.task.task_id for live in other.leases.values()]
    cluster.finish(*names[:-1], duration_s=0.3)
    cluster.start(names[-1])
    assert [live.task.task_id for live in other.leases.values()] == [names[-1], "longer"]
    cluster.wait(1.0)
    assert revoked(cluster) == [("busy", "waits"), ("other", "longer")]
    returned(cluster, "other")
    assert len(other.leases) == 1, "nothing less urgent comes before it"
    returned(cluster, "busy")
    cluster.finish(names[-1], duration_s=0.3)
    assert other.head().task.task_id == "waits"


def test_it_goes_to_a_slot_whose_next_test_would_be_less_urgent(cluster):
    begin(cluster)
    (other,) = slots_of(cluster, "other")
    for live in other.leases.values():
        live.task.priority = URGENT
    cluster.wait(1.0)
    assert revoked(cluster) == [("busy", "waits")]


def test_looks_come_soon_while_urgent_work_waits_that_nothing_helps(cluster):
    begin(cluster)
    (other,) = slots_of(cluster, "other")
    cluster.submit(task("longer", expected_s=60.0, priority=1), run="longer", ready=False)
    cluster.ready("other", run="longer")
    cluster.finish(*[live.task.task_id for live in other.leases.values()], duration_s=0.3)
    assert other.head().task.task_id == "longer"
    cluster.start("longer")
    balancing = cluster.state.cluster.balancing
    look, looked_at = balancing.inversions, []

    def note(*arguments):
        looked_at.append(cluster.now)
        return look(*arguments)

    balancing.inversions = note
    cluster.wait(3.0)
    assert revoked(cluster) == []
    assert max(later - at for at, later in pairwise(looked_at[1:])) < 0.25
    looked_at.clear()
    cluster.finish("longer", duration_s=0.1)
    cluster.wait(3.0)
    assert revoked(cluster) == [("busy", "waits")]
    assert min(later - at for at, later in pairwise(looked_at[1:])) > 0.5


def test_a_slot_is_looked_through_once_for_all_classes_of_a_priority(cluster, monkeypatch):
    two_busy_slots(cluster)
    for number in range(20):
        run = f"urgent {number}"
        cluster.submit(task("urgent", expected_s=0.3), run=run, priority=URGENT, ready=False)
        for name in ("soon", "late"):
            cluster.ready(name, run=run)
    find, looked_through = inversions.Inversions._in_the_way, []

    def note(self, slot, *arguments):
        looked_through.append(slot)
        return find(self, slot, *arguments)

    monkeypatch.setattr(inversions.Inversions, "_in_the_way", note)
    state = cluster.state.cluster
    queued = {task_class: (URGENT, 1) for task_class in state.scheduling.waiting_classes() if task_class.run.priority}
    assert len(queued) == 20
    (lease,) = state.balancing.inversions(state.busy, cluster.now, queued).leases
    assert lease.slot in slots_of(cluster, "soon")
    assert len(looked_through) <= 2
