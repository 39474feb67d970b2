"""How slow machines are, from what the same tests took on several of them.

The model: log(seconds) = test + worker + run + noise. The run takes what code, data and the hour have in common for all
workers of a run, so that only what the same runs show tells workers apart. The parts are those of least Huber loss: a
residual counts as at most a factor of e, so that a test that hung once says little. In each of a few rounds every part
in turn takes the mean of what remains; the problem is convex, so it does not matter where they start. Parts of workers
are drawn towards 0 where little is known. A worker that shares no test with any other has the slowness 1.

Everything is estimated anew from measured seconds alone: neither expectations nor earlier estimates enter, so no error
is carried from one run to the next, and estimates after any number of runs differ by their noise. The scale is fixed:
over all attempts of the workers that could be compared the logarithms of slowness are 0 on average, so that what is
expected of tests is, as a geometric mean, what was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

SHORTEST_S = 0.02
"""Shorter tests measure the clock and the operating system."""
ROWS_MAX = 50_000
"""If there are more, about so many are compared: all those of some of the tests."""
PRIOR_ATTEMPTS = 5
"""Where so many are compared, the estimate keeps half of what they show."""
_RESIDUAL_MAX = 1.0
_ROUNDS = 8

_ATTEMPTS = """
measured AS MATERIALIZED (
    SELECT task_id, worker, run_id, ln(duration_s) AS y
    FROM attempts WHERE rowid IN (
        SELECT unnest(max(rowid, $kept)) FROM attempts
        WHERE verdict = 'passed' AND duration_s >= $shortest_s AND worker <> ''
            AND rowid >= (SELECT count(*) FROM attempts) - $recent AND hash(task_id) % $every = 0
        GROUP BY task_id
    )
), tests_0 AS MATERIALIZED (
    SELECT *, avg(y) OVER (PARTITION BY task_id) AS usual FROM measured WHERE task_id IN (
        SELECT task_id FROM measured GROUP BY task_id HAVING min(worker) <> max(worker)
    )
), workers_0 AS (
    SELECT DISTINCT worker, 0.0::DOUBLE AS slow FROM tests_0
), runs_0 AS (
    SELECT DISTINCT run_id, 0.0::DOUBLE AS late FROM tests_0
)"""
_ROUND = """
tests_{n} AS MATERIALIZED (
    SELECT task_id, worker, run_id, y, usual + avg({rest}) OVER (PARTITION BY task_id) AS usual
    FROM tests_{before} JOIN workers_{before} USING (worker) JOIN runs_{before} USING (run_id)
), runs_{n} AS MATERIALIZED (
    SELECT run_id, any_value(late) + avg({rest}) AS late
    FROM tests_{n} JOIN workers_{before} USING (worker) JOIN runs_{before} USING (run_id) GROUP BY run_id
), workers_{n} AS MATERIALIZED (
    SELECT worker, (any_value(slow) + avg({rest})) * count(*) / (count(*) + $prior) AS slow
    FROM tests_{n} JOIN workers_{before} USING (worker) JOIN runs_{n} USING (run_id) GROUP BY worker
)"""
_REST = "greatest(-$bound, least($bound, y - usual - slow - late))"
_QUESTION = (
    "WITH "
    + ",".join([_ATTEMPTS, *(_ROUND.format(n=n, before=n - 1, rest=_REST) for n in range(1, _ROUNDS + 1))])
    + f" SELECT worker, exp(round(slow - (SELECT avg(slow) FROM measured JOIN workers_{_ROUNDS} USING (worker)), 3))"
    + f" FROM workers_{_ROUNDS}"
)


def worker_slowness(
    connection: duckdb.DuckDBPyConnection, *, recent_attempts: int, attempts_per_task: int
) -> dict[str, float]:
    """Seconds for what takes a typical machine one second, by worker. Those who are not in it: 1.

    Looks at the last ``attempts_per_task`` passed attempts of each task among the ``recent_attempts`` last rows.
    """
    counted = connection.execute(
        "SELECT least(count(*), ? * approx_count_distinct(task_id)), min(worker) < max(worker) FROM attempts"
        " WHERE rowid >= (SELECT count(*) FROM attempts) - ? AND worker <> ''",
        [attempts_per_task, recent_attempts],
    ).fetchone()
    if counted is None or not counted[1]:
        # One worker at all, as in every history of embedded runs.
        return {}
    parameters = {
        "kept": attempts_per_task,
        "shortest_s": SHORTEST_S,
        "recent": recent_attempts,
        "every": 1 + counted[0] // ROWS_MAX,
        "prior": PRIOR_ATTEMPTS,
        "bound": _RESIDUAL_MAX,
    }
    return dict(connection.execute(_QUESTION, parameters).fetchall())
