"""Whole fleets in virtual time: random faults by seed, then everything heals and every test must have one verdict."""

import random

import pytest

from fleetest.core import commands, events
from fleetest.core.attempt_handling import AttemptHandling
from fleetest.core.invariants import check
from fleetest.core.model import Limits, TaskId, TaskSpec, Verdict
from fleetest.testing import Behaviour, SimulatedCluster, simulate_faults
from fleetest.testing.faults import KINDS, Faults, check_end
from fleetest.testing.random_fleet import random_fleet
from fleetest.testing.simulate_faults import replay_command, simulate

SEEDS_PER_TEST = 10


@pytest.mark.parametrize("first", range(0, 200, SEEDS_PER_TEST))
def test_faults_then_healing_then_one_verdict_each(first):
    for seed in range(first, first + SEEDS_PER_TEST):
        # On failure pytest shows this: the last one printed is the seed that failed.
        print("replay:", replay_command(seed))
        simulate(seed)


@pytest.mark.parametrize("seed", [975, 5269, 5649, 20087, 20090, 20279, 20440, 20768])
def test_seeds_that_once_failed(seed):
    """Tasks proposed behind a suspect, or less urgent than one in another slot's group, were given out wrongly; who was
    resumed while it was lost came back drained."""
    simulate(seed)


def test_the_seeds_strike_every_fault_and_reach_every_verdict():
    struck, verdicts, superseded = set(), set(), 0
    for seed in range(60):
        fleet, faults = simulate(seed, check_every=1000)
        struck |= set(faults.counts)
        for run in fleet.cluster.runs.values():
            verdicts |= set(run.verdicts.values())
            superseded += sum(outcome.is_superseded for outcome in run.attempts)
    assert struck == set(KINDS)
    assert verdicts >= set(Verdict) - {Verdict.XFAILED, Verdict.XPASSED, Verdict.OOM}
    assert superseded


@pytest.mark.replaces_core
def test_a_failing_seed_is_printed_with_the_command_that_replays_it(monkeypatch, capsys):
    def forgetful(self, event):
        """Breaks the core: a result counts whoever sends it."""
        for result in event.results:
            live = self._cluster.leases.get(result.lease_id)
            if live is not None:
                self._finish(live, result)

    monkeypatch.setattr(AttemptHandling, "finished", forgetful)
    assert simulate_faults.main(["--seeds", "10"]) == 1
    printed = capsys.readouterr()
    assert "python -m fleetest.testing.simulate_faults --seed" in printed.err
    assert "did not hold the lease" in printed.err
    assert "10 of 10" not in printed.out


def test_a_seed_can_be_traced(capsys):
    assert simulate_faults.main(["--seed", "3", "--trace"]) == 0
    printed = capsys.readouterr().out
    assert "WorkerJoined" in printed
    assert "GrantLeases" in printed
    assert "seed 3 passes" in printed


@pytest.mark.parametrize("seed", range(12))
def test_a_cancelled_run_ends_soon_whatever_happens(seed):
    fleet = random_fleet(1000 + seed, after_event=lambda state, _emitted: check(state))
    cluster = fleet.cluster
    while fleet.submitted < fleet.submissions:
        cluster.clock.step()
    rnd = random.Random(f"cancel {seed}")
    for worker in cluster.workers.values():
        worker.ignores_kills = rnd.random() < 0.3
    Faults(cluster).start()
    cancelled_at = cluster.clock.now + rnd.uniform(0.5, 6.0)
    for run_id in cluster.runs:
        event = events.RunCancelled(run_id, "enough", kill=rnd.random() < 0.5)
        cluster.clock.call_at(cancelled_at, cluster.apply, event)
    cluster.run_to_the_end()
    for run in cluster.runs.values():
        assert run.finished_at <= cancelled_at + cluster.limits.cancel_grace_s + cluster.limits.kill_answer_s + 0.1
        if run.verdicts:
            assert set(run.verdicts) == set(run.tasks)


def without_faults(workers: int, slots: int, tasks: list[TaskSpec], **durations: float) -> SimulatedCluster:
    cluster = SimulatedCluster(1, Limits(heartbeat_interval_s=1.0))
    for number in range(workers):
        cluster.add_worker(f"w{number}", slots)
    for task in tasks:
        cluster.behaviours[task.task_id] = Behaviour(durations.get(task.task_id, durations.get("each", 0.05)))
    cluster.submit("run", tasks)
    cluster.run_to_the_end()
    check_end(cluster)
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
    (first, _), (second, _) = simulate(5, check_every=1000), simulate(5, check_every=1000)
    assert first.cluster.commands == second.cluster.commands
    assert first.cluster.executions == second.cluster.executions
