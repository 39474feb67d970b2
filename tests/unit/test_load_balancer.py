"""Scores, loads, and which waiting work moves."""

import math

import pytest

from fleetest.core import commands, events
from fleetest.core.model import Capabilities, Limits, Verdict, WorkerId
from fleetest.core.policies import Move
from fleetest.core.requirements import parse_options
from fleetest.load_balancer import LoadBalancer
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task

GB = 1e9
W1 = Capabilities({}, {"cpus": 4.0, "memory": 8 * GB})
W2 = Capabilities({"cuda": ("12.4",)}, {"cpus": 4.0, "memory": 16 * GB, "gpus": 1.0})
W3 = Capabilities({"feature": ("webgpu",), "browser": ("firefox",)}, {"cpus": 4.0, "memory": 8 * GB})


@pytest.fixture
def cluster():
    return ScriptedCluster(Limits(heartbeat_interval_s=math.inf))


def balancer(cluster) -> LoadBalancer:
    return cluster.state.cluster.balancing


def scores(cluster, name):
    workers = cluster.state.cluster.workers
    planned = cluster.state.cluster.runs[RUN].tasks[name]
    return {worker_id: balancer(cluster).score(worker, planned) for worker_id, worker in workers.items()}


def test_only_workers_that_can_run_the_task_have_a_score(cluster):
    for name, capabilities in (("w1", W1), ("w2", W2), ("w3", W3)):
        cluster.join(name, capabilities=capabilities)
    cluster.submit(
        task("any"),
        task("cuda", requirements=parse_options({"requires": "cuda>=12"}).requirements),
        task("web", requirements=parse_options({"requires": "feature=webgpu, browser=firefox"}).requirements),
        task("none", requirements=parse_options({"requires": "cuda>=13"}).requirements),
    )
    assert {name for name, score in scores(cluster, "any").items() if score is not None} == {"w1", "w2", "w3"}
    assert {name for name, score in scores(cluster, "cuda").items() if score is not None} == {"w2"}
    assert {name for name, score in scores(cluster, "web").items() if score is not None} == {"w3"}
    assert {name for name, score in scores(cluster, "none").items() if score is not None} == set()


def test_the_faster_and_the_more_reliable_worker_scores_higher(cluster):
    for name in ("fast", "slow", "failing"):
        cluster.join(name)
    cluster.submit(*(task(f"{i}", expected_s=1.0) for i in range(9)))
    workers = cluster.state.cluster.workers
    for _ in range(10):
        balancer(cluster).finished(workers["fast"], 1.0, 0.5, True)
        balancer(cluster).finished(workers["slow"], 1.0, 2.0, True)
        balancer(cluster).failed(workers["failing"])
    found = scores(cluster, "8")
    assert found["fast"] > found["slow"] > found["failing"]


def test_a_loaded_worker_scores_lower(cluster):
    cluster.join("a", slots=2)
    cluster.submit(task("1", expected_s=1.0), task("2", expected_s=1.0), task("3", expected_s=1.0))
    cluster.join("b", slots=2)
    cluster.ready("b")
    found = scores(cluster, "1")
    assert found["b"] > found["a"]


@pytest.mark.parametrize(
    ("loads", "over", "under"),
    [
        ([2, 1, 0], ["w0"], ["w2"]),
        ([2, 2, 2, 3, 3], [], []),
        ([1, 2, 3, 5, 9], ["w4"], ["w0", "w1", "w2"]),
        ([0, 1, 2, 3, 14], ["w4"], ["w0", "w1", "w2", "w3"]),
        ([3, 3, 3], [], []),
        ([], [], []),
    ],
)
def test_overloaded_and_underutilised(cluster, loads, over, under):
    for number, _ in enumerate(loads):
        cluster.join(f"w{number}")
    workers = list(cluster.state.cluster.workers.values())
    for worker, load in zip(workers, loads, strict=True):
        worker.lease_count = load
    assert [worker.worker_id for worker in balancer(cluster).overloaded(workers)] == over
    assert [worker.worker_id for worker in balancer(cluster).underutilised(workers)] == under


def long_queue(cluster, **options):
    """One slot with a running test and one behind it, and an idle slot on another worker."""
    cluster.join("busy")
    cluster.submit(task("head", expected_s=10.0), task("next", expected_s=10.0, **options))
    cluster.start("head")


def test_waiting_work_moves_to_an_idle_slot(cluster):
    long_queue(cluster)
    cluster.join("idle")
    emitted = cluster.ready("idle") + cluster.wait(0.1)
    assert commands.RevokeLeases("busy", [cluster.leases["next"].lease_id]) in emitted
    cluster.give_back("next")
    assert cluster.worker_of("next") == "idle"
    assert cluster.leases["next"].attempt == 1
    cluster.finish("head", "next")
    assert cluster.verdicts() == {"head": Verdict.PASSED, "next": Verdict.PASSED}


