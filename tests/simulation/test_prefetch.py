"""No runner waits for a slow network, and on a fast one little is dealt out ahead."""

import math

import pytest

from fleetest.core.model import Limits, TaskId, TaskSpec
from fleetest.load_balancer import LoadBalancer
from fleetest.simulation.simulated_cluster import Policies, SimulatedCluster
from fleetest.simulation.simulated_worker import Behaviour
from fleetest.testing.scripted_cluster import ScriptedCluster, task

WORKERS, SLOTS = 2, 2


class NeverDeeper(LoadBalancer):
    """What it would be like if the turnaround were not measured."""

    def prefetch_s(self, worker):
        return Limits().prefetch_s


def working_share(policy, latency_s, duration_s, count, *, has_history=True):
    """How much of the time between first start and end the runners execute tests; and the cluster, at its end."""
    cluster = SimulatedCluster(
        1,
        Limits(heartbeat_interval_s=1.0),
        policies=Policies(balancing=policy),
        latency_s=(latency_s, latency_s * 1.01),
    )
    for number in range(WORKERS):
        cluster.add_worker(f"w{number}", SLOTS)
    tasks = [
        TaskSpec(TaskId(f"t{number}"), group=f"g{number // 20}", expected_s=duration_s if has_history else None)
        for number in range(count)
    ]
    for spec in tasks:
        cluster.behaviours[spec.task_id] = Behaviour(duration_s)
    run = cluster.submit("run", tasks)
    while not any(slot.running for worker in cluster.workers.values() for slot in worker.slots):
        cluster.clock.step()
    started_at = cluster.clock.now
    while not cluster.is_over:
        cluster.clock.step()
    busy_s = count * duration_s / (WORKERS * SLOTS)
    return busy_s / (run.finished_at - latency_s - started_at), cluster


@pytest.mark.parametrize("has_history", [True, False])
@pytest.mark.parametrize(("latency_s", "least"), [(0.005, 0.97), (0.1, 0.95), (0.3, 0.88), (1.0, 0.5)])
def test_runners_do_not_wait_for_the_network(latency_s, least, has_history):
    share, _ = working_share(LoadBalancer(), latency_s, 0.02, 4000, has_history=has_history)
    assert share > least


def test_they_would_if_the_turnaround_were_not_measured():
    share, _ = working_share(NeverDeeper(), 0.3, 0.02, 4000)
    assert share < 0.5


def test_thousands_of_short_tests_may_wait_where_the_network_is_slow():
    share, _ = working_share(LoadBalancer(), 1.0, 0.002, 6000)
    assert share > 0.4


def test_on_a_fast_network_nothing_is_dealt_out_further_ahead():
    policy = LoadBalancer()
    _, cluster = working_share(policy, 0.001, 0.02, 200)
    for worker in cluster.state.cluster.workers.values():
        assert policy.turnaround_s(worker) < 0.05
        assert policy.prefetch_s(worker) == Limits().prefetch_s


@pytest.fixture
def joined():
    """A policy and a worker that it knows."""
    cluster = ScriptedCluster()
    cluster.join("w")
    return cluster.state.cluster.balancing, cluster.state.cluster.workers["w"]


@pytest.mark.parametrize(("turnaround_s", "expected_s"), [(0.0, 0.4), (0.05, 0.4), (0.5, 1.6), (60.0, 4.0)])
def test_the_prefetch_stays_between_its_bounds(joined, turnaround_s, expected_s):
    policy, worker = joined
    policy.answered(worker, turnaround_s)
    assert policy.prefetch_s(worker) == pytest.approx(expected_s)


def test_a_few_slow_answers_do_not_count(joined):
    """A grant may have to wait for a process to start."""
    policy, worker = joined
    policy.answered(worker, 0.2)
    for _ in range(7):
        policy.answered(worker, 3.0)
    assert policy.turnaround_s(worker) == 0.2
    policy.answered(worker, 3.0)
    assert policy.turnaround_s(worker) == 3.0, "eight in a row are how it is now"


def test_the_turnaround_is_from_a_grant_to_an_empty_slot_to_the_first_sign_of_its_test():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=math.inf))
    cluster.join("w")
    worker, policy = cluster.state.cluster.workers["w"], cluster.state.cluster.balancing
    cluster.submit(task("a"))
    cluster.wait(0.7)
    cluster.start("a")
    assert policy.turnaround_s(worker) == pytest.approx(0.7)
    cluster.wait(5.0)
    cluster.finish("a", duration_s=5.0)
    assert policy.turnaround_s(worker) == pytest.approx(0.7)
    cluster.submit(task("b"), run="second")
    cluster.wait(0.5)
    cluster.finish("b", duration_s=0.3)
    assert policy.turnaround_s(worker) == pytest.approx(0.2), "its result came before anybody said that it ran"
