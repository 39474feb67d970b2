"""What if these tests ran on this fleet: the same work under several strategies, with the bound that none can beat."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from fleetest.balancing.simple import LeastLoaded, RoundRobin
from fleetest.core import events
from fleetest.core.matching import matches
from fleetest.core.model import (
    NO_REQUIREMENTS,
    Capabilities,
    Limits,
    Requirements,
    RunId,
    TaskId,
    TaskSpec,
    Verdict,
    WorkerId,
)
from fleetest.core.policies import BalancingPolicy
from fleetest.load_balancer import LoadBalancer
from fleetest.simulation.simulated_cluster import LATENCY_S, Policies, SimulatedCluster
from fleetest.simulation.simulated_worker import Behaviour, Execution
from fleetest.simulation.xdist_models import XDIST_MODES, NodeFleet, SchedulerFactory

RUN = RunId("what if")


@dataclass(frozen=True, slots=True)
class Machine:
    """``speed`` 2: tests take half of their duration."""

    name: str
    slots: int
    speed: float = 1.0
    capabilities: Capabilities = field(default_factory=Capabilities)


@dataclass(frozen=True, slots=True)
class Crash:
    """The machine dies at this moment, seconds after the start, and does not come back."""

    machine: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Question:
    """``durations_s`` are on a machine of speed 1; what the scheduler knows of them is ``expected_s`` of each test."""

    machines: Sequence[Machine]
    tests: Sequence[TaskSpec]
    durations_s: Mapping[TaskId, float]
    crashes: Sequence[Crash] = ()
    latency_s: tuple[float, float] = LATENCY_S
    limits: Limits = field(default_factory=Limits)
    slowness: Mapping[str, float] = field(default_factory=dict)
    """What the history says of machines, see ``events.SlownessRecalled``; empty: nothing."""

    @property
    def bound_s(self) -> float:
        """No schedule is shorter, crash or none: all the work at the whole fleet's speed; what has the same needs, at
        the speed of the machines that have them; what wants the same lock, one after the other; the longest test.

        Tests that no machine can run count for nothing: they are not run.
        """
        durations_s: dict[Requirements, list[float]] = {}
        for test in self.tests:
            durations_s.setdefault(test.requirements, []).append(self.durations_s[test.task_id])
        work_s, bound_s = 0.0, 0.0
        locked_s: dict[str, float] = {}
        for needs, each_s in durations_s.items():
            fit = [machine for machine in self.machines if matches(needs, machine.capabilities)]
            if len(fit) < needs.workers:
                continue
            total_s = sum(each_s) * needs.workers
            work_s += total_s
            # Of a gang the last member decides.
            fastest = sorted((machine.speed for machine in fit), reverse=True)[needs.workers - 1]
            throughput = sum(machine.speed * _at_once(needs, machine) for machine in fit)
            bound_s = max(bound_s, total_s / throughput, max(each_s) / fastest)
            for lock in needs.locks:
                locked_s[lock] = locked_s.get(lock, 0.0) + sum(each_s) / fastest
        return max(bound_s, work_s / self.speed, *locked_s.values())

    @property
    def speed(self) -> float:
        """Seconds of work that the fleet does in a second."""
        return sum(machine.slots * machine.speed for machine in self.machines)


def _at_once(needs: Requirements, machine: Machine) -> int:
    """How many tests with these needs the machine can run at the same time."""
    if needs.alone:
        return 1
    totals = machine.capabilities.resources
    return min([machine.slots, *(int(totals[name] / amount) for name, amount in needs.resources if amount)])


@dataclass(frozen=True, slots=True)
class Answer:
    """``makespan_s`` is from the moment at which every machine is ready to the last verdict."""

    strategy: str
    makespan_s: float
    bound_s: float
    machines: Sequence[Machine]
    executions: Sequence[Execution]
    verdicts: Mapping[Verdict, int]
    crashed: frozenset[str] = frozenset()
    """Machines that died on the way."""

    @property
    def ratio(self) -> float:
        """Makespan to bound: 1 is perfect."""
        return self.makespan_s / self.bound_s if self.bound_s else 1.0

    def utilisation(self) -> dict[str, float]:
        """Share of the makespan in which the slots of each machine executed something that counted or was lost."""
        busy_s = dict.fromkeys((machine.name for machine in self.machines), 0.0)
        for execution in self.executions:
            busy_s[execution.worker_id] += min(execution.ended_at, self.makespan_s) - execution.started_at
        return {
            machine.name: busy_s[machine.name] / (machine.slots * self.makespan_s) if self.makespan_s else 0.0
            for machine in self.machines
        }

    @property
    def tail_s(self) -> float:
        """How long the first slot that ran dry has waited for the last one; slots of crashed machines wait for none."""
        last: dict[tuple[str, int], float] = {
            (machine.name, slot): 0.0
            for machine in self.machines
            for slot in range(machine.slots)
            if machine.name not in self.crashed
        }
        for execution in self.executions:
            key = (execution.worker_id, execution.slot)
            if key in last:
                last[key] = max(last[key], execution.ended_at)
        return self.makespan_s - min(last.values(), default=0.0)


Strategy = Callable[[Question, int], Answer]
"""A question and a seed; the same seed gives the same answer."""


def with_policies(strategy: str, make: Callable[[], BalancingPolicy], question: Question, seed: int) -> Answer:
    """The real core and scheduler with this balancing policy."""
    cluster = SimulatedCluster(
        seed,
        replace(question.limits, workers_may_join=False),
        policies=Policies(balancing=make()),
        latency_s=question.latency_s,
        collecting_s=(0.0, 0.0),
    )
    cluster.behaviours = {
        task_id: Behaviour(duration_s=duration_s) for task_id, duration_s in question.durations_s.items()
    }
    for machine in question.machines:
        cluster.add_worker(machine.name, machine.slots, machine.capabilities, slowness=1.0 / machine.speed)
    for crash in question.crashes:
        worker = cluster.workers[WorkerId(crash.machine)]
        cluster.clock.call_at(crash.at_s, partial(cluster.kill, worker, comes_back=False))
    if question.slowness:
        slowness = {WorkerId(name): slow for name, slow in question.slowness.items()}
        cluster.apply(events.SlownessRecalled(slowness))
    run = cluster.submit(RUN, question.tests)
    total_s = sum(question.durations_s[test.task_id] for test in question.tests)
    slowest = min(machine.speed for machine in question.machines)
    cluster.run_to_the_end(limit_s=3600.0 + 4 * total_s / slowest)
    assert run.finished_at is not None
    verdicts: dict[Verdict, int] = run.counts or {}
    crashed = frozenset(crash.machine for crash in question.crashes)
    return Answer(strategy, run.finished_at, question.bound_s, question.machines, cluster.executions, verdicts, crashed)


def with_nodes(strategy: str, make: SchedulerFactory, question: Question, seed: int) -> Answer:
    """The model of a strategy that knows of no machines, only of equal nodes: one per slot."""
    places = [(machine, slot) for machine in question.machines for slot in range(machine.slots)]
    fleet = NodeFleet(
        make,
        [test.group for test in question.tests],
        [question.durations_s[test.task_id] for test in question.tests],
        [1.0 / machine.speed for machine, _ in places],
        latency_s=question.latency_s,
        seed=seed,
    )
    executions = []
    for ran in fleet.run():
        machine, slot = places[ran.node]
        task_id = question.tests[ran.test].task_id
        worker_id = WorkerId(machine.name)
        executions.append(Execution(RUN, task_id, 1, worker_id, slot, ran.started_at, ran.ended_at, Verdict.PASSED))
    verdicts = {Verdict.PASSED: len(executions)} if executions else {}
    makespan_s = max((execution.ended_at for execution in executions), default=0.0)
    return Answer(strategy, makespan_s, question.bound_s, question.machines, executions, verdicts)


STRATEGIES: Mapping[str, Strategy] = {
    "adaptive": partial(with_policies, "adaptive", LoadBalancer),
    "least loaded": partial(with_policies, "least loaded", LeastLoaded),
    "round robin": partial(with_policies, "round robin", RoundRobin),
    **{name: partial(with_nodes, name, make) for name, make in XDIST_MODES.items()},
}
"""By name, ours first. Those after the first three ignore requirements, and do not survive a crash."""
NODE_STRATEGIES = frozenset(XDIST_MODES)


def why_not(strategy: str, question: Question) -> str:
    """Why the strategy cannot answer the question; empty if it can."""
    if strategy in NODE_STRATEGIES:
        if question.crashes:
            return "its model has no crashes"
        if any(test.requirements != NO_REQUIREMENTS for test in question.tests):
            return "it knows no requirements"
    return ""


def lognormal_tests(
    count: int, mu: float, sigma: float, *, seed: int, per_file: int = 20, is_known: bool = True
) -> tuple[list[TaskSpec], dict[TaskId, float]]:
    """A suite of given size with durations exp(N(mu, sigma)) seconds. ``is_known``: from history, exactly."""
    rnd = random.Random(f"lognormal {seed}")
    tests, durations_s = [], {}
    for number in range(count):
        file = f"tests/test_{number // per_file:04}.py"
        task_id = TaskId(f"{file}::test_{number % per_file}")
        duration_s = durations_s[task_id] = rnd.lognormvariate(mu, sigma)
        tests.append(TaskSpec(task_id, group=file, expected_s=duration_s if is_known else None))
    return tests, durations_s
