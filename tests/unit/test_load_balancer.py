"""Scores, loads, and which waiting work moves."""

import math

import pytest

from fleetest.core import commands, events
from fleetest.core.model import AttemptResult, Capabilities, Limits, RunId, Verdict, WorkerId
from fleetest.core.policies import Move, Score
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
    return cluster.state.scores(RUN, name)


def totals(cluster, name):
    return {worker_id: score.total for worker_id, score in scores(cluster, name).items() if score is not None}


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
    found = totals(cluster, "8")
    assert found["fast"] > found["slow"] > found["failing"]


def test_a_loaded_worker_scores_lower(cluster):
    cluster.join("a", slots=2)
    cluster.submit(task("1", expected_s=1.0), task("2", expected_s=1.0), task("3", expected_s=1.0))
    cluster.join("b", slots=2)
    cluster.ready("b")
    found = totals(cluster, "1")
    assert found["b"] > found["a"]


def test_the_parts_of_a_score_are_visible(cluster):
    cluster.join("plain", capabilities=W1)
    cluster.join("special", capabilities=W2)
    cuda = parse_options({"requires": "cuda>=12"}).requirements
    cluster.submit(task("any", expected_s=1.0), task("cuda", expected_s=1.0, requirements=cuda), ready=False)
    for name in ("plain", "special"):
        cluster.state.cluster.workers[name].counted_in.update(cluster.state.cluster.runs[RUN].suites.values())
    balancer(cluster).failed(cluster.state.cluster.workers["plain"])
    found = scores(cluster, "any")
    assert found["special"] == Score(fit=0.5, free=1.0, speed=1.0, reliability=1.0, locality=1.0)
    assert found["plain"] == Score(fit=1.0, free=1.0, speed=1.0, reliability=0.5, locality=1.0)
    assert found["plain"].total == found["special"].total == 0.5
    assert scores(cluster, "cuda")["special"].fit == 1.0, "what the task needs does not lie idle"


def test_a_worker_with_what_the_task_prefers_scores_higher(cluster):
    cluster.join("ssd", capabilities=Capabilities({"ssd": ("yes",)}))
    cluster.join("plain", capabilities=Capabilities({"ssd": ("no",)}))
    wishes = parse_options({"prefer": "ssd=yes"}).requirements
    cluster.submit(task("first"), task("wishful", requirements=wishes), ready=False)
    for name in ("ssd", "plain"):
        cluster.state.cluster.workers[name].counted_in.update(cluster.state.cluster.runs[RUN].suites.values())
    found = scores(cluster, "wishful")
    assert (found["ssd"].preference, found["plain"].preference) == (1.0, 0.5)
    assert scores(cluster, "first")["plain"].preference == 1.0


def test_the_place_of_a_group_scores_higher_by_what_its_fixtures_cost(cluster):
    cluster.join("there")
    cluster.join("elsewhere")
    cluster.submit(*(task(f"{i}", group="g", expected_s=1.0) for i in range(3)), ready=False)
    cluster.ready("there")
    cluster.ready("elsewhere")
    lease = cluster.leases["0"]
    result = AttemptResult(lease.lease_id, Verdict.PASSED, duration_s=4.0, setup_s=3.0)
    assert {score.locality for score in scores(cluster, "2").values()} == {1.0}, "nothing is known of fixtures yet"
    cluster.apply(events.AttemptsFinished(cluster.worker_of("0"), [result]))
    at = cluster.worker_of("1")
    other = {"there": "elsewhere", "elsewhere": "there"}[at]
    cluster.state.cluster.balancing.finished = lambda *args: None
    found = scores(cluster, "1")
    assert found[at].locality == 1.0
    if not cluster.queues[other, 0]:
        assert found[other].locality < 1.0


def test_a_worker_that_is_busy_for_longer_scores_lower(cluster):
    short, long = busy_for(cluster, 1.0, 10.0)
    cluster.submit(task("c", expected_s=1.0))
    found = scores(cluster, "c")
    assert found[short.worker_id].free > found[long.worker_id].free


def test_an_empty_worker_has_a_score_while_a_lock_is_held_elsewhere(cluster):
    cluster.join("a")
    cluster.join("b")
    lock = parse_options({"lock": "db"}).requirements
    cluster.submit(task("1", requirements=lock, expected_s=1.0), task("2", requirements=lock, expected_s=1.0))
    found = totals(cluster, "2")
    busy = cluster.worker_of("1")
    assert found[busy] < found["a" if busy == "b" else "b"]


def test_the_standing_of_a_worker_is_in_the_snapshot(cluster):
    for name in ("fast", "slow"):
        cluster.join(name, slots=2)
    workers = cluster.state.cluster.workers
    for _ in range(30):
        balancer(cluster).finished(workers["fast"], 1.0, 0.5, True)
        balancer(cluster).finished(workers["slow"], 1.0, 2.0, True)
    balancer(cluster).failed(workers["slow"])
    cluster.submit(task("long", expected_s=10.0), ready=False)
    cluster.ready("fast")
    fast, slow = cluster.state.snapshot().workers
    assert fast.speed == pytest.approx(2.0, rel=0.1)
    assert slow.speed == pytest.approx(0.5, rel=0.1)
    assert (fast.reliability, slow.reliability) == (1.0, 0.5)
    assert (fast.load_s, slow.load_s) == (pytest.approx(5.0 / fast.speed, rel=0.2), 0.0)


