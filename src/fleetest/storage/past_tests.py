"""Questions about tests over all runs of the past: over time, by machine, flaky ones, failures. Nothing is written."""

from __future__ import annotations

from typing import Any

from fleetest.storage.history_queries import FAILING, HistoryQueries

_EXECUTED = "started_at IS NOT NULL AND NOT starts_with(coalesce(reason, ''), 'superseded: ')"


def test_names(queries: HistoryQueries, *, text: str, limit: int, after: str) -> list[dict[str, Any]]:
    """Tests whose id contains ``text``, by id, after the id ``after``."""
    return queries.rows(
        f"""
        SELECT task_id, count(*) AS attempts, count(*) FILTER (WHERE verdict IN {FAILING}) AS failed,
            max(started_at) AS last_run_at, arg_max(verdict, started_at) AS last_verdict
        FROM attempts WHERE {_EXECUTED} AND contains(lower(task_id), lower(?)) AND task_id > ?
        GROUP BY task_id ORDER BY task_id LIMIT ?
        """,
        text,
        after,
        limit,
    )


def test_summary(queries: HistoryQueries, task_id: str) -> dict[str, Any] | None:
    """None if it was never executed. Durations are those of passed attempts."""
    rows = queries.rows(
        f"""
        SELECT count(*) AS attempts, count(*) FILTER (WHERE verdict = 'passed') AS passed,
            count(*) FILTER (WHERE verdict IN {FAILING}) AS failed,
            median(duration_s) FILTER (WHERE verdict = 'passed') AS median_s,
            quantile_cont(duration_s, 0.95) FILTER (WHERE verdict = 'passed') AS p95_s,
            mad(duration_s) FILTER (WHERE verdict = 'passed') AS mad_s
        FROM attempts WHERE task_id = ? AND {_EXECUTED}
        """,
        task_id,
    )
    return rows[0] if rows and rows[0]["attempts"] else None


def test_attempts(queries: HistoryQueries, task_id: str, limit: int) -> list[dict[str, Any]]:
    """The last ``limit`` executions, newest last."""
    return queries.rows(
        f"""
        SELECT * FROM (
            SELECT run_id, attempt, verdict, worker, started_at, duration_s, reason FROM attempts
            WHERE task_id = ? AND {_EXECUTED} ORDER BY started_at DESC, attempt DESC LIMIT ?
        ) ORDER BY started_at, attempt
        """,
        task_id,
        limit,
    )


def slowest(queries: HistoryQueries, *, text: str, limit: int) -> list[dict[str, Any]]:
    """Tests by the median duration of their passed attempts."""
    return queries.rows(
        """
        SELECT task_id, count(*) AS attempts, median(duration_s) AS median_s,
            quantile_cont(duration_s, 0.95) AS p95_s, max(duration_s) AS max_s, sum(duration_s) AS total_s
        FROM attempts
        WHERE verdict = 'passed' AND duration_s IS NOT NULL AND contains(lower(task_id), lower(?))
        GROUP BY task_id ORDER BY median_s DESC, task_id LIMIT ?
        """,
        text,
        limit,
    )


