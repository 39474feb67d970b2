"""What a slot gets next, and what it is told when nothing follows."""

import math

import pytest

from fleetest.core import commands, events
from fleetest.core.model import (
    AttemptResult,
    Capabilities,
    Constraint,
    Limits,
    Operator,
    Requirements,
    RunId,
    Verdict,
    WorkerId,
)
from fleetest.core.requirements import parse_options
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task

FOREVER = Limits(heartbeat_interval_s=math.inf)
GPU = Capabilities({"cuda": ("12.4",)}, {"gpus": 1.0, "cpus": 4.0})
OLD_GPU = Capabilities({"cuda": ("11.8",)}, {"gpus": 1.0, "cpus": 4.0})
PLAIN = Capabilities({}, {"cpus": 4.0})


def needs(**options):
    return parse_options(options).requirements


@pytest.fixture
def cluster():
    return ScriptedCluster(FOREVER)


def running(cluster):
    """Task at the head of each slot."""
    return {
        (worker.worker_id, task.slot): task.task_id
        for worker in cluster.state.snapshot().workers
        for task in worker.running
    }


def work_off(cluster, duration_s=0.1, limit=1000):
    """Finish whatever is at the head of each slot, in turn, until nothing is; returns (slot, task) in that order."""
    done = []
    while heads := running(cluster):
        for slot, name in heads.items():
            done.append((slot, name))
            cluster.finish(name, duration_s=duration_s)
            assert len(done) < limit, "no end"
    return done


# Order -------------------------------------------------------------------------------------------------------------


def test_priority_then_submission(cluster):
    cluster.join("w")
    cluster.submit(
        task("a", group="a"), task("b", group="b", priority=5), task("c", group="c"), task("d", group="d", priority=9)
    )
    assert [name for _, name in work_off(cluster)] == ["d", "b", "a", "c"]


def test_the_priority_of_a_run_counts_for_its_tasks(cluster):
    cluster.join("w")
    cluster.submit(*(task(f"a{i}", expected_s=10.0) for i in range(9)), run="r1")
    cluster.submit(task("b"), run="r2", priority=1)
    assert [name for _, name in work_off(cluster)].index("b") == 2


def test_what_nobody_can_run_holds_up_nothing(cluster):
    cluster.join("w", capabilities=PLAIN)
    cluster.submit(task("gpu", priority=9, requirements=needs(gpus=1)), task("a"))
    assert cluster.queues == {("w", 0): ["a"]}
    assert cluster.why("gpu") == "no worker has gpus 1 (closest: worker w lacks gpus 1 (has 0))"
    cluster.join("g", capabilities=GPU)
    cluster.ready("g")
    assert cluster.worker_of("gpu") == "g"


def test_a_slot_does_not_stay_with_a_run_for_tests_that_are_in_no_group(cluster):
    cluster.join("w", slots=4)
    for run, weight in (("x", 3.0), ("y", 1.0)):
        cluster.submit(*(task(f"{run}{n}", group="", expected_s=0.2) for n in range(100)), run=run, weight=weight)
    done = []
    for _ in range(16):
        for name in running(cluster).values():
            done.append(name)
            cluster.finish(name, duration_s=0.2)
    # The first portions were dealt to x alone.
    assert 12 <= sum(name.startswith("y") for name in done) <= 16


def test_owners_share_the_fleet_fairly(cluster):
    cluster.join("w")
    cluster.submit(*(task(f"x{i}", group=f"x{i}", expected_s=10.0) for i in range(20)), run="x", owner="ann")
    cluster.submit(*(task(f"y{i}", group=f"y{i}", expected_s=10.0) for i in range(10)), run="y", owner="bob")
    cluster.submit(*(task(f"z{i}", group=f"z{i}", expected_s=10.0) for i in range(10)), run="z", owner="bob")
    order = [name[0] for _, name in work_off(cluster, 10.0)][2:22]
    assert 9 <= order.count("x") <= 11
    assert 4 <= order.count("y") <= 6


@pytest.mark.parametrize("owners", [("ann", "ann"), ("ann", "bob")])
@pytest.mark.parametrize(("light_s", "heavy_s"), [(10.0, 10.0), (4.0, 20.0), (20.0, 4.0)])
def test_runs_share_by_weight_whatever_their_tasks_take(cluster, owners, light_s, heavy_s):
    cluster.join("w")
    for run, owner, weight, seconds in (("x", owners[0], 1.0, light_s), ("y", owners[1], 3.0, heavy_s)):
        tasks = (task(f"{run}{i}", group=f"{run}{i}", expected_s=seconds) for i in range(400))
        cluster.submit(*tasks, run=run, owner=owner, weight=weight)
    cluster.finish("x0", "x1", duration_s=light_s)  # granted while it was the only run
    used_s = {"x": 0.0, "y": 0.0}
    while sum(used_s.values()) < 1600.0:
        [name] = running(cluster).values()
        seconds = light_s if name[0] == "x" else heavy_s
        used_s[name[0]] += seconds
        cluster.finish(name, duration_s=seconds)
    assert used_s["y"] / used_s["x"] == pytest.approx(3.0, rel=0.1)


