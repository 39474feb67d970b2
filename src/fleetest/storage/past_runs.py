"""Questions about single runs of the past, by pages. Words of people are parameters; columns come from lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleetest.storage.history_queries import FAILING, HistoryQueries

SORTS: Mapping[str, tuple[str, str]] = {
    "position": ("position", "ASC"),
    "-position": ("position", "DESC"),
    "duration": ("coalesce(duration_s, -1)", "ASC"),
    "-duration": ("coalesce(duration_s, -1)", "DESC"),
    "task_id": ("task_id", "ASC"),
    "-task_id": ("task_id", "DESC"),
}
"""What a page of tasks can be sorted by: its expression and direction."""


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Empty: no filter. ``text`` is looked for in the id, as it is."""

    verdicts: Sequence[str] = ()
    unfinished: bool = False
    worker: str = ""
    suite: str | None = None
    text: str = ""


def runs_page(
    queries: HistoryQueries, *, limit: int, before: tuple[int, str] | None, text: str, outcome: str | None
) -> list[dict[str, Any]]:
    """Newest first. ``before``: start (microseconds) and id of the last one of the page before."""
    conditions, parameters = ["true"], list[object]()
    if before is not None:
        conditions.append("(epoch_us(started_at) < ? OR (epoch_us(started_at) = ? AND run_id > ?))")
        parameters += [before[0], before[0], before[1]]
    if text:
        conditions.append("(contains(lower(title), lower(?)) OR starts_with(run_id, ?) OR owner = ?)")
        parameters += [text, text, text]
    if outcome is not None:
        conditions.append("outcome = ?")
        parameters.append(outcome)
    where = " AND ".join(conditions)
    return queries.rows(
        f"SELECT *, epoch_us(started_at) AS started_us FROM runs WHERE {where}"
        " ORDER BY started_us DESC, run_id LIMIT ?",
        *parameters,
        limit,
    )


def run_row(queries: HistoryQueries, run_id: str) -> dict[str, Any] | None:
    """Of the view ``runs``, and ``planned``: how many tasks were planned."""
    rows = queries.rows(
        "SELECT *, (SELECT count(*) FROM planned_tasks WHERE run_id = ?) AS planned FROM runs WHERE run_id = ?",
        run_id,
        run_id,
    )
    return rows[0] if rows else None


def tasks_page(
    queries: HistoryQueries,
    run_id: str,
    wanted: TaskFilter,
    *,
    sort: str,
    after: tuple[object, int] | None,
    limit: int,
) -> list[dict[str, Any]]:
    """``after``: sort key and position of the last one of the page before."""
    expression, direction = SORTS[sort]
    conditions, parameters = ["true"], list[object]()
    if wanted.verdicts or wanted.unfinished:
        conditions.append(f"(list_contains(?, verdict){' OR verdict IS NULL' if wanted.unfinished else ''})")
        parameters.append(list(wanted.verdicts))
    if wanted.worker:
        conditions.append("worker = ?")
        parameters.append(wanted.worker)
    if wanted.suite is not None:
        conditions.append("suite = ?")
        parameters.append(wanted.suite)
    if wanted.text:
        conditions.append("contains(lower(task_id), lower(?))")
        parameters.append(wanted.text)
    if after is not None:
        sign = "<" if direction == "DESC" else ">"
        conditions.append(f"(key {sign} ? OR (key = ? AND position > ?))")
        parameters += [after[0], after[0], after[1]]
    where = " AND ".join(conditions)
    return queries.rows(
        f"""
        WITH numbered AS (
            SELECT task_id, suite, group_name, verdict, attempts, duration_s, worker, reason,
                row_number() OVER (ORDER BY tasks.suite, tasks.position) - 1 AS position
            FROM tasks WHERE run_id = ?
        ), keyed AS (SELECT *, {expression} AS key FROM numbered)
        SELECT * FROM keyed WHERE {where} ORDER BY key {direction}, position LIMIT ?
        """,
        run_id,
        *parameters,
        limit,
    )


def task_row(queries: HistoryQueries, run_id: str, task_id: str) -> dict[str, Any] | None:
    rows = queries.rows("SELECT * FROM tasks WHERE run_id = ? AND task_id = ?", run_id, task_id)
    return rows[0] if rows else None


def attempts_of(queries: HistoryQueries, run_id: str, task_id: str) -> list[dict[str, Any]]:
    """Everything that is known of each attempt, first one first."""
    return queries.rows(
        "SELECT * FROM attempts WHERE run_id = ? AND task_id = ? ORDER BY attempt, is_final, started_at",
        run_id,
        task_id,
    )


def failures_of(queries: HistoryQueries, run_id: str, limit: int) -> list[dict[str, Any]]:
    """Failing final attempts of one run with their tracebacks, in the order in which they started."""
    return queries.rows(
        f"SELECT * FROM attempts WHERE run_id = ? AND is_final AND verdict IN {FAILING} ORDER BY started_at LIMIT ?",
        run_id,
        limit,
    )


def attempts_after(queries: HistoryQueries, run_id: str, after: int, limit: int) -> list[tuple[Any, ...]]:
    """Executed attempts in a fixed order, from number ``after`` on: for a timeline.

    (task, attempt, worker, slot, start in seconds since the epoch, duration, verdict)
    """
    return queries.ask(
        """
        SELECT task_id, attempt, worker, coalesce(slot, 0), epoch(started_at), coalesce(duration_s, 0), verdict
        FROM attempts WHERE run_id = ? AND started_at IS NOT NULL
        ORDER BY started_at, task_id, attempt LIMIT ? OFFSET ?
        """,
        run_id,
        limit,
        after,
    ).rows
