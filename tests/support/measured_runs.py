"""A history in memory that is told what tests took on which worker, and nothing else."""

import random

import duckdb

from fleetest.storage.history_queries import HistoryQueries
from fleetest.storage.history_schema import CREATE_STATEMENTS


class MeasuredRuns:
    def __init__(self):
        self._connection = duckdb.connect()
        for statement in CREATE_STATEMENTS:
            self._connection.execute(statement)
        self.runs = 0

    def add(self, attempts):
        """One more run: (test, worker, seconds) of each passed attempt in the order in which they ended."""
        self.runs += 1
        columns = map(list, zip(*attempts, strict=True))
        self._connection.execute(
            "INSERT INTO attempts BY NAME SELECT ? AS run_id, unnest(?) AS task_id, 1 AS attempt, 'passed' AS verdict,"
            " unnest(?) AS worker, unnest(?) AS duration_s",
            [f"run {self.runs}", *columns],
        )

    @property
    def queries(self):
        return HistoryQueries(self._connection)


def at_random(usual_s, slowness, chance, noise=0.15, factor=1.0):
    """Each test on any worker, the fast ones more often; ``noise``: of the logarithm of its time."""
    workers, weights = list(slowness), [1.0 / slow for slow in slowness.values()]
    attempts = []
    for test, seconds in usual_s.items():
        worker = chance.choices(workers, weights)[0]
        attempts.append((test, worker, seconds * factor * slowness[worker] * chance.lognormvariate(0.0, noise)))
    return attempts


def lognormal(count, seed=1):
    """Usual seconds by test."""
    chance = random.Random(seed)
    return {f"t{number}": chance.lognormvariate(0.0, 1.0) for number in range(count)}
