"""Whole fleets in virtual time: random faults by seed, then everything heals and every test must have one verdict."""

import random

import pytest

from fleetest.core import commands, events
from fleetest.core.model import (
    NO_REQUIREMENTS,
    Capabilities,
    Constraint,
    Limits,
    Operator,
    Requirements,
    TaskId,
    TaskSpec,
    Verdict,
)
from fleetest.testing.eager_hedging import EagerHedging
from fleetest.testing.simulated_cluster import SimulatedCluster
from fleetest.testing.simulated_worker import Behaviour

GPU = Capabilities({"os": ("linux",), "cuda": ("12.4",)}, {"gpus": 1.0, "cpus": 4.0})
PLAIN = Capabilities({"os": ("linux",)}, {"cpus": 4.0})
NEEDS = [
    (0.08, Requirements(resources=(("gpus", 1.0),))),
    (0.14, Requirements(locks=("db",))),
    (0.18, Requirements(alone=True)),
    (0.24, Requirements(constraints=(Constraint("cuda", Operator.GE, "12"),))),
]


def unlike_tasks(rnd: random.Random, count: int) -> list[TaskSpec]:
    tasks = []
    for number in range(count):
        share = rnd.random()
        group = f"g{rnd.randrange(8)}"
        tasks.append(
            TaskSpec(
                TaskId(f"t{number}"),
                group=group,
                keep_together=group in ("g0", "g1"),
                requirements=next((needs for limit, needs in NEEDS if share < limit), NO_REQUIREMENTS),
                priority=rnd.choice([0, 0, 0, 1]),
                retries=rnd.choice([0, 0, 2]),
                depends_on=(TaskId(f"t{rnd.randrange(number)}"),) if number and rnd.random() < 0.1 else (),
                expected_s=rnd.choice([None, None, 0.1, 2.0]),
                timeout_s=rnd.choice([None, 5.0]),
            )
        )
    return tasks


def unlike_fleet(seed: int, *, hedges: bool = False) -> SimulatedCluster:
    rnd = random.Random(f"fleet {seed}")
    cluster = SimulatedCluster(seed, balancing=EagerHedging() if hedges else None)
    for number in range(rnd.randint(1, 4)):
        cluster.add_worker(f"w{number}", rnd.randint(1, 3), GPU if number == 0 else PLAIN)
    tasks = unlike_tasks(rnd, 60)
    for task in tasks:
        verdict = rnd.choice([Verdict.PASSED] * 6 + [Verdict.FAILED])
        duration_s = rnd.choice([0.001, 0.02, 0.3, 1.5])
        cluster.behaviours[task.task_id] = Behaviour(duration_s, verdict, kills_worker=rnd.random() < 0.01)
    for name in list(cluster.workers)[1:]:
        if rnd.random() < 0.3:
            cluster.missing[name] = frozenset(task.task_id for task in tasks if rnd.random() < 0.2)
    cluster.submit("a", tasks[:30], owner="ann")
    cluster.submit("b", tasks[30:], owner="bob")
    return cluster


@pytest.mark.parametrize("seed", range(40))
def test_faults_then_healing_then_one_verdict_each(seed):
    print("seed", seed)
    cluster = unlike_fleet(seed)
    cluster.run_with_faults(20.0, mean_gap_s=0.7)
    cluster.run_to_the_end()
    cluster.check_end()


@pytest.mark.parametrize("seed", range(40))
def test_hedges_among_all_faults(seed):
    print("seed", seed)
    cluster = unlike_fleet(seed, hedges=True)
    cluster.run_with_faults(20.0, mean_gap_s=0.7)
    cluster.run_to_the_end()
    cluster.check_end()


@pytest.mark.parametrize("seed", range(12))
def test_a_cancelled_run_ends_soon_whatever_happens(seed):
    print("seed", seed)
    cluster = unlike_fleet(1000 + seed, hedges=seed % 2 == 1)
    rnd = random.Random(f"cancel {seed}")
    for worker in cluster.workers.values():
        worker.ignores_kills = rnd.random() < 0.3
    cancelled_at = rnd.uniform(0.5, 6.0)
    for run_id in list(cluster.runs):
        kill, quiet = rnd.random() < 0.5, rnd.random() < 0.5
        event = events.RunCancelled(run_id, "enough", kill=kill, quiet=quiet)
        cluster.clock.call_at(cancelled_at, lambda event=event: cluster.apply(event))
    cluster.run_with_faults(10.0, mean_gap_s=0.7)
    cluster.run_to_the_end()
    for run in cluster.runs.values():
        assert run.finished_at <= cancelled_at + cluster.limits.cancel_grace_s + cluster.limits.kill_answer_s + 1.0
        if run.verdicts:
            assert set(run.verdicts) == set(run.tasks)


def without_faults(workers: int, slots: int, tasks: list[TaskSpec], **durations: float) -> SimulatedCluster:
    cluster = SimulatedCluster(1, Limits(heartbeat_interval_s=1.0), checks=len(tasks) < 200)
    for number in range(workers):
        cluster.add_worker(f"w{number}", slots)
    for task in tasks:
        cluster.behaviours[task.task_id] = Behaviour(durations.get(task.task_id, durations.get("each", 0.05)))
    cluster.submit("run", tasks)
    cluster.run_to_the_end()
    cluster.check_end()
    return cluster


def test_equal_tasks_take_hardly_longer_than_the_ideal():
    tasks = [TaskSpec(TaskId(f"t{number}"), group=f"g{number // 40}") for number in range(2000)]
    cluster = without_faults(4, 2, tasks, each=0.05)
    assert cluster.runs["run"].finished_at < 1.15 * 2000 * 0.05 / 8 + 1.0
    assert all(outcome.attempt == 1 for outcome in cluster.runs["run"].attempts)


def test_one_surprisingly_long_test_does_not_keep_others_waiting_behind_it():
    tasks = [TaskSpec(TaskId(f"t{number}"), group="one") for number in range(400)]
    cluster = without_faults(2, 2, tasks, each=0.02, t3=20.0)
    others = [outcome for outcome in cluster.runs["run"].attempts if outcome.task_id != "t3"]
    assert len(others) == 399
    assert cluster.runs["run"].finished_at < 22.0


def test_a_long_test_known_from_history_starts_early():
    tasks = [TaskSpec(TaskId(f"t{number}"), group="one", expected_s=0.1) for number in range(200)]
    tasks.append(TaskSpec(TaskId("long"), group="one", expected_s=8.0))
    cluster = without_faults(1, 4, tasks, each=0.1, long=8.0)
    assert cluster.runs["run"].finished_at < 9.5


def test_fast_tests_are_not_moved_about():
    tasks = [TaskSpec(TaskId(f"t{number}"), group=f"g{number // 25}") for number in range(3000)]
    cluster = without_faults(1, 2, tasks, each=0.0003)
    assert not [command for command in cluster.commands if isinstance(command, commands.RevokeLeases)]


def test_the_same_seed_gives_the_same_history():
    first, second = unlike_fleet(5), unlike_fleet(5)
    for cluster in (first, second):
        cluster.run_with_faults(10.0, mean_gap_s=0.5)
    assert first.commands == second.commands