def test_a_newcomer_is_not_owed_the_past(cluster):
    cluster.join("w")
    cluster.submit(*(task(f"x{i}", group=f"x{i}", expected_s=10.0) for i in range(40)), run="x", owner="ann")
    for _ in range(10):
        cluster.finish(*running(cluster).values(), duration_s=10.0)
    cluster.submit(*(task(f"y{i}", group=f"y{i}", expected_s=10.0) for i in range(20)), run="y", owner="bob")
    order = [name[0] for _, name in work_off(cluster, 10.0)][2:22]
    assert 8 <= order.count("y") <= 12


def test_a_slot_stays_in_its_group_before_it_serves_the_poorer_owner(cluster):
    cluster.join("w")
    for owner in ("ann", "bob"):
        cluster.submit(*(task(f"{owner}{i}", group="g", expected_s=1.0) for i in range(4)), run=owner, owner=owner)
    order = [name[:3] for _, name in work_off(cluster, 1.0)]
    assert order == ["ann"] * 4 + ["bob"] * 4


def test_the_group_with_most_expected_work_starts_first(cluster):
    cluster.join("w")
    cluster.submit(
        task("a1", group="a", expected_s=1),
        task("b1", group="b", expected_s=2),
        task("b2", group="b", expected_s=2),
        task("c1", group="c", expected_s=3),
    )
    assert [name for _, name in work_off(cluster, 1.0)] == ["b1", "b2", "c1", "a1"]


def test_a_very_long_task_starts_apart_from_its_group(cluster):
    cluster.join("w", slots=2)
    tasks = [task(f"a{i}", group="a", expected_s=0.5) for i in range(20)]
    cluster.submit(*tasks, task("long", group="a", expected_s=20.0))
    assert "long" in running(cluster).values()


# Groups and locality -----------------------------------------------------------------------------------------------


def test_a_group_is_worked_off_in_planned_order_by_one_slot(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*(task(f"{group}{i}", group=group) for group in "abcd" for i in range(4)))
    done = work_off(cluster)
    slots = {}
    for slot, name in done:
        slots.setdefault(name[0], []).append((slot, int(name[1])))
    whole = [group for group, places in slots.items() if len({slot for slot, _ in places}) == 1]
    assert len(whole) >= 3, slots
    for group in whole:
        assert [number for _, number in slots[group]] == [0, 1, 2, 3]


def test_an_idle_slot_helps_the_largest_group_from_its_far_end(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*(task(f"{i:02}", group="a", expected_s=1.0) for i in range(20)))
    done = work_off(cluster, 1.0)
    first = [name for slot, name in done if slot == ("w", 0)]
    second = [name for slot, name in done if slot == ("w", 1)]
    assert first[0] == "00"
    assert second[0] == "10"
    assert len(first) == len(second) == 10


def test_a_group_is_divided_right_when_its_last_task_left_and_came_back(cluster):
    cluster.join("w")
    cluster.submit(*(task(f"{i:02}", group="a", expected_s=1.0) for i in range(20)))
    records = cluster.state.cluster
    last = records.runs[RUN].tasks["19"]
    for _ in range(3):
        records.dequeue([last])
        records.enqueue([last])
    cluster.join("v")
    cluster.ready("v")
    done = work_off(cluster, 1.0)
    assert sorted(name for _, name in done) == [f"{i:02}" for i in range(20)]


def test_the_group_with_most_work_left_is_helped_not_the_one_that_was_largest(cluster):
    cluster.join("w", slots=2)
    cluster.submit(
        *(task(f"a{i:02}", group="a", expected_s=1.0) for i in range(20)),
        *(task(f"b{i:02}", group="b", expected_s=1.0) for i in range(12)),
    )
    slot_of_a = next(slot for slot, queue in cluster.queues.items() if queue[0] == "a00")
    for _ in range(15):
        cluster.finish(running(cluster)[slot_of_a], duration_s=1.0)
    cluster.join("v")
    cluster.ready("v")
    assert cluster.queues["v", 0][0][0] == "b"


def test_a_group_that_is_kept_together_stays_on_one_slot(cluster):
    cluster.join("w", slots=3)
    cluster.submit(*(task(f"{i}", group="g", keep_together=True) for i in range(9)))
    done = work_off(cluster)
    assert len({slot for slot, _ in done}) == 1
    assert [name for _, name in done] == [str(i) for i in range(9)]