def flakiest(queries: HistoryQueries, *, text: str, limit: int) -> list[dict[str, Any]]:
    """Tests that both passed and failed, those first that did so within one run: the same code, other verdicts."""
    return queries.rows(
        f"""
        WITH told AS (
            SELECT task_id, run_id, attempt, started_at, verdict, verdict <> 'passed' AS failed
            FROM attempts
            WHERE {_EXECUTED} AND (verdict = 'passed' OR verdict IN {FAILING}) AND contains(lower(task_id), lower(?))
        ), mixed AS (
            SELECT task_id FROM told GROUP BY task_id HAVING bool_or(failed) AND NOT bool_and(failed)
        ), same AS (
            SELECT task_id, count(*) AS same_code FROM (
                SELECT task_id, run_id FROM told GROUP BY task_id, run_id
                HAVING bool_or(failed) AND NOT bool_and(failed)
            ) GROUP BY task_id
        ), ordered AS (
            SELECT *, failed <> lag(failed) OVER (PARTITION BY task_id ORDER BY started_at, attempt) AS changed
            FROM told WHERE task_id IN (SELECT task_id FROM mixed)
        )
        SELECT ordered.task_id, count(*) FILTER (WHERE changed) / (count(*) - 1) AS score, count(*) AS attempts,
            count(*) FILTER (WHERE NOT failed) AS passed, count(*) FILTER (WHERE failed) AS failed,
            count(DISTINCT run_id) AS runs, coalesce(any_value(same_code), 0) AS same_code,
            max(started_at) FILTER (WHERE failed) AS last_failed_at,
            list_slice(list(verdict ORDER BY started_at, attempt), -30, -1) AS verdicts
        FROM ordered LEFT JOIN same ON same.task_id = ordered.task_id
        GROUP BY ordered.task_id ORDER BY same_code DESC, score DESC, attempts DESC, ordered.task_id LIMIT ?
        """,
        text,
        limit,
    )


def recent_failures(queries: HistoryQueries, *, days: float, text: str, limit: int) -> list[dict[str, Any]]:
    """The last failed attempts of all runs with their tracebacks, newest first."""
    return queries.rows(
        f"""
        SELECT * FROM attempts
        WHERE {_EXECUTED} AND verdict IN {FAILING} AND contains(lower(task_id), lower(?))
            AND started_at >= (SELECT max(started_at) FROM attempts) - to_microseconds(?)
        ORDER BY started_at DESC LIMIT ?
        """,
        text,
        round(days * 86400e6),
        limit,
    )


BY_WORKER = "worker"


def matrix(
    queries: HistoryQueries, *, by: str, text: str, task_id: str, run_id: str, limit: int
) -> list[dict[str, Any]]:
    """Executions by test and machine: ``by`` is ``worker``, or a capability such as ``os`` or ``gpu.model``.

    For the ``limit`` tests with most failures, those first. A machine with several values of a capability counts once
    for each.
    """
    columns = (
        "SELECT worker, worker AS value FROM (SELECT DISTINCT worker FROM attempts WHERE worker IS NOT NULL)"
        if by == BY_WORKER
        else "SELECT worker, unnest(coalesce(map_extract(attributes, ?)[1], ['none'])) AS value FROM workers"
    )
    parameters: list[object] = [] if by == BY_WORKER else [by]
    return queries.rows(
        f"""
        WITH machines AS ({columns}), told AS (
            SELECT task_id, worker, verdict, duration_s, started_at FROM attempts
            WHERE {_EXECUTED} AND contains(lower(task_id), lower(?))
                AND (? = '' OR task_id = ?) AND (? = '' OR run_id = ?)
        ), chosen AS (
            SELECT task_id FROM told GROUP BY task_id
            ORDER BY count(*) FILTER (WHERE verdict IN {FAILING}) DESC, task_id LIMIT ?
        )
        SELECT told.task_id AS row, machines.value AS column,
            count(*) FILTER (WHERE verdict = 'passed') AS passed,
            count(*) FILTER (WHERE verdict IN {FAILING}) AS failed,
            count(*) FILTER (WHERE verdict <> 'passed' AND verdict NOT IN {FAILING}) AS other,
            median(duration_s) FILTER (WHERE verdict = 'passed') AS median_s,
            arg_max(verdict, started_at) AS last_verdict
        FROM told JOIN machines ON machines.worker = told.worker
        WHERE told.task_id IN (SELECT task_id FROM chosen)
        GROUP BY told.task_id, machines.value
        ORDER BY sum(count(*) FILTER (WHERE verdict IN {FAILING})) OVER (PARTITION BY told.task_id) DESC,
            row, "column"
        """,
        *parameters,
        text,
        task_id,
        task_id,
        run_id,
        run_id,
        limit,
    )
