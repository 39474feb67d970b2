"""A random fleet with random runs, by seed: everything that a fleet and a suite can be, small enough to check often."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fleetest.core import events
from fleetest.core.cluster_state import ClusterState
from fleetest.core.commands import Command
from fleetest.core.model import (
    NO_REQUIREMENTS,
    AnyOf,
    Capabilities,
    Constraint,
    Limits,
    Operator,
    Requirements,
    RunId,
    TaskId,
    TaskSpec,
    Verdict,
    WorkerId,
)
from fleetest.load_balancer import LoadBalancer
from fleetest.simulation.simulated_cluster import Policies, SimulatedCluster
from fleetest.simulation.simulated_worker import Behaviour
from fleetest.testing.eager_hedging import EagerHedging

# The first worker has everything, so that every task can end.
ALL = Capabilities(
    {"os": ("linux",), "cuda": ("12.4",), "python": ("3.11.7", "3.12.1")},
    {"gpus": 1.0, "cpus": 4.0, "memory": 16e9, "licence": 1.0},
)
KINDS = (
    ALL,
    Capabilities({"os": ("linux",), "python": ("3.12.1",)}, {"cpus": 4.0, "memory": 8e9}),
    Capabilities({"os": ("linux",), "cuda": ("11.8",)}, {"cpus": 2.0, "gpus": 2.0}),
    Capabilities({"os": ("windows",)}, {"cpus": 8.0, "licence": 1.0}),
    Capabilities(),
)
CUDA = Constraint("cuda", Operator.GE, "12")
SPECIAL = (
    Requirements(resources=(("gpus", 1.0),)),
    Requirements(resources=(("cpus", 2.0),)),
    Requirements(resources=(("cpus", 1.5), ("memory", 4e9))),
    Requirements(resources=(("licence", 1.0),), locks=("db",)),
    Requirements(locks=("db",)),
    Requirements(locks=("db", "port")),
    Requirements(alone=True),
    Requirements(alone=True, constraints=(Constraint("os", Operator.EQ, "linux"),)),
    Requirements(constraints=(CUDA,)),
    Requirements(constraints=(Constraint("os", Operator.EQ, "linux"),), prefers=(CUDA,)),
    Requirements(constraints=(AnyOf((CUDA, Constraint("os", Operator.EQ, "windows"))),)),
    Requirements(prefers=(Constraint("python", Operator.GE, "3.12"),)),
)
GANGS = (
    Requirements(workers=2),
    Requirements(workers=2),
    Requirements(workers=3),
    Requirements(workers=2, locks=("db",)),
    Requirements(workers=2, alone=True),
)
"""For fleets of at least three workers that all have the tests."""
VERDICTS = [*[Verdict.PASSED] * 8, Verdict.FAILED, Verdict.FAILED, Verdict.SKIPPED, Verdict.ERROR, Verdict.CRASHED]


@dataclass(slots=True)
class RandomFleet:
    """``seed`` decides everything: machines, suites, limits, who submits and cancels when, and the faults."""

    seed: int
    cluster: SimulatedCluster
    faults_s: float
    mean_gap_s: float
    work_s: float = 0.0
    """All durations of all attempts that may be made, on a worker of slowness 1."""
    cancelled: dict[RunId, float] = field(default_factory=dict)
    """When which run is cancelled, if it still runs then."""
    submissions: int = 0
    submitted: int = 0

    @property
    def bound_s(self) -> float:
        """Long enough for what is left to be executed one by one on the slowest machine once nothing breaks any more.

        Before that: a partition ends, silence is noticed, leases that nobody answers for are given up.
        """
        limits = self.cluster.limits
        recovery_s = 60.0 + 24 * limits.heartbeat_interval_s + limits.reconnect_grace_s + 3 * limits.lease_overrun_s
        return recovery_s + 4.0 * self.work_s


def random_limits(rnd: random.Random) -> Limits:
    return Limits(
        heartbeat_interval_s=rnd.choice([0.5, 1.0, 2.0]),
        reconnect_grace_s=rnd.choice([0.5, 3.0, 6.0]),
        lease_overrun_s=rnd.choice([1.0, 5.0]),
        cancel_grace_s=rnd.choice([0.5, 3.0]),
        kill_answer_s=rnd.choice([0.5, 2.0]),
        attempts_lost_max=rnd.choice([2, 3, 5]),
        infrastructure_failures_max=rnd.choice([2, 4, 6]),
        prefetch_s=rnd.choice([0.05, 0.4, 2.0]),
        prefetch_tasks_max=rnd.choice([2, 10, 500]),
        moves_max=rnd.choice([0, 1, 3]),
        workers_may_join=rnd.random() < 0.8,
    )


def random_tasks(rnd: random.Random, count: int, *, gangs: float = 0.0) -> list[TaskSpec]:
    """Dependencies are on earlier tasks, or circular or unknown now and then. ``gangs``: the part that is gangs."""
    special = rnd.choice([0.0, 0.2, 0.6])
    groups = rnd.choice([1, 3, 8, count])
    kept = set(rnd.sample(range(groups), k=min(groups, rnd.choice([0, 0, 1, 2]))))
    has_history = rnd.random() < 0.5
    tasks = []
    for number in range(count):
        group = rnd.randrange(groups)
        depends_on: tuple[TaskId, ...] = ()
        if number and rnd.random() < 0.1:
            depends_on = (TaskId(f"t{rnd.randrange(number)}"),)
        elif rnd.random() < 0.01:
            depends_on = (TaskId(rnd.choice([f"t{number}", f"t{number + 1}", "nowhere"])),)
        tasks.append(
            TaskSpec(
                TaskId(f"t{number}"),
                group=f"g{group}",
                keep_together=group in kept,
                requirements=_random_requirements(rnd, special, gangs),
                priority=rnd.choice([0, 0, 0, 1, -1]),
                retries=rnd.choice([0, 0, 0, 1, 2]),
                depends_on=depends_on,
                expected_s=rnd.choice([0.01, 0.1, 2.0]) if has_history and rnd.random() < 0.9 else None,
                timeout_s=rnd.choice([None, None, 2.0, 5.0]),
                hedge=rnd.random() < 0.9,
            )
        )
    return tasks


def _random_requirements(rnd: random.Random, special: float, gangs: float) -> Requirements:
    if gangs and rnd.random() < gangs:
        return rnd.choice(GANGS)
    return rnd.choice(SPECIAL) if rnd.random() < special else NO_REQUIREMENTS


def random_fleet(
    seed: int,
    *,
    after_event: Callable[[ClusterState, Sequence[Command]], None] | None = None,
    trace: Callable[[float, object], None] | None = None,
) -> RandomFleet:
    rnd = random.Random(f"fleet {seed}")
    limits = random_limits(rnd)
    balancing = EagerHedging() if rnd.random() < 0.3 else LoadBalancer()
    cluster = SimulatedCluster(
        seed, limits, policies=Policies(balancing=balancing), after_event=after_event, trace=trace
    )
    fleet = RandomFleet(seed, cluster, rnd.choice([5.0, 15.0, 30.0]), rnd.choice([0.15, 0.4, 1.0, 3.0]))
    worker_count = rnd.randint(1, 5)
    gangs = rnd.choice([0.0, 0.1, 0.4]) if worker_count >= 3 else 0.0
    for number in range(worker_count):
        capabilities = ALL if number == 0 else rnd.choice(KINDS)
        joins_at = 0.0 if number == 0 or rnd.random() < 0.7 or not limits.workers_may_join else rnd.uniform(0.5, 15.0)
        slots, slowness = rnd.randint(1, 4), rnd.choice([1.0, 1.0, 1.0, 2.0, 0.5])
        cluster.clock.call_at(joins_at, _join, cluster, f"w{number}", slots, capabilities, slowness)
    while cluster.clock.now == 0.0 and not cluster.workers:
        cluster.clock.step()
    fleet.submissions = rnd.randint(1, 3)
    for number in range(fleet.submissions):
        _plan_run(rnd, fleet, number, gangs)
    _recall_slowness(fleet, worker_count)
    return fleet


def _join(cluster: SimulatedCluster, name: str, slots: int, capabilities: Capabilities, slowness: float) -> None:
    cluster.add_worker(name, slots, capabilities, slowness=slowness)


def _recall_slowness(fleet: RandomFleet, worker_count: int) -> None:
    """In half of the fleets: what past runs say of the workers, right or wrong, and of one that never comes."""
    rnd = random.Random(f"slowness {fleet.seed}")
    if rnd.random() < 0.5:
        names = [WorkerId(f"w{number}") for number in range(worker_count + 1)]
        slowness = {name: rnd.choice([0.1, 0.5, 1.0, 2.0, 20.0]) for name in names}
        fleet.cluster.clock.call_at(rnd.uniform(0.0, 5.0), fleet.cluster.apply, events.SlownessRecalled(slowness))


def _plan_run(rnd: random.Random, fleet: RandomFleet, number: int, gangs: float) -> None:
    """One run: when it is submitted, what its tests do, who cannot execute which, and whether it is cancelled."""
    cluster = fleet.cluster
    tasks = [
        _renamed(task, f"r{number}-") for task in random_tasks(rnd, rnd.choice([0, 1, 8, 20, 40, 60, 90]), gangs=gangs)
    ]
    killers = rnd.choice([0.0, 0.0, 0.02])
    for task in tasks:
        duration_s = rnd.choice([0.001, 0.02, 0.1, 0.5, 2.0])
        verdict = rnd.choice(VERDICTS)
        cluster.behaviours[task.task_id] = Behaviour(duration_s, verdict, kills_worker=rnd.random() < killers)
        fleet.work_s += duration_s * (task.retries + 1 + cluster.limits.attempts_lost_max)
    run_id = RunId(f"run{number}")
    wait_s = rnd.choice([None, None, 0.0, 3.0])
    # What waits for ever needs a worker that can do it: the first one can do everything, and all can do gangs.
    is_patient = wait_s is None
    for index in range(is_patient, 5):
        name = WorkerId(f"w{index}")
        if rnd.random() < 0.2:
            eligible = [task.task_id for task in tasks if task.requirements.workers == 1 or not is_patient]
            lacked = frozenset(task_id for task_id in eligible if rnd.random() < 0.2)
            cluster.missing[name] = cluster.missing.get(name, frozenset()) | lacked
        if rnd.random() < 0.1 and not (gangs and is_patient):
            cluster.unavailable[name] = cluster.unavailable.get(name, frozenset()) | {run_id}
    event = events.RunSubmitted(
        run_id, owner=rnd.choice(["ann", "bob"]), priority=rnd.choice([0, 0, 1]), wait_for_workers_s=wait_s
    )
    at = 0.0 if number == 0 else rnd.uniform(0.0, 5.0)
    cluster.clock.call_at(at, _submit, fleet, event, tasks)
    if rnd.random() < 0.25:
        cancelled_at = rnd.uniform(at, at + 8.0)
        word = events.RunCancelled(run_id, "enough", kill=rnd.random() < 0.5, quiet=rnd.random() < 0.5)
        fleet.cancelled[run_id] = cancelled_at
        cluster.clock.call_at(cancelled_at, cluster.apply, word)


def _submit(fleet: RandomFleet, event: events.RunSubmitted, tasks: list[TaskSpec]) -> None:
    fleet.cluster.submit_run(event, tasks)
    fleet.submitted += 1


def _renamed(task: TaskSpec, prefix: str) -> TaskSpec:
    """Ids are unique over runs, so that each test has a behaviour of its own."""
    return replace(
        task,
        task_id=TaskId(prefix + task.task_id),
        depends_on=tuple(TaskId(prefix + name) for name in task.depends_on),
    )
