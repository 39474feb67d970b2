"""A fleet that learns from its own runs, in virtual time: what expected durations are worth that were measured on it.

    python benchmarks/learned_durations.py            five runs of 4,000 tests, three seeds
    python benchmarks/learned_durations.py --quick    one seed

Every run is that of a new coordinator that knows nothing but the history: the durations measured in the runs before, on
whichever machine each test ran. A test takes its usual time, 15 % more or less. Two ways to read the same history: as
it was measured (the median of a test's last five attempts), and what Fleetest does: durations as on a typical machine,
and how slow each machine is.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import duckdb

from fleetest.core.model import TaskId, TaskSpec, Verdict
from fleetest.simulation.simulated_worker import Execution
from fleetest.simulation.what_if import STRATEGIES, Machine, Question, lognormal_tests
from fleetest.storage.history_queries import HistoryQueries
from fleetest.storage.history_schema import CREATE_STATEMENTS

NOISE = 0.15
"""Standard deviation of the logarithm of a test's time from run to run."""
FLEETS = {
    "equal": [1.0] * 10,
    "one of ten half as fast": [1.0] * 9 + [0.5],
    "five of ten half as fast": [1.0] * 5 + [0.5] * 5,
    "1, 2 and 4 times as fast": [1.0, 2.0, 4.0],
}


class Measured:
    """The durations as they were measured."""

    def __init__(self) -> None:
        self._attempts_s: dict[TaskId, list[float]] = defaultdict(list)

    def add(self, run: int, executions: Sequence[Execution]) -> None:
        for one in executions:
            self._attempts_s[one.task_id].append(one.ended_at - one.started_at)

    def slowness(self) -> Mapping[str, float]:
        return {}

    def expected(self) -> Mapping[TaskId, float]:
        return {task_id: statistics.median(attempts_s[-5:]) for task_id, attempts_s in self._attempts_s.items()}


class Typical:
    """The durations on a typical machine, from a history of Fleetest."""

    def __init__(self) -> None:
        self._connection = duckdb.connect()
        for statement in CREATE_STATEMENTS:
            self._connection.execute(statement)

    def add(self, run: int, executions: Sequence[Execution]) -> None:
        columns = zip(*((one.task_id, one.worker_id, one.ended_at - one.started_at) for one in executions), strict=True)
        self._connection.execute(
            "INSERT INTO attempts BY NAME SELECT ? AS run_id, unnest(?) AS task_id, 1 AS attempt, 'passed' AS verdict,"
            " unnest(?) AS worker, unnest(?) AS duration_s",
            [f"run {run}", *map(list, columns)],
        )

    def slowness(self) -> Mapping[str, float]:
        return HistoryQueries(self._connection).slowness()

    def expected(self) -> Mapping[TaskId, float]:
        return {
            TaskId(name): seconds for name, seconds in HistoryQueries(self._connection).expected_durations().items()
        }


def series(
    machines: Sequence[Machine], tests: Sequence[TaskSpec], usual_s: Mapping[TaskId, float], runs: int, seed: int
) -> dict[str, list[tuple[float, float, float]]]:
    """For both ways, per run: makespan to bound, share of the work that was done twice (hedges), and the error of what
    was expected, as the standard deviation of its logarithm.
    """
    found: dict[str, list[tuple[float, float, float]]] = {}
    for name, history in (("as measured", Measured()), ("typical", Typical())):
        chance = random.Random(f"{seed}")
        for run in range(runs):
            expected_s = history.expected() if run else {}
            durations_s = {task_id: usual * chance.lognormvariate(0.0, NOISE) for task_id, usual in usual_s.items()}
            known = [replace(test, expected_s=expected_s.get(test.task_id)) for test in tests]
            question = Question(machines, known, durations_s, slowness=history.slowness() if run else {})
            answer = STRATEGIES["adaptive"](question, seed * runs + run)
            done = [one for one in answer.executions if one.verdict is Verdict.PASSED]
            errors = [math.log(seconds / usual_s[task_id]) for task_id, seconds in expected_s.items()]
            work_s, done_s = (sum(one.ended_at - one.started_at for one in part) for part in (answer.executions, done))
            error = statistics.pstdev(errors) if errors else math.nan
            found.setdefault(name, []).append((answer.ratio, (work_s - done_s) / done_s, error))
            history.add(run, done)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed instead of three")
    parser.add_argument("--tests", type=int, default=4_000)
    parser.add_argument("--per-file", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(
        "fleet | durations | makespan to bound, run by run | work done twice | error of what was expected, from run 2"
    )
    for fleet, speeds in FLEETS.items():
        machines = [Machine(f"m{number}", 10, speed) for number, speed in enumerate(speeds)]
        by_seed = []
        for seed in range(1 if options.quick else 3):
            tests, usual_s = lognormal_tests(
                options.tests, 0.0, 1.0, seed=seed, is_known=False, per_file=options.per_file
            )
            by_seed.append(series(machines, tests, usual_s, options.runs, seed))
        for name in by_seed[0]:
            ratios, twice, errors = (
                [statistics.mean(one[name][run][part] for one in by_seed) for run in range(options.runs)]
                for part in range(3)
            )
            print(
                f"{fleet} | {name} | {' '.join(f'{ratio:.3f}' for ratio in ratios)} |"
                f" {' '.join(f'{share:.2%}' for share in twice)} | {' '.join(f'{error:.2f}' for error in errors[1:])}",
                flush=True,
            )


if __name__ == "__main__":
    main()