def test_a_worker_that_is_gone_is_forgotten(cluster):
    for name in ("a", "b"):
        cluster.join(name)
    workers = dict(cluster.state.cluster.workers)
    for _ in range(30):
        balancer(cluster).finished(workers["a"], 1.0, 3.0, True)
        balancer(cluster).finished(workers["b"], 1.0, 1.0, True)
    balancer(cluster).answered(workers["a"], 1.0)
    assert balancer(cluster).speed(workers["a"]) < 0.7
    cluster.disconnect("a", goodbye=True)
    assert balancer(cluster).speed(workers["a"]) == 1.0
    assert balancer(cluster).turnaround_s(workers["a"]) == 0.0
    assert balancer(cluster).prefetch_s(workers["a"]) == cluster.state.cluster.limits.prefetch_s


@pytest.mark.parametrize(
    ("loads_s", "over", "under"),
    [
        ([2, 1, 0], ["w0"], ["w2"]),
        ([2, 2, 2, 3, 3], [], []),
        ([1, 2, 3, 5, 9], ["w4"], ["w0", "w1", "w2"]),
        ([0, 1, 2, 3, 14], ["w4"], ["w0", "w1", "w2", "w3"]),
        ([3, 3, 3], [], []),
        ([0.0, 0.04, 0.08], [], []),
        ([], [], []),
    ],
)
def test_overloaded_and_underutilised_by_expected_seconds(cluster, loads_s, over, under):
    workers = busy_for(cluster, *loads_s)
    assert [worker.worker_id for worker in balancer(cluster).overloaded(workers)] == over
    assert [worker.worker_id for worker in balancer(cluster).underutilised(workers)] == under


def busy_for(cluster, *loads_s):
    """Workers w0, w1, ... of one slot, each with a single task of so many seconds."""
    for number, load_s in enumerate(loads_s):
        cluster.join(f"w{number}", capabilities=Capabilities({"number": (f"w{number}",)}))
        if load_s:
            only = parse_options({"requires": f"number=w{number}"}).requirements
            cluster.submit(task("t", expected_s=float(load_s), requirements=only), run=f"{number}")
    return list(cluster.state.cluster.workers.values())


def test_many_short_tests_are_less_than_one_long_one(cluster):
    cluster.join("many")
    cluster.submit(*(task(f"{i}", expected_s=0.02) for i in range(10)), run="short")
    cluster.join("one")
    cluster.submit(task("long", expected_s=9.0), run="long", ready=False)
    cluster.ready("one", run="long")
    many, one = workers = list(cluster.state.cluster.workers.values())
    assert many.lease_count > one.lease_count
    assert balancer(cluster).overloaded(workers) == [one]
    assert balancer(cluster).underutilised(workers) == [many]


def test_what_has_run_already_is_no_load(cluster):
    (worker,) = busy_for(cluster, 10)
    cluster.apply(events.AttemptsStarted(worker.worker_id, list(cluster.state.cluster.leases)))
    assert balancer(cluster).load_s(worker, cluster.now) == pytest.approx(10.0)
    assert 5.0 < balancer(cluster).load_s(worker, cluster.now + 3.0) < 9.0


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
    cluster.submit(*(task(f"{i}", group="a", expected_s=0.001, hedge=False) for i in range(20)))
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
        return [Move([planned.lease], slot, next(iter(idle)))]

    balancer(cluster).propose = propose
    cluster.start("long")
    for session in range(4):
        cluster.join("b", session=f"{session}")
        cluster.wait(5.0)
        cluster.disconnect("b", dead=True)
        if planned.lease.is_revoked:
            cluster.give_back("next")
    assert planned.moves == len(cluster.all(commands.RevokeLeases)) == 2


def test_fast_and_reliable_workers_are_asked_first(cluster):
    for name in ("slow", "failing", "fast"):
        cluster.join(name)
    workers = cluster.state.cluster.workers
    for _ in range(30):
        balancer(cluster).finished(workers["fast"], 1.0, 0.5, True)
        balancer(cluster).finished(workers["slow"], 1.0, 2.0, True)
        balancer(cluster).finished(workers["failing"], 1.0, 1.0, True)
    for _ in range(4):
        balancer(cluster).failed(workers["failing"])
    for number, name in enumerate(["fast", "slow", "failing"]):
        run = f"run {number}"
        cluster.apply(events.RunSubmitted(RunId(run)))
        for worker_id in list(workers):
            cluster.ready(worker_id, run=run)
        cluster.plan(task(f"{number}", expected_s=5.0), run=run)
        assert cluster.worker_of(f"{number}") == name
