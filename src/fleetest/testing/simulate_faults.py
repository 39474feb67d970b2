"""Random fleets under random faults, by seed: ``python -m fleetest.testing.simulate_faults --seed 7 --trace``.

First safety: invariants after every event while everything breaks. Then everything heals, and every run must end in
time with exactly one verdict per test. A seed that fails is printed with the command that replays it.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence

from fleetest.core.cluster_state import ClusterState
from fleetest.core.commands import Command
from fleetest.core.invariants import check
from fleetest.testing.faults import Faults, check_end
from fleetest.testing.naive_model import check_schedule
from fleetest.testing.random_fleet import RandomFleet, random_fleet


def simulate(
    seed: int, *, check_every: int = 1, trace: Callable[[float, object], None] | None = None
) -> tuple[RandomFleet, Faults]:
    """One fleet from its first event to the end of its last run. Raises AssertionError or InvariantViolation.

    ``check_every``: demand the invariants, and what the naive model demands, after each so many events.
    """
    count = 0

    def after_event(state: ClusterState, emitted: Sequence[Command]) -> None:
        nonlocal count
        count += 1
        if count % check_every == 0:
            check(state)
            check_schedule(state.cluster, emitted)

    fleet = random_fleet(seed, after_event=after_event, trace=trace)
    cluster = fleet.cluster
    faults = Faults(cluster, mean_gap_s=fleet.mean_gap_s)
    faults.start()
    while cluster.clock.now < fleet.faults_s and not (fleet.submitted == fleet.submissions and cluster.is_over):
        cluster.clock.step()
    faults.heal()
    while fleet.submitted < fleet.submissions:
        cluster.clock.step()
    cluster.run_to_the_end(fleet.bound_s)
    check_end(cluster)
    return fleet, faults


def replay_command(seed: int) -> str:
    return f"python -m fleetest.testing.simulate_faults --seed {seed} --trace"


def _one(seed: int) -> str | None:
    try:
        simulate(seed)
    except Exception:
        return f"seed {seed} fails:\n{traceback.format_exc()}replay: {replay_command(seed)}"
    return None


def _many(seeds: Iterable[int], processes: int) -> Iterable[str | None]:
    if processes == 1:
        yield from map(_one, seeds)
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(_one, seeds, chunksize=25)


def _print_trace(now: float, what: object) -> None:
    print(f"{now:10.4f}  {what}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fleetest.testing.simulate_faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="simulate this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every event and command")
    parser.add_argument("--seeds", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="at the same time (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        fleet, faults = simulate(options.seed, trace=_print_trace if options.trace else None)
        cluster = fleet.cluster
        print(f"seed {options.seed} passes: {cluster.events_applied} events in {cluster.clock.now:.1f} virtual seconds")
        print("faults:", ", ".join(f"{kind} {count}" for kind, count in sorted(faults.counts.items())) or "none")
        return 0
    begun_at = time.perf_counter()
    failures = 0
    for failure in _many(range(options.first, options.first + options.seeds), options.processes):
        if failure is not None:
            failures += 1
            print(failure, file=sys.stderr)
    took_s = time.perf_counter() - begun_at
    print(f"{options.seeds - failures} of {options.seeds} seeds pass ({took_s:.1f} s)")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
