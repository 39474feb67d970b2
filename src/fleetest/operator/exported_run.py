"""One finished (or running) run as it is exported, from the API or straight from a history file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fleetest.core.model import Verdict
from fleetest.operator.api_client import ApiClient

if TYPE_CHECKING:
    from fleetest.storage.history_queries import Answer, HistoryQueries

_DETAILED = frozenset(verdict.value for verdict in Verdict) - {Verdict.PASSED.value}
"""What failed comes with its attempts; what passed only with its line."""
FAILURES = frozenset({"failed"})
SKIPS = frozenset({"skipped", "xfailed", "not_run", "cancelled"})
SUCCESSES = frozenset(verdict.value for verdict in Verdict if verdict.is_success)


@dataclass(frozen=True, slots=True)
class ExportedAttempt:
    attempt: int
    verdict: str
    worker: str
    duration_s: float | None
    reason: str
    traceback: str
    output: str


@dataclass(frozen=True, slots=True)
class ExportedTask:
    """``verdict`` is empty if it has none (yet). ``attempts`` are told of tasks that did not simply pass."""

    task_id: str
    suite: str
    verdict: str
    attempt_count: int
    duration_s: float | None
    worker: str
    started_at: str
    """ISO 8601 in UTC; empty if unknown."""
    reason: str
    attempts: tuple[ExportedAttempt, ...] = ()

    @property
    def node_id(self) -> str:
        """The id without the name of its suite."""
        return self.task_id.removeprefix(f"{self.suite}::") if self.suite else self.task_id


@dataclass(frozen=True, slots=True)
class ExportedRun:
    run_id: str
    title: str
    owner: str
    outcome: str
    started_at: str
    duration_s: float | None
    tasks: tuple[ExportedTask, ...] = field(default=())

    @property
    def counts(self) -> dict[str, int]:
        """By verdict, in the order of ``Verdict``; ``unfinished`` last."""
        found: dict[str, int] = {}
        for name in [verdict.value for verdict in Verdict]:
            number = sum(task.verdict == name for task in self.tasks)
            if number:
                found[name] = number
        unfinished = sum(not task.verdict for task in self.tasks)
        return found | ({"unfinished": unfinished} if unfinished else {})


def from_api(client: ApiClient, run_id: str) -> ExportedRun:
    run = client.get("runs", run_id)
    return ExportedRun(
        run_id,
        run["title"],
        run["owner"],
        run["outcome"] or run["state"],
        run["submitted_at"] or "",
        run["duration_s"],
        tuple(_tasks_of(client, run_id)),
    )


def _tasks_of(client: ApiClient, run_id: str) -> Iterator[ExportedTask]:
    for row in client.pages("runs", run_id, "tasks"):
        attempts: tuple[ExportedAttempt, ...] = ()
        if row["verdict"] in _DETAILED or row["attempts"] > 1:
            detail = client.get("runs", run_id, "tasks", row["task_id"])
            attempts = tuple(
                ExportedAttempt(
                    each["attempt"],
                    each["verdict"],
                    each["worker"] or "",
                    each["duration_s"],
                    each["reason"],
                    each["traceback"],
                    each["output"],
                )
                for each in detail["attempt_list"]
            )
        yield ExportedTask(
            row["task_id"],
            row["suite"],
            row["verdict"] or "",
            row["attempts"],
            row["duration_s"],
            row["worker"] or "",
            row["started_at"] or "",
            row["reason"] or (attempts[-1].reason if attempts else ""),
            attempts,
        )


def from_history(queries: HistoryQueries, run_id: str) -> ExportedRun:
    run = _first(queries.run(run_id))
    attempts: dict[str, list[ExportedAttempt]] = {}
    for row in _rows(queries.attempts(run_id)):
        attempts.setdefault(row["task_id"], []).append(
            ExportedAttempt(
                row["attempt"],
                row["verdict"],
                row["worker"] or "",
                row["duration_s"],
                row["reason"] or "",
                row["traceback"] or "",
                row["output"] or "",
            )
        )
    tasks = []
    for row in sorted(_rows(queries.tasks(run_id)), key=lambda row: (row["suite"] or "", row["position"] or 0)):
        told = attempts.get(row["task_id"], [])
        is_told = row["verdict"] in _DETAILED or len(told) > 1
        tasks.append(
            ExportedTask(
                row["task_id"],
                row["suite"] or "",
                row["verdict"] or "",
                row["attempts"] or len(told),
                row["duration_s"],
                row["worker"] or "",
                "",
                row["reason"] or (told[-1].reason if is_told and told else ""),
                tuple(told) if is_told else (),
            )
        )
    started = run["started_at"]
    return ExportedRun(
        run_id,
        run["title"] or "",
        run.get("owner") or "",
        run["outcome"] or "unfinished",
        f"{started.isoformat()}Z" if started is not None else "",
        run["duration_s"],
        tuple(tasks),
    )


def _rows(answer: Answer) -> Iterator[dict[str, Any]]:
    return (dict(zip(answer.columns, row, strict=True)) for row in answer.rows)


def _first(answer: Answer) -> dict[str, Any]:
    return next(_rows(answer))
