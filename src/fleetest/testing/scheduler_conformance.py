"""What every scheduler must do. Subclass :class:`SchedulerConformance` in a test module and give it ``make``."""

from __future__ import annotations

import random

import pytest

from fleetest.core.invariants import check
from fleetest.core.lifecycle import TaskState
from fleetest.core.model import Capabilities, Limits, RunId, TaskId, TaskSpec, Verdict
from fleetest.core.policies import SchedulingPolicy
from fleetest.core.requirements import parse_options
from fleetest.simulation.simulated_cluster import Policies, SimulatedCluster
from fleetest.simulation.simulated_worker import Behaviour
from fleetest.testing.faults import Faults, check_end

NEEDS: tuple[dict[str, object], ...] = (
    {},
    {},
    {},
    {"requires": "cuda>=12"},
    {"gpus": 1},
    {"cpus": 3},
    {"lock": "db"},
    {"alone": True},
    {"prefer": "cuda>=12"},
)


class SchedulerConformance:
    """Inherit, and give ``make``: a new policy, as a coordinator would get it."""

    def make(self) -> SchedulingPolicy:
        raise NotImplementedError

    @pytest.mark.parametrize("seed", range(12))
    def test_every_task_gets_its_verdict_in_a_fleet_with_faults(self, seed: int) -> None:
        cluster = unlike_fleet(self.make(), seed)
        Faults(cluster, mean_gap_s=0.7).run(15.0)
        cluster.run_to_the_end()
        check_end(cluster)

    def test_the_same_events_give_the_same_history(self) -> None:
        first, second = (unlike_fleet(self.make(), 7) for _ in range(2))
        for cluster in (first, second):
            Faults(cluster, mean_gap_s=0.7).run(5.0)
            cluster.run_to_the_end()
        assert first.commands == second.commands

    @pytest.mark.parametrize("slots", [1, 3])
    def test_a_group_that_is_kept_together_stays_on_one_slot(self, slots: int) -> None:
        cluster = plain_fleet(self.make(), workers=2, slots=slots)
        tasks = [TaskSpec(TaskId(f"t{n}"), group=f"g{n // 6}", keep_together=True) for n in range(30)]
        cluster.submit("run", tasks)
        cluster.run_to_the_end()
        check_end(cluster)
        places: dict[str, set[tuple[object, object]]] = {}
        for outcome in cluster.runs[RunId("run")].attempts:
            number = int(outcome.task_id[1:])
            places.setdefault(f"g{number // 6}", set()).add((outcome.worker_id, outcome.slot))
        assert {group: len(slots) for group, slots in places.items()} == {f"g{n}": 1 for n in range(5)}

    def test_no_slot_lies_idle_while_plain_work_waits(self) -> None:
        cluster = plain_fleet(self.make(), workers=2, slots=2)
        cluster.submit("run", [TaskSpec(TaskId(f"t{n}"), group=f"g{n % 10}", expected_s=1.0) for n in range(40)])
        cluster.run_to_the_end()
        check_end(cluster)
        finished_at = cluster.runs[RunId("run")].finished_at
        assert finished_at is not None
        assert finished_at < 1.3 * 40 * 1.0 / 4

    def test_it_counts_what_is_queued_with_the_highest_priority(self) -> None:
        cluster = plain_fleet(self.make(), workers=2, slots=1)
        cluster.submit("run", [TaskSpec(TaskId(f"t{n}"), group=f"g{n % 7}", priority=n % 3) for n in range(30)])
        state, counts = cluster.state.cluster, set()
        while not cluster.is_over:
            cluster.clock.step()
            for task_class in state.scheduling.waiting_classes():
                queued = [task.priority for task in task_class.run.tasks.values() if task.state is TaskState.QUEUED]
                top = state.scheduling.top_priority(task_class)
                assert (top, state.scheduling.waiting_at(task_class, top)) == (max(queued), queued.count(max(queued)))
                counts.add(top)
        assert counts == {0, 1, 2}


def plain_fleet(policy: SchedulingPolicy, workers: int, slots: int) -> SimulatedCluster:
    """Equal workers; every task takes a second."""
    cluster = SimulatedCluster(
        1,
        Limits(heartbeat_interval_s=1.0),
        policies=Policies(scheduling=policy),
        after_event=lambda state, _emitted: check(state),
    )
    for number in range(workers):
        cluster.add_worker(f"w{number}", slots)
    for number in range(100):
        cluster.behaviours[TaskId(f"t{number}")] = Behaviour(1.0)
    return cluster


def unlike_fleet(policy: SchedulingPolicy, seed: int) -> SimulatedCluster:
    """Unlike workers, and two owners' runs of tests with all kinds of requirements, retries and groups."""
    chance = random.Random(seed)
    cluster = SimulatedCluster(
        seed,
        Limits(heartbeat_interval_s=1.0, reconnect_grace_s=3.0),
        policies=Policies(scheduling=policy),
        after_event=lambda state, _emitted: check(state),
    )
    for number in range(chance.randint(1, 4)):
        has_gpu = number == 0
        attributes = {"cuda": ("12.4",)} if has_gpu else {}
        resources = {"gpus": float(has_gpu), "cpus": 4.0}
        cluster.add_worker(f"w{number}", chance.randint(1, 3), Capabilities(attributes, resources))
    for run in ("a", "b"):
        tasks = []
        for number in range(30):
            group = f"g{chance.randrange(6)}"
            spec = TaskSpec(
                TaskId(f"{run}{number}"),
                group=group,
                keep_together=group == "g0",
                requirements=parse_options(chance.choice(NEEDS)).requirements,
                priority=chance.choice([0, 0, 0, 1]),
                retries=chance.choice([0, 0, 2]),
                backoff_s=chance.choice([0.0, 0.0, 1.0]),
                depends_on=(TaskId(f"{run}{chance.randrange(number)}"),) if number and chance.random() < 0.1 else (),
                expected_s=chance.choice([None, 0.1, 2.0]),
            )
            verdict = chance.choice([Verdict.PASSED] * 6 + [Verdict.FAILED])
            cluster.behaviours[spec.task_id] = Behaviour(chance.choice([0.001, 0.02, 0.3, 1.5]), verdict)
            tasks.append(spec)
        cluster.submit(run, tasks, owner=run)
    return cluster
