"""Makespan of the balancing strategies in virtual time, against the lower bound max(total / capacity, longest).

    python benchmarks/balancing.py [--tasks N] [--seeds N] [--json FILE]

Fleets of 10 machines with 10 slots each and tests of skewed (log-normal) durations. Each number is the makespan over
the bound, the mean of all seeds; the capacity of a machine is its slots times its speed. The real core and policies
run; machines and network are simulated, so that the numbers are the same on every computer.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleetest.balancing.simple import LeastLoaded, RoundRobin
from fleetest.core.entities import Slot
from fleetest.core.model import Instant, Limits, TaskId, TaskSpec
from fleetest.core.policies import BalancingPolicy, Hedge, Move
from fleetest.load_balancer import LoadBalancer
from fleetest.simulation.simulated_cluster import Policies, SimulatedCluster
from fleetest.simulation.simulated_worker import Behaviour

MACHINES = 10
SLOTS = 10
HANGING_FACTOR = 20.0


class WithoutHedges(LoadBalancer):
    """Moves waiting work only."""

    def propose(self, idle: Collection[Slot], busy: Iterable[Slot], now: Instant) -> Sequence[Move | Hedge]:
        return [proposal for proposal in super().propose(idle, busy, now) if isinstance(proposal, Move)]


class WithoutMoves(LoadBalancer):
    """Hedges only."""

    def propose(self, idle: Collection[Slot], busy: Iterable[Slot], now: Instant) -> Sequence[Move | Hedge]:
        return [proposal for proposal in super().propose(idle, busy, now) if isinstance(proposal, Hedge)]


class WithNeither(LoadBalancer):
    """Knows speeds, and leaves everything where it is."""

    def propose(self, idle: Collection[Slot], busy: Iterable[Slot], now: Instant) -> Sequence[Move | Hedge]:
        return ()


STRATEGIES: dict[str, Callable[[], BalancingPolicy]] = {
    "adaptive": LoadBalancer,
    "no hedges": WithoutHedges,
    "no moves": WithoutMoves,
    "neither": WithNeither,
    "least-loaded": LeastLoaded,
    "round-robin": RoundRobin,
}


@dataclass(frozen=True)
class Scenario:
    name: str
    tasks_share: float = 1.0
    """Of the number of tests asked for."""
    slowness: tuple[float, ...] = (1.0,) * MACHINES
    history_error: float | None = 0.2
    """Deviation of the logarithm of expected over true duration; None: nothing is known."""
    stuck_share: float = 0.0
    """Of the tests: on the first machine they take ``HANGING_FACTOR`` times as long."""


SLOW_TENTH = (2.0,) + (1.0,) * (MACHINES - 1)
SCENARIOS = (
    Scenario("equal machines"),
    Scenario("one in ten half as fast", slowness=SLOW_TENTH),
    Scenario("the same, few tests", tasks_share=0.1, slowness=SLOW_TENTH),
    Scenario("the same, no history", slowness=SLOW_TENTH, history_error=None),
    Scenario("unlike machines", slowness=(4.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5)),
    Scenario("unlike, few tests", tasks_share=0.1, slowness=(4.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5)),
    Scenario("a machine that hangs", stuck_share=0.05),
)


@dataclass
class Outcome:
    makespan_s: float
    bound_s: float
    moves: int
    hedges: int


def simulate(scenario: Scenario, make: Callable[[], BalancingPolicy], count: int, seed: int) -> Outcome:
    chance = random.Random(seed)
    cluster = SimulatedCluster(seed, Limits(heartbeat_interval_s=30.0), policies=Policies(balancing=make()))
    durations_s = [chance.lognormvariate(0.0, 1.2) for _ in range(max(1, int(count * scenario.tasks_share)))]
    tasks, stuck = [], set()
    for number, duration_s in enumerate(durations_s):
        error = scenario.history_error
        expected_s = None if error is None else duration_s * chance.lognormvariate(0.0, error)
        task_id = TaskId(f"t{number}")
        tasks.append(TaskSpec(task_id, group=f"g{number}", expected_s=expected_s))
        cluster.behaviours[task_id] = Behaviour(duration_s)
        if chance.random() < scenario.stuck_share:
            stuck.add(task_id)
    for number, slowness in enumerate(scenario.slowness):
        worker = cluster.add_worker(f"m{number}", SLOTS, slowness=slowness)
        if number == 0:
            worker.around = _Hanging(cluster, stuck)
    run = cluster.submit("run", tasks)
    cluster.run_to_the_end(limit_s=1e6)
    assert run.finished_at is not None
    assert len(run.verdicts) == len(tasks)
    capacity = sum(SLOTS / slowness for slowness in scenario.slowness)
    longest_s = max(durations_s) * min(scenario.slowness)
    planned = cluster.state.cluster.finished_runs[next(iter(cluster.runs))].tasks.values()
    attempts = [outcome.attempt for outcome in run.attempts]
    return Outcome(
        run.finished_at,
        max(sum(durations_s) / capacity, longest_s),
        sum(task.moves for task in planned),
        sum(attempt > 1 for attempt in attempts),
    )


class _Hanging:
    """What surrounds a machine on which some tests take far longer than anywhere else."""

    def __init__(self, cluster: SimulatedCluster, stuck: set[TaskId]) -> None:
        self._cluster, self._stuck = cluster, stuck

    def __getattr__(self, name: str) -> object:
        return getattr(self._cluster, name)

    def behave(self, task_id: TaskId, attempt: int) -> Behaviour:
        ordinary = self._cluster.behave(task_id, attempt)
        return Behaviour(ordinary.duration_s * HANGING_FACTOR) if task_id in self._stuck else ordinary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    print(f"{'makespan / bound':<26}" + "".join(f"{name:>14}" for name in STRATEGIES) + f"{'moves':>8}{'hedges':>8}")
    started = time.perf_counter()
    for scenario in SCENARIOS:
        cells = {}
        for name, make in STRATEGIES.items():
            outcomes = [simulate(scenario, make, arguments.tasks, seed) for seed in range(arguments.seeds)]
            cells[name] = sum(each.makespan_s / each.bound_s for each in outcomes) / len(outcomes)
            if name == "adaptive":
                moves = sum(each.moves for each in outcomes) / len(outcomes)
                hedges = sum(each.hedges for each in outcomes) / len(outcomes)
        rows.append({"scenario": scenario.name, "ratios": cells, "moves": moves, "hedges": hedges})
        numbers = "".join(f"{cells[name]:>14.3f}" for name in STRATEGIES)
        print(f"{scenario.name:<26}{numbers}{moves:>8.0f}{hedges:>8.0f}", flush=True)
    print(f"{time.perf_counter() - started:.0f} s")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"tasks": arguments.tasks, "seeds": arguments.seeds, "rows": rows}))


if __name__ == "__main__":
    main()
