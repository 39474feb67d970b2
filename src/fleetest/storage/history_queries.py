"""The questions that people ask of the history, as SQL. Callers bring the connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fleetest.storage.worker_slowness import worker_slowness

if TYPE_CHECKING:
    import duckdb

RECENT_ATTEMPTS = 2_000_000
"""Expected durations are taken from this many last rows, whatever the size of the history."""
_DURATIONS_PER_TASK = 5
_FETCH_ROWS = 5_000
FAILING = "('failed', 'error', 'timeout', 'crashed', 'oom')"


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows with named columns. Times are naive datetimes in UTC, or None."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class HistoryQueries:
    """Belongs to one thread at a time, like its connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, slowness: Mapping[str, float] | None = None) -> None:
        """``slowness``: what another one has found; else it is found out when it is first needed."""
        self._connection = connection
        self._slowness = slowness

    def runs(self, limit: int) -> Answer:
        """The last ``limit`` runs, newest first."""
        return self.ask("SELECT * FROM runs ORDER BY started_at DESC, run_id LIMIT ?", limit)

    def run_ids(self, prefix: str, limit: int) -> list[str]:
        """Runs whose id starts with ``prefix``, newest first; ``latest`` is the newest run of all."""
        if prefix == "latest":
            prefix, limit = "", 1
        rows = self.ask(
            "SELECT run_id FROM runs WHERE starts_with(run_id, ?) ORDER BY started_at DESC, run_id LIMIT ?",
            prefix,
            limit,
        ).rows
        return [run_id for (run_id,) in rows]

    def run(self, run_id: str) -> Answer:
        return self.ask("SELECT * FROM runs WHERE run_id = ?", run_id)

    def tasks(self, run_id: str) -> Answer:
        """Tasks of one run: failing ones first, then those without a verdict, the rest in the order of the plan."""
        return self.ask(
            f"""
            SELECT task_id, verdict, attempts, duration_s, worker, reason, suite, group_name, position
            FROM tasks WHERE run_id = ?
            ORDER BY CASE
                WHEN verdict IN {FAILING} THEN 0
                WHEN verdict IS NULL OR verdict IN ('quarantined', 'cancelled', 'not_run') THEN 1
                ELSE 2 END, suite, position
            """,
            run_id,
        )

    def attempts(self, run_id: str) -> Answer:
        """Every attempt of one run, in order, with what it said."""
        return self.ask(
            """
            SELECT task_id, attempt, verdict, is_final, worker, started_at, duration_s, reason, traceback, output
            FROM attempts WHERE run_id = ? ORDER BY task_id, attempt, rowid
            """,
            run_id,
        )

    def slowest(self, limit: int) -> Answer:
        """Tasks by the median duration of their passed attempts."""
        return self.ask(
            """
            SELECT task_id, count(*) AS attempts, median(duration_s) AS median_s,
                quantile_cont(duration_s, 0.95) AS p95_s, max(duration_s) AS max_s, sum(duration_s) AS total_s
            FROM attempts WHERE verdict = 'passed' AND duration_s IS NOT NULL
            GROUP BY task_id ORDER BY median_s DESC, task_id LIMIT ?
            """,
            limit,
        )

    def flakiest(self, limit: int) -> Answer:
        """Tasks that both passed and failed, most changeable first.

        ``score`` is the share of attempts whose verdict differs from that of the attempt before: 1 for a test that
        passes and fails in turn, close to 0 for one that broke once and stayed broken.
        """
        return self.ask(
            f"""
            WITH told AS (
                SELECT task_id, run_id, attempt, started_at, verdict <> 'passed' AS failed, rowid AS row_number
                FROM attempts WHERE started_at IS NOT NULL AND (verdict = 'passed' OR verdict IN {FAILING})
            ), mixed AS (
                SELECT task_id FROM told GROUP BY task_id HAVING bool_or(failed) AND NOT bool_and(failed)
            ), ordered AS (
                SELECT *, failed <> lag(failed) OVER (
                    PARTITION BY task_id ORDER BY started_at, attempt, row_number
                ) AS changed
                FROM told WHERE task_id IN (SELECT task_id FROM mixed)
            )
            SELECT task_id, count(*) FILTER (WHERE changed) / (count(*) - 1) AS score, count(*) AS attempts,
                count(*) FILTER (WHERE NOT failed) AS passed, count(*) FILTER (WHERE failed) AS failed,
                count(DISTINCT run_id) AS runs, max(started_at) FILTER (WHERE failed) AS last_failed_at
            FROM ordered GROUP BY task_id ORDER BY score DESC, attempts DESC, task_id LIMIT ?
            """,
            limit,
        )

    def failures(self, test: str, limit: int) -> Answer:
        """Failed attempts of the task with this id, newest first; if there is none, of all whose id contains it."""
        question = f"""
            SELECT coalesce(attempts.started_at, runs.started_at) AS failed_at, attempts.run_id, task_id, attempt,
                verdict, worker, runner, attempts.duration_s, reason, traceback
            FROM attempts LEFT JOIN (SELECT run_id, started_at FROM runs) AS runs ON runs.run_id = attempts.run_id
            WHERE verdict IN {FAILING} AND %s
            ORDER BY failed_at DESC, attempts.run_id, attempt DESC LIMIT ?
            """
        answer = self.ask(question % "task_id = ?", test, limit)
        return answer if answer.rows else self.ask(question % "contains(task_id, ?)", test, limit)

    def knows_task(self, test: str) -> bool:
        """Whether any task's id contains ``test``."""
        return bool(self.ask("SELECT 1 FROM attempts WHERE contains(task_id, ?) LIMIT 1", test).rows)

    def slowness(self) -> Mapping[str, float]:
        """Seconds for what takes a typical machine one second, by worker; see ``worker_slowness``."""
        if self._slowness is None:
            self._slowness = worker_slowness(
                self._connection, recent_attempts=RECENT_ATTEMPTS, attempts_per_task=_DURATIONS_PER_TASK
            )
        return self._slowness

    def expected_durations(self, task_ids: Sequence[str] | None = None) -> dict[str, float]:
        """Seconds on a typical machine by task id; None: of all tasks.

        The median of the last five passed attempts among the recent ones, each divided by the slowness of its worker.
        """
        slowness = self.slowness()
        chosen = "" if task_ids is None else "AND task_id IN (SELECT unnest(?))"
        cursor = self._connection.execute(
            f"""
            SELECT task_id, list_median(arg_max(duration_s / coalesce(slowness, 1), attempts.rowid, ?))
            FROM attempts
            LEFT JOIN (SELECT unnest(?::VARCHAR[]) AS name, unnest(?::DOUBLE[]) AS slowness) ON name = worker
            WHERE verdict = 'passed' AND duration_s >= 0
                AND attempts.rowid >= (SELECT count(*) FROM attempts) - ? {chosen}
            GROUP BY task_id
            """,
            [
                _DURATIONS_PER_TASK,
                list(slowness),
                list(slowness.values()),
                RECENT_ATTEMPTS,
                *([] if task_ids is None else [list(task_ids)]),
            ],
        )
        durations: dict[str, float] = {}
        # In parts, so that the event loop's thread gets its turn in between.
        while rows := cursor.fetchmany(_FETCH_ROWS):
            durations.update(rows)
        return durations

    def ask(self, question: str, *parameters: object) -> Answer:
        """Any question; what comes from people travels as a parameter, never in the text."""
        cursor = self._connection.execute(question, list(parameters))
        columns = tuple(column[0] for column in cursor.description or ())
        return Answer(columns, cursor.fetchall())

    def rows(self, question: str, *parameters: object) -> list[dict[str, Any]]:
        """As ``ask``, each row by the names of its columns."""
        answer = self.ask(question, *parameters)
        return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