def test_a_retry_of_a_kept_group_stays_on_its_slot(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.submit(*(task(f"{i}", group="g", keep_together=True, retries=1) for i in range(3)))
    worker = cluster.worker_of("0")
    cluster.finish("0", verdict=Verdict.FAILED)
    cluster.finish("1", "2")
    assert cluster.worker_of("0") == worker
    assert cluster.leases["0"].attempt == 2


def test_the_slot_of_a_kept_group_is_woken_when_more_of_it_is_ready(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.apply(events.RunSubmitted(RUN))
    for worker in ("w1", "w2"):
        cluster.ready(worker)
    cluster.plan(
        task("a", group="g", keep_together=True),
        task("other", group="h", expected_s=5.0),
        task("b", group="g", keep_together=True, depends_on=["other"]),
    )
    worker = cluster.worker_of("a")
    assert cluster.worker_of("other") != worker
    cluster.finish("a")
    cluster.finish("other")
    assert cluster.worker_of("b") == worker


def test_a_kept_group_that_wants_its_worker_alone_waits_for_the_other_slots(cluster):
    cluster.join("w", slots=2)
    alone = Requirements(alone=True)
    cluster.submit(*(task(f"a{i}", group="g", keep_together=True, requirements=alone) for i in range(2)))
    assert list(running(cluster).values()) == ["a0"]
    cluster.submit(task("b0", group="0"), task("b1", group="1"), run="other", priority=5)
    cluster.finish("a0")
    assert set(running(cluster).values()) == {"b0", "b1"}
    first = running(cluster)["w", 0]
    cluster.finish(first)
    assert "a1" not in cluster.leases
    assert cluster.why("a1") == "waiting for worker w to have nothing else running"
    cluster.finish(*running(cluster).values())
    assert running(cluster) == {("w", 0): "a1"}


def test_nothing_is_moved_to_or_hedged_on_a_worker_that_runs_empty_for_who_wants_it_alone(cluster):
    cluster.join("w", slots=2, capabilities=OLD_GPU)
    cluster.join("p", capabilities=PLAIN)
    cluster.submit(
        task("x", requirements=needs(requires="cuda=*"), expected_s=100.0),
        task("a", requirements=needs(requires="cuda=*", alone=True), expected_s=1.0),
        *(task(f"{i}", group=f"{i}", expected_s=5.0) for i in range(3)),
        ready=False,
    )
    cluster.ready("p")
    cluster.ready("w")
    cluster.start("x", "0")
    cluster.wait(60.0)
    assert running(cluster) == {("w", 0): "x", ("p", 0): "0"}
    assert not cluster.all(commands.RevokeLeases)
    assert cluster.why("2").startswith("waiting for a free slot: w/1 is kept empty for a test that wants w alone")


def test_a_kept_group_moves_when_its_worker_is_lost(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.submit(*(task(f"{i}", group="g", keep_together=True, expected_s=1.0) for i in range(6)))
    worker = cluster.worker_of("0")
    cluster.finish("0")
    cluster.disconnect(worker, dead=True)
    done = work_off(cluster)
    assert [name for _, name in done] == ["1", "2", "3", "4", "5"]
    assert {slot[0] for slot, _ in done} == {"w1", "w2"} - {worker}


def test_a_kept_group_runs_where_all_of_it_can(cluster):
    cluster.join("p", capabilities=PLAIN)
    cluster.join("g", capabilities=GPU)
    cluster.submit(
        task("a", group="g", keep_together=True),
        task("b", group="g", keep_together=True, requirements=needs(requires="cuda>=12")),
    )
    assert {cluster.worker_of(name) for name in ("a", "b")} == {"g"}


# Portions ----------------------------------------------------------------------------------------------------------


def test_unknown_tasks_come_in_small_grants_and_fast_ones_in_hundreds():
    cluster = ScriptedCluster(FOREVER)
    cluster.join("w", slots=2)
    cluster.submit(*(task(f"{i}", group="a") for i in range(5000)))
    first = cluster.all(commands.GrantLeases)
    assert all(len(grant.leases) <= 5 for grant in first)
    for slot in (0, 1):
        cluster.finish(*list(cluster.queues["w", slot]), duration_s=0.0003)
    largest = max(len(grant.leases) for grant in cluster.all(commands.GrantLeases))
    assert largest >= 200


def test_a_queue_is_filled_when_half_of_it_is_gone():
    cluster = ScriptedCluster(FOREVER)
    cluster.join("w")
    cluster.submit(*(task(f"{i:03}", group="a", expected_s=0.02) for i in range(400)))
    first = list(cluster.queues["w", 0])
    assert len(first) == 20
    cluster.finish(*first[:10])
    assert len(cluster.all(commands.GrantLeases)) <= 3
    cluster.finish(*first[10:12])
    assert len(cluster.queues["w", 0]) >= 30


def test_one_grant_per_slot_and_event(cluster):
    cluster.join("w", slots=2)
    emitted = cluster.submit(*(task(f"{i}", group=f"g{i}") for i in range(100)))
    slots = [command.slot for command in emitted if isinstance(command, commands.GrantLeases)]
    assert sorted(slots) == [0, 1]


def test_few_tasks_are_spread_before_they_are_stacked(cluster):
    cluster.join("w", slots=4)
    cluster.submit(*(task(f"{i}", group="a") for i in range(4)))
    assert sorted(len(queue) for queue in cluster.queues.values()) == [1, 1, 1, 1]


def test_long_tests_have_one_successor_each(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*(task(f"{i}", group="a", expected_s=10.0) for i in range(8)))
    assert {slot: len(queue) for slot, queue in cluster.queues.items()} == {("w", 0): 2, ("w", 1): 2}


# Idle --------------------------------------------------------------------------------------------------------------


def test_an_idle_slot_is_told_once(cluster):
    assert cluster.join("w", slots=2) == [commands.SlotIdle("w", 0), commands.SlotIdle("w", 1)]
    assert cluster.apply(events.DeadlineReached()) == []


def test_idle_is_said_right_after_the_last_lease(cluster):
    cluster.join("w")
    emitted = cluster.submit(task("a"), task("b"))
    assert isinstance(emitted[-1], commands.SlotIdle)
    assert not any(isinstance(command, commands.SlotIdle) for command in cluster.finish("a"))
    assert not any(isinstance(command, commands.SlotIdle) for command in cluster.finish("b"))


def test_idle_is_not_said_while_more_is_to_come(cluster):
    cluster.join("w")
    emitted = cluster.submit(*(task(f"{i}") for i in range(50)))
    assert not any(isinstance(command, commands.SlotIdle) for command in emitted)


def test_idle_is_said_again_after_another_grant(cluster):
    cluster.join("w")
    cluster.submit(task("a"), run="r1")
    before = len(cluster.all(commands.SlotIdle))
    cluster.submit(task("b"), run="r2")
    assert len(cluster.all(commands.SlotIdle)) == before + 1


# Reservations ------------------------------------------------------------------------------------------------------


def test_resources_are_reserved_while_a_task_runs(cluster):
    cluster.join("g", slots=3, capabilities=GPU)
    cluster.submit(*(task(f"{i}", requirements=needs(gpus=1)) for i in range(3)))
    assert list(running(cluster).values()) == ["0"]
    assert commands.SlotIdle("g", 0) in cluster.emitted
    waiting = next(name for name in ("1", "2") if name not in cluster.leases)
    assert cluster.why(waiting) == "waiting for gpus on g (needs 1, 0 free)"
    assert [name for _, name in work_off(cluster)] == ["0", "1", "2"]


def test_why_names_the_run_of_who_holds_a_lock_if_it_is_another_one(cluster):
    cluster.join("w", slots=2)
    cluster.submit(task("a", requirements=needs(lock="db")), run="0123456789abcdef")
    cluster.submit(task("a", requirements=needs(lock="db")), task("g", requirements=needs(lock="db")))
    assert cluster.why("a") == "waiting for lock 'db' (held by task 'a' of run 0123456789ab)"
    cluster.join("v")
    cluster.submit(task("gang", requirements=needs(lock="db", workers=2)), run="gangs")
    assert cluster.why("gang", "gangs") == "waiting for lock 'db' (held by task 'a' of run 0123456789ab)"


def test_why_says_of_urgent_work_that_it_goes_first(cluster):
    cluster.join("w")
    names = [f"{number}" for number in range(3)]
    cluster.submit(*(task(name, group=name, priority=5, expected_s=100.0) for name in names), run="urgent")
    cluster.submit(task("x", expected_s=100.0))
    (waiting,) = [name for name in names if name not in cluster.leases]
    assert cluster.why("x") == (
        "waiting for a free slot: all workers that could run it are busy; 1 other waits for them,"
        " higher priority first: up to 5, its own is 0"
    )
    assert cluster.why(waiting, "urgent").endswith("busy; 1 other waits for them"), "nothing goes before it"


def test_why_names_who_has_the_worker_for_itself(cluster):
    cluster.join("w", slots=2, capabilities=GPU)
    cluster.submit(task("a", requirements=needs(alone=True)))
    cluster.submit(task("g", requirements=needs(gpus=1)), run="other")
    assert cluster.why("g", "other") == "waiting for worker w (task 'a' of run run has it for itself)"


def test_why_says_memory_with_its_unit(cluster):
    cluster.join("w", slots=2, capabilities=Capabilities({}, {"memory": 8.0 * 2**30}))
    cluster.submit(*(task(f"{i}", requirements=needs(memory="5GiB")) for i in range(2)))
    assert cluster.why("1") == "waiting for memory on w (needs 5 GiB, 3 GiB free)"


def test_a_reserving_task_gets_a_slot_although_plain_work_never_ends(cluster):
    cluster.join("g", slots=2, capabilities=GPU)
    cluster.submit(*(task(f"{i}", group="a", expected_s=0.1) for i in range(200)))
    cluster.submit(task("gpu", requirements=needs(gpus=1)), run="other")
    for _ in range(90):
        cluster.finish(*running(cluster).values())
        if "gpu" in cluster.leases:
            break
    assert "gpu" in cluster.leases
    assert len(cluster.verdicts()) < 150


def test_one_slot_after_the_other_runs_dry_for_reserving_tasks(cluster):
    two = Capabilities({}, {"gpus": 2.0})
    cluster.join("g", slots=2, capabilities=two)
    cluster.submit(*(task(f"{i}", group=f"{i}", expected_s=1.0) for i in range(40)))
    cluster.submit(*(task(f"gpu{i}", requirements=needs(gpus=1)) for i in range(2)), run="other", priority=1)
    for _ in range(8):
        cluster.finish(*(name for name in running(cluster).values() if not name.startswith("gpu")), duration_s=1.0)
    assert set(running(cluster).values()) == {"gpu0", "gpu1"}


def test_a_lock_holds_across_the_fleet(cluster):
    cluster.join("w1", slots=2)
    cluster.join("w2", slots=2)
    cluster.submit(*(task(f"{i}", group=f"{i}", requirements=needs(lock="db")) for i in range(4)), task("plain"))
    locked = [name for name in running(cluster).values() if name != "plain"]
    assert len(locked) == 1
    waiting = next(str(i) for i in range(4) if str(i) not in cluster.leases)
    assert cluster.why(waiting) == f"waiting for lock 'db' (held by task {locked[0]!r})"
    cluster.finish(locked[0])
    assert len([name for name in running(cluster).values() if name != "plain"]) == 1
    assert len(work_off(cluster)) == 4


def test_a_task_alone_has_its_worker_for_itself_and_comes_last(cluster):
    cluster.join("w", slots=3)
    cluster.submit(
        task("alone", requirements=Requirements(alone=True)), *(task(f"{i}", group=f"{i}") for i in range(9))
    )
    done = []
    while heads := list(running(cluster).values()):
        done += heads
        cluster.finish(*heads)
        if "alone" in heads:
            assert heads == ["alone"]
    assert done[-1] == "alone"


def test_a_worker_is_held_back_for_a_task_of_higher_priority_that_wants_it_alone(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*(task(f"{i}", group=f"{i}", expected_s=1.0) for i in range(50)))
    cluster.submit(task("alone", requirements=Requirements(alone=True), priority=1), run="other")
    for _ in range(10):
        if "alone" in cluster.leases:
            break
        cluster.finish(*running(cluster).values(), duration_s=1.0)
    assert list(running(cluster).values()) == ["alone"]
    cluster.finish("alone")
    assert len(running(cluster)) == 2


def test_who_is_kept_from_a_worker_gets_it_though_that_cannot_execute_another_suite(cluster):
    cluster.join("w", slots=2)
    cluster.submit(task("x", expected_s=60.0))
    cluster.submit(task("alone", requirements=Requirements(alone=True), priority=1), run="urgent")
    cluster.submit(task("y"), run="waiting")
    assert set(cluster.leases) == {"x"}
    cluster.submit(task("z"), run="elsewhere", ready=False)
    cluster.apply(events.SuiteUnavailable(WorkerId("w"), RunId("elsewhere"), "", "no such directory"))
    assert set(cluster.leases) == {"x"}
    cluster.cancel(run="urgent")
    assert set(cluster.leases) == {"x", "y"}


def test_no_more_workers_are_held_back_than_there_are_tasks_that_want_one_alone(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.submit(*(task(f"{i}", group=f"{i}", expected_s=1.0) for i in range(40)))
    cluster.submit(task("alone", requirements=Requirements(alone=True), priority=1), run="other")
    for _ in range(6):
        assert running(cluster)
        cluster.finish(*running(cluster).values(), duration_s=1.0)
    assert "alone" in cluster.leases
    done = {name for name in cluster.verdicts() if name != "alone"}
    assert len(done) >= 8


def test_a_held_back_worker_goes_on_when_the_reason_is_gone(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*(task(f"{i}", group=f"{i}", expected_s=1.0) for i in range(20)))
    cluster.submit(task("alone", requirements=Requirements(alone=True), priority=1), run="other")
    while len(cluster.queues["w", 0]) > len([name for name in cluster.queues["w", 0] if name in cluster.verdicts()]):
        cluster.finish(running(cluster)["w", 0], duration_s=1.0)
    assert ("w", 0) not in running(cluster)
    cluster.cancel(run="other")
    assert ("w", 0) in running(cluster)


def test_a_held_back_worker_goes_on_when_another_takes_the_task(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*(task(f"{i}", group=f"{i}", expected_s=1.0) for i in range(20)))
    cluster.submit(task("alone", requirements=Requirements(alone=True), priority=1), run="other")
    while ("w", 0) in running(cluster):
        cluster.finish(running(cluster)["w", 0], duration_s=1.0)
    cluster.join("v")
    cluster.ready("v", run="other")
    assert cluster.worker_of("alone") == "v"
    assert ("w", 0) in running(cluster)


# Scarcity ----------------------------------------------------------------------------------------------------------


def test_plain_work_goes_to_the_least_special_worker(cluster):
    cluster.join("g", capabilities=GPU)
    cluster.join("p", capabilities=PLAIN)
    cluster.submit(task("x", requirements=needs(gpus=1)), run="warm")
    cluster.finish("x")
    cluster.apply(events.RunSubmitted(RUN))
    for worker in ("g", "p"):
        cluster.ready(worker)
    cluster.plan(task("a"))
    assert cluster.worker_of("a") == "p"


def test_a_scarce_worker_takes_first_what_only_it_can_do(cluster):
    cluster.apply(events.RunSubmitted(RUN))
    cluster.plan(
        *(task(f"{i}", expected_s=5.0) for i in range(5)), task("gpu", requirements=needs(requires="cuda>=12"))
    )
    cluster.join("p", capabilities=PLAIN)
    cluster.ready("p")
    cluster.join("g", capabilities=GPU)
    cluster.ready("g")
    assert running(cluster)["g", 0] == "gpu"


# Preferences -------------------------------------------------------------------------------------------------------


def test_a_task_goes_to_the_empty_worker_that_satisfies_most_of_what_it_prefers(cluster):
    cluster.join("p", capabilities=PLAIN)
    cluster.join("old", capabilities=OLD_GPU)
    cluster.join("new", capabilities=GPU)
    cluster.apply(events.RunSubmitted(RUN))
    for worker in ("p", "old", "new"):
        cluster.ready(worker)
    cluster.plan(task("a", requirements=needs(prefer="cuda>=12")))
    assert cluster.worker_of("a") == "new"


def test_a_preference_keeps_no_task_from_the_only_empty_worker(cluster):
    cluster.join("p", capabilities=PLAIN)
    cluster.submit(task("a", requirements=needs(prefer="cuda>=12")))
    assert cluster.worker_of("a") == "p"


def test_a_slot_takes_last_what_would_rather_be_elsewhere(cluster):
    cluster.join("p", capabilities=PLAIN)
    rather_gpu = needs(prefer="cuda>=12")
    cluster.submit(
        *(task(f"g{i}", group=f"g{i}", requirements=rather_gpu, expected_s=2.0) for i in range(2)),
        *(task(f"p{i}", group=f"p{i}", expected_s=1.0) for i in range(2)),
    )
    assert [name for _, name in work_off(cluster)] == ["p0", "p1", "g0", "g1"]


# Retries -----------------------------------------------------------------------------------------------------------


def test_a_retry_avoids_every_worker_where_it_failed_and_then_the_latest(cluster):
    for name in ("w1", "w2", "w3"):
        cluster.join(name)
    cluster.submit(task("a", retries=4))
    tried = []
    for _ in range(4):
        tried.append(cluster.worker_of("a"))
        cluster.finish("a", verdict=Verdict.FAILED)
    assert len(set(tried[:3])) == 3
    assert tried[3] != tried[2]
    assert "a" in cluster.leases


def looks_of_a_newcomer(lost):
    """How often it is asked whether something may run on a worker, when one comes after so many were lost."""
    cluster = ScriptedCluster(FOREVER)
    for number in range(lost):
        cluster.join(f"w{number}")
    cluster.submit(*(task(f"t{number}", group=f"g{number // 4}") for number in range(8 * lost)))
    for number in range(lost):
        cluster.apply(events.WorkerDisconnected(WorkerId(f"w{number}"), "gone", process_is_dead=True))
    placement, looks = cluster.state.cluster.placement, 0
    is_eligible = placement.is_eligible

    def counted(task_class, worker):
        nonlocal looks
        looks += 1
        return is_eligible(task_class, worker)

    cluster.join("new")
    placement.is_eligible = counted
    cluster.ready("new")
    assert cluster.worker_of(next(iter(running(cluster).values()))) == "new"
    return looks


@pytest.mark.replaces_core
def test_a_choice_costs_the_same_however_many_workers_what_waits_was_lost_with():
    assert looks_of_a_newcomer(40) <= 2 * looks_of_a_newcomer(8)


def test_a_worker_that_was_lost_gets_what_it_was_lost_with_last(cluster):
    cluster.join("w")
    cluster.submit(*(task(name, group=name, expected_s=seconds) for name, seconds in [("a", 9.0), ("b", 5.0)]))
    cluster.start("a")
    cluster.apply(events.WorkerDisconnected(WorkerId("w"), "gone", process_is_dead=True))
    cluster.join("other")
    cluster.ready("other")
    assert cluster.worker_of("a") == "other"
    cluster.finish("a")
    assert cluster.worker_of("b") == "other"


def test_a_worker_passes_over_what_it_failed_and_takes_the_next(cluster):
    cluster.join("w")
    cluster.join("other")
    cluster.submit(
        task("a", group="a", expected_s=9.0, retries=1),
        *(task(name, group=name, expected_s=8.0) for name in "bcdef"),
    )
    first = cluster.worker_of("a")
    cluster.finish("a", verdict=Verdict.FAILED)
    work_off(cluster)
    assert cluster.queues[first, 0].count("a") == 1
    assert len(cluster.queues[first, 0]) > 2
    assert cluster.verdicts()["a"] is Verdict.PASSED


def test_a_retry_waits_for_its_backoff_and_each_further_one_twice_as_long(cluster):
    cluster.join("w")
    cluster.submit(task("a", retries=3, backoff_s=100.0), task("b"))
    for wait_s in (100.0, 200.0, 300.0):  # at most five minutes
        cluster.finish("a", verdict=Verdict.FAILED)
        attempt = cluster.leases["a"].attempt
        assert cluster.why("a") == f"waiting {wait_s:.1f} s before retry {attempt}"
        cluster.wait(wait_s - 1.0)
        assert cluster.leases["a"].attempt == attempt
        cluster.wait(1.0)
        assert cluster.leases["a"].attempt == attempt + 1
        cluster.start("a")
    cluster.finish("a", "b")
    assert cluster.verdicts() == {"a": Verdict.PASSED, "b": Verdict.PASSED}


def test_a_task_that_waits_for_its_retry_ends_with_its_run(cluster):
    cluster.join("w")
    cluster.submit(task("a", retries=1, backoff_s=100.0))
    cluster.finish("a", verdict=Verdict.FAILED)
    cluster.cancel()
    assert cluster.verdicts() == {"a": Verdict.CANCELLED}
    assert cluster.all(commands.RunFinished)
    assert cluster.state.next_deadline() is None


# Why ---------------------------------------------------------------------------------------------------------------


def test_why_names_the_closest_worker(cluster):
    cluster.join("p", capabilities=PLAIN)
    cluster.join("g", capabilities=OLD_GPU)
    cluster.submit(task("a", requirements=needs(requires="cuda>=12")))
    assert cluster.why("a") == ("no worker has cuda>=12 (closest: worker g lacks cuda>=12 (has 11.8))")


@pytest.mark.parametrize(
    ("wanted", "near", "far"),
    [
        (needs(requires="cuda>=13"), {"cuda": ("12.4",)}, {"cuda": ("11.8",)}),
        (needs(requires="cuda<11"), {"cuda": ("11.8",)}, {"cuda": ("12.4",)}),
        (needs(requires="cuda>=13 | disk>=1TB"), {"disk": ("900GB",)}, {"disk": ("20GB",), "cuda": ("1",)}),
        (needs(requires="cuda>=13"), {"cuda": ("1",)}, {"cuda": ("1GHz",)}),
        (needs(requires="cpus>=64"), {"cpus": 48.0}, {"cpus": 2.0}),
        (needs(resources={"licence": 3}), {"licence": 2.0}, {"licence": 1.0}),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_of_workers_that_lack_the_same_the_nearest_is_named(cluster, wanted, near, far, is_first):
    def capabilities(owned):
        is_counted = all(isinstance(value, float) for value in owned.values())
        return Capabilities({}, owned) if is_counted else Capabilities(owned)

    for name in ("near", "far") if is_first else ("far", "near"):
        cluster.join(name, capabilities=capabilities({"near": near, "far": far}[name]))
    cluster.submit(task("a", requirements=wanted))
    assert "(closest: worker near lacks" in cluster.why("a")


def test_why_all_together(cluster):
    cluster.join("p", capabilities=Capabilities({"os": ("linux",)}))
    cluster.join("g", capabilities=Capabilities({"cuda": ("12.4",)}))
    cluster.submit(task("a", requirements=needs(requires="cuda>=12, os=linux")))
    assert cluster.why("a").startswith("no worker has all of cuda>=12, os=linux (closest: worker ")


def test_why_busy_next_and_running(cluster):
    cluster.join("w")
    cluster.submit(*(task(f"{i}", expected_s=10.0) for i in range(3)))
    cluster.start("0")
    assert cluster.why("0") == "running on w/0, attempt 1"
    assert cluster.why("1") == "next on w/0 behind 1 test, attempt 1"
    assert cluster.why("2") == "waiting for a free slot: all workers that could run it are busy"


def test_why_unavailable(cluster):
    cluster.join("w0")
    cluster.join("w1")
    cluster.join("w2", capabilities=GPU)
    cluster.submit(task("a", requirements=needs(gpus=1)), ready=False)
    cluster.ready("w1")
    cluster.apply(events.SuiteUnavailable(WorkerId("w0"), RUN, "", "no interpreter"))
    cluster.apply(events.SuiteUnavailable(WorkerId("w2"), RUN, "", "no such directory"))
    reason = "no worker with gpus 1 can execute the suite (worker w2: no such directory)"
    assert cluster.why("a") == reason, "not that of any other"


# Classes -----------------------------------------------------------------------------------------------------------


def slots_by_class(done):
    """Which slots executed tests of each class of ``t.py::Class::test``."""
    slots = {}
    for slot, name in done:
        slots.setdefault(name.rpartition("::")[0], set()).add(slot)
    return slots


@pytest.mark.parametrize("slots", [2, 3, 8])
@pytest.mark.parametrize("expected_s", [None, 0.001, 0.05])
def test_a_small_class_is_never_divided(cluster, slots, expected_s):
    cluster.join("w", slots=slots)
    names = [f"t.py::{scope}::test_{n}[a::b-{n}]" for scope in ("A", "B", "C", "D", "E") for n in range(3)]
    cluster.submit(*(task(name, group="t.py", expected_s=expected_s) for name in names))
    by_class = {}
    for slot, name in work_off(cluster, duration_s=expected_s or 0.05):
        by_class.setdefault(name.split("::")[1], set()).add(slot)
    assert all(len(used) == 1 for used in by_class.values()), by_class
    assert len(set().union(*by_class.values())) > 1


def test_a_class_of_much_work_is_divided(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*(task(f"t.py::A::test_{n}", group="t.py", expected_s=1.0) for n in range(20)))
    [used] = slots_by_class(work_off(cluster, duration_s=1.0)).values()
    assert len(used) == 2


def test_functions_of_a_file_are_divided_anywhere(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*(task(f"t.py::test_{n}", group="t.py", expected_s=0.1) for n in range(6)))
    done = work_off(cluster)
    assert sorted(sum(slot == ("w", which) for slot, _ in done) for which in (0, 1)) == [3, 3]


# The last of a run -------------------------------------------------------------------------------------------------


def submit_mixed(cluster):
    """Forty tests in four files, of 1 to 4.9 s, in no order; by name what they take."""
    for name in ("w0", "w1"):
        cluster.join(name)
    seconds = {f"t{n // 10}.py::test_{n}": 1.0 + n * 7 % 40 / 10 for n in range(40)}
    cluster.submit(*(task(name, group=name[:5], expected_s=known) for name, known in seconds.items()))
    return seconds


def test_the_last_tests_of_a_run_start_longest_first(cluster):
    seconds = submit_mixed(cluster)
    order = [seconds[name] for _, name in work_off(cluster)]
    # Eight are a fifth of the run; what was granted before that waits behind running tests.
    assert order[-6:] == sorted(order[-6:], reverse=True)
    assert order[:30] != sorted(order[:30], reverse=True)
    assert max(order[-2:]) < 2.0


def test_of_many_requirements_the_first_tests_of_a_run_are_not_its_last(cluster):
    """Each of eight kinds is an eighth of the run: none has come to its end at the beginning."""
    cluster.join("w", slots=2, capabilities=Capabilities({f"kind{number}": ("yes",) for number in range(8)}))
    kinds = [Requirements(constraints=(Constraint(f"kind{number}", Operator.EQ, "yes"),)) for number in range(8)]
    cluster.submit(
        *(
            task(f"t{kind}.py::test_{n}", group=f"t{kind}.py", expected_s=1.0 + n * 7 % 10 / 10, requirements=needs)
            for kind, needs in enumerate(kinds)
            for n in range(10)
        )
    )
    first = [name for _, name in work_off(cluster)][:40]
    for file in {name[:5] for name in first}:
        numbers = [int(name.rpartition("_")[2]) for name in first if name.startswith(file)]
        assert numbers == sorted(numbers), f"{file} was taken apart"


def test_with_dear_fixtures_the_last_tests_stay_in_their_files(cluster):
    submit_mixed(cluster)
    begun, starts = set(), []
    while heads := running(cluster):
        for (worker, _), name in heads.items():
            is_first = (worker, name[:2]) not in begun
            begun.add((worker, name[:2]))
            starts.append(is_first)
            result = AttemptResult(
                cluster.leases[name].lease_id, Verdict.PASSED, duration_s=2.0, setup_s=1.0 if is_first else 0.0
            )
            cluster.apply(events.AttemptsFinished(WorkerId(worker), [result]))
    assert len(starts) == 40
    assert sum(starts) <= 5, "a file is begun on one worker, and the last one is divided"


def test_the_last_classes_of_a_run_stay_together(cluster):
    for name in ("w0", "w1"):
        cluster.join(name)
    names = [f"t.py::{scope}::test_{n}" for scope in "ABCDEFGHIJ" for n in range(2)]
    cluster.submit(*(task(name, group="t.py", expected_s=0.1 + number / 100) for number, name in enumerate(names)))
    done = work_off(cluster)
    assert all(len(used) == 1 for used in slots_by_class(done).values())
    order = [name for _, name in done]
    assert all(order.index(f"t.py::{scope}::test_0") < order.index(f"t.py::{scope}::test_1") for scope in "ABCDEFGHIJ")
