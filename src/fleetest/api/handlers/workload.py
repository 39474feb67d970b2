"""What a simulation of a run plays: its tests, how long each took, and what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fleetest.api import answers
from fleetest.api.context import Context
from fleetest.api.handlers.runs import unknown_run
from fleetest.api.live_index import IndexedRun, tasks_of
from fleetest.api.paging import Cursor, Limit, make_cursor, read_cursor
from fleetest.api.route import Call, Route
from fleetest.core.entities import Task
from fleetest.core.model import AnyOf, Condition, Requirements, RunId
from fleetest.storage import past_runs
from fleetest.transport.identity import Role


class WorkloadQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    limit: Limit = 1000
    cursor: Cursor = ""


class WorkloadRoutes:
    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> Sequence[Route]:
        return [
            Route("GET", "/api/v1/runs/{run}/workload", Role.VIEW,
                  "What a simulation of the run plays: its tests, how long they took, what they need.", self.browse,
                  answers.Page[answers.WorkloadTest], query=WorkloadQuery, tag="tasks", problems=(404, 503)),
        ]  # fmt: skip

    async def browse(self, call: Call) -> answers.Page[answers.WorkloadTest]:
        query: WorkloadQuery = call.query
        run_id = RunId(call.path["run"])
        cursor: tuple[int] | None = read_cursor(query.cursor, tuple[int])
        after = max(-1, cursor[0]) if cursor is not None else -1
        found = self._context.index.get(run_id)
        if found is not None:
            run, indexed = found
            tasks = tasks_of(run)[after + 1 : after + 1 + query.limit + 1]
            items = [_live_test(task, indexed) for task in tasks]
        else:
            items = await self._past_tests(run_id, after, query.limit + 1)
        is_last = len(items) <= query.limit
        next_cursor = None if is_last else make_cursor(after + query.limit)
        return answers.Page(items=items[: query.limit], next_cursor=next_cursor)

    async def _past_tests(self, run_id: RunId, after: int, limit: int) -> list[answers.WorkloadTest]:
        def ask(queries: Any) -> tuple[list[dict[str, Any]], dict[str, float]] | None:
            start = (after, after) if after >= 0 else None
            rows = past_runs.tasks_page(
                queries, run_id, past_runs.TaskFilter(), sort="position", after=start, limit=limit
            )
            if not rows and past_runs.run_row(queries, run_id) is None:
                return None
            return rows, queries.expected_durations([row["task_id"] for row in rows])

        found = await self._context.past.ask(ask, is_fresh=after < 0)
        if found is None:
            raise unknown_run(run_id)
        rows, medians_s = found
        return [
            answers.WorkloadTest(
                task_id=row["task_id"],
                suite=row["suite"] or "",
                group=row["group_name"] or "",
                keep_together=False,
                priority=0,
                duration_s=row["duration_s"],
                expected_s=medians_s.get(row["task_id"]),
                worker=row["worker"],
                needs=None,
            )
            for row in rows
        ]


def _live_test(task: Task, indexed: IndexedRun) -> answers.WorkloadTest:
    row = indexed.final.get(task.task_id)
    return answers.WorkloadTest(
        task_id=task.task_id,
        suite=task.suite.name,
        group=task.group.name,
        keep_together=task.spec.keep_together,
        priority=task.priority,
        duration_s=row.duration_s if row is not None else None,
        expected_s=task.spec.expected_s,
        worker=(row.worker or None) if row is not None else None,
        needs=_needs(task.requirements),
    )


def _needs(requirements: Requirements) -> answers.Needs:
    return answers.Needs(
        resources=dict(requirements.resources),
        requires=list(map(_condition, requirements.constraints)),
        prefers=list(map(_condition, requirements.prefers)),
        locks=list(requirements.locks),
        alone=requirements.alone,
        workers=requirements.workers,
    )


def _condition(condition: Condition) -> list[answers.NeedCondition]:
    alternatives = condition.alternatives if isinstance(condition, AnyOf) else (condition,)
    return [
        answers.NeedCondition(name=each.name, operator=each.operator.value, value=each.value) for each in alternatives
    ]