def test_what_started_meanwhile_stays(cluster):
    long_queue(cluster)
    cluster.join("idle")
    cluster.ready("idle")
    assert cluster.wait(0.1)
    cluster.finish("head")
    cluster.start("next")
    cluster.give_back("next")
    cluster.finish("next")
    assert cluster.verdicts() == {"head": Verdict.PASSED, "next": Verdict.PASSED}
    assert len([outcome for outcome in cluster.outcomes() if outcome.task_id == "next"]) == 1


def test_nothing_moves_to_a_worker_that_cannot_run_it(cluster):
    cluster.join("busy", capabilities=W2)
    needs = parse_options({"requires": "cuda>=12"}).requirements
    cluster.submit(*(task(f"{i}", expected_s=10.0, requirements=needs) for i in range(2)))
    cluster.join("idle", capabilities=W1)
    cluster.ready("idle")
    cluster.wait(60.0)
    assert not cluster.all(commands.RevokeLeases)


def test_a_group_that_is_kept_together_does_not_move(cluster):
    cluster.join("busy")
    cluster.submit(*(task(f"{i}", group="g", keep_together=True, expected_s=10.0) for i in range(3)))
    cluster.join("idle")
    cluster.ready("idle")
    cluster.wait(60.0)
    assert not cluster.all(commands.RevokeLeases)


def test_tiny_work_is_not_moved(cluster):
    cluster.join("busy")
    cluster.submit(*(task(f"{i}", expected_s=0.001) for i in range(20)))
    cluster.join("idle")
    cluster.ready("idle")
    assert not cluster.all(commands.RevokeLeases)


def test_work_behind_a_test_that_runs_far_longer_than_predicted_moves(cluster):
    cluster.join("busy")
    cluster.submit(*(task(f"{i}", group="a", expected_s=0.001) for i in range(20)))
    cluster.start("0")
    cluster.join("idle")
    cluster.ready("idle")

    def work_off_idle_slot():
        while waiting := [name for name in cluster.queues["idle", 0] if name not in cluster.verdicts()]:
            cluster.finish(*waiting, duration_s=0.001)

    work_off_idle_slot()
    behind = set(cluster.queues["busy", 0]) - {"0"}
    assert behind
    assert not cluster.all(commands.RevokeLeases)
    cluster.wait(2.0)
    (revoke,) = cluster.all(commands.RevokeLeases)
    assert {cluster.leases[name].lease_id for name in behind} == set(revoke.lease_ids)
    granted = len(cluster.queues["busy", 0])
    cluster.apply(events.LeasesReturned(WorkerId("busy"), revoke.lease_ids))
    work_off_idle_slot()
    assert len(cluster.queues["busy", 0]) == granted, "nothing goes back behind the stuck test"
    cluster.finish("0", duration_s=3.0)
    assert cluster.all(commands.RunFinished) == [commands.RunFinished(RUN, {Verdict.PASSED: 20})]


def test_the_load_of_a_mixed_queue_ends_even(cluster):
    for name, capabilities in (("w1", W1), ("w2", W2), ("w3", W3)):
        cluster.join(name, slots=2, capabilities=capabilities)
    cuda = parse_options({"requires": "cuda>=12"}).requirements
    web = parse_options({"requires": "browser=firefox"}).requirements
    cluster.submit(
        *(task(f"c{i}", group=f"c{i}", requirements=cuda, expected_s=1.0) for i in range(4)),
        *(task(f"b{i}", group=f"b{i}", requirements=web, expected_s=1.0) for i in range(4)),
        *(task(f"p{i}", group=f"p{i}", expected_s=1.0) for i in range(10)),
        ready=False,
    )
    for name in ("w1", "w2", "w3"):
        cluster.ready(name)
    while cluster.state.cluster.leases:
        for slot in list(cluster.state.cluster.busy):
            cluster.finish(slot.head().task.task_id, duration_s=1.0)
    assert all(cluster.worker_of(f"c{i}") == "w2" for i in range(4))
    assert all(cluster.worker_of(f"b{i}") == "w3" for i in range(4))
    loads = [
        sum(len(queue) for (worker, _), queue in cluster.queues.items() if worker == name)
        for name in ("w1", "w2", "w3")
    ]
    assert max(loads) - min(loads) <= 2


def test_a_task_is_moved_only_so_often():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=math.inf, moves_max=2))
    cluster.join("a")
    cluster.submit(task("long", expected_s=0.1), task("next", expected_s=0.1))
    planned = cluster.state.cluster.runs[RUN].tasks["next"]
    [slot] = cluster.state.cluster.workers["a"].slots

    def propose(idle, busy, now):
        return [Move([planned.lease], slot, next(iter(idle)), donor_is_stuck=False)]

    balancer(cluster).propose = propose
    cluster.start("long")
    for session in range(4):
        cluster.join("b", session=f"{session}")
        cluster.wait(5.0)
        cluster.disconnect("b", dead=True)
        if planned.lease.is_revoked:
            cluster.give_back("next")
    assert planned.moves == len(cluster.all(commands.RevokeLeases)) == 2
