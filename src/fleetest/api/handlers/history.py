"""The past: tests over time, the slowest and the flakiest, failures by likeness, tests by machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from fleetest.api import answers, describe
from fleetest.api.answers import as_utc
from fleetest.api.context import Context
from fleetest.api.failure_groups import group_failures
from fleetest.api.paging import Cursor, Limit, Text, make_cursor, read_cursor
from fleetest.api.route import Call, Route
from fleetest.storage import past_tests
from fleetest.transport.identity import Role
from fleetest.transport.problems import Problem

FAILURES_READ_MAX = 2000
By = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z][a-z0-9_.-]{0,100}$", description="worker, or a capability such as os, python, gpu.model."
    ),
]


class TestsQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    text: Text = ""
    limit: Limit = 100
    cursor: Cursor = ""


class TestQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000, description="Attempts at most, the last ones.")] = 200


class RankingQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    text: Text = ""
    limit: Limit = 50


class FailuresQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    text: Text = ""
    days: Annotated[float, msgspec.Meta(gt=0, le=3650, description="Counted back from the last attempt.")] = 30.0
    limit: Limit = 50


class MatrixQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    by: By = past_tests.BY_WORKER
    text: Text = ""
    run: Annotated[str, msgspec.Meta(max_length=64)] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=500, description="Tests at most, those with most failures.")] = 100


class HistoryRoutes:
    def __init__(self, context: Context) -> None:
        self._past = context.past

    def routes(self) -> Sequence[Route]:
        def get(
            path: str, summary: str, handler: Any, answer: Any, query: Any, problems: tuple[int, ...] = ()
        ) -> Route:
            return Route("GET", f"/api/v1/history/{path}", Role.VIEW, summary, handler, answer, query=query,
                         tag="history", problems=(503, *problems))  # fmt: skip

        return [
            get("tests", "Tests that were ever run, by id.", self.tests, answers.Page[answers.TestName], TestsQuery),
            get("tests/{test...}", "One test over time.", self.test, answers.TestHistory, TestQuery, (404,)),
            get("slowest", "Tests by the median of their durations.", self.slowest, answers.Page[answers.SlowTest],
                RankingQuery),
            get("flakiest", "Tests that both passed and failed.", self.flakiest, answers.Page[answers.FlakyTest],
                RankingQuery),
            get("failures", "Failures of all runs, grouped by likeness.", self.failures,
                answers.Page[answers.FailureGroup], FailuresQuery),
            get("matrix", "Tests by machine or by a capability of machines.", self.matrix, answers.Matrix, MatrixQuery),
        ]  # fmt: skip

    async def tests(self, call: Call) -> answers.Page[answers.TestName]:
        query: TestsQuery = call.query
        after: tuple[str] | None = read_cursor(query.cursor, tuple[str])
        rows = await self._past.ask(
            lambda queries: past_tests.test_names(
                queries, text=query.text, limit=query.limit + 1, after=after[0] if after is not None else ""
            )
        )
        items = [
            answers.TestName(
                task_id=row["task_id"],
                attempts=row["attempts"],
                failed=row["failed"],
                last_run_at=as_utc(row["last_run_at"]),
                last_verdict=row["last_verdict"],
            )
            for row in rows[: query.limit]
        ]
        return answers.Page(
            items=items, next_cursor=make_cursor(items[-1].task_id) if len(rows) > query.limit else None
        )

    async def test(self, call: Call) -> answers.TestHistory:
        test = call.path["test"]

        def ask(queries: Any) -> Any:
            summary = past_tests.test_summary(queries, test)
            if summary is None:
                return None
            cells = past_tests.matrix(queries, by=past_tests.BY_WORKER, text="", task_id=test, run_id="", limit=1)
            return summary, past_tests.test_attempts(queries, test, call.query.limit), cells

        found = await self._past.ask(ask, is_fresh=True)
        if found is None:
            raise Problem(404, "unknown_test", f"no test {test[:200]!r} was ever run: /api/v1/history/tests lists them")
        summary, attempts, cells = found
        return answers.TestHistory(
            task_id=test,
            **summary,
            by_worker=[answers.MatrixCell(**cell) for cell in cells],
            recent=[
                answers.TestAttempt(
                    run_id=row["run_id"],
                    attempt=row["attempt"],
                    verdict=row["verdict"],
                    worker=row["worker"],
                    started_at=as_utc(row["started_at"]),
                    duration_s=row["duration_s"],
                    reason=row["reason"] or "",
                )
                for row in attempts
            ],
        )

    async def slowest(self, call: Call) -> answers.Page[answers.SlowTest]:
        query: RankingQuery = call.query
        rows = await self._past.ask(lambda queries: past_tests.slowest(queries, text=query.text, limit=query.limit))
        return answers.Page(items=[answers.SlowTest(**row) for row in rows])

    async def flakiest(self, call: Call) -> answers.Page[answers.FlakyTest]:
        query: RankingQuery = call.query
        rows = await self._past.ask(lambda queries: past_tests.flakiest(queries, text=query.text, limit=query.limit))
        items = [
            answers.FlakyTest(**{**row, "last_failed_at": as_utc(row["last_failed_at"])})  # a naive time in the row
            for row in rows
        ]
        return answers.Page(items=items)

    async def failures(self, call: Call) -> answers.Page[answers.FailureGroup]:
        query: FailuresQuery = call.query
        groups = await self._past.ask(
            lambda queries: group_failures(
                past_tests.recent_failures(queries, days=query.days, text=query.text, limit=FAILURES_READ_MAX)
            )
        )
        for group in groups:
            group.reproduce = describe.reproduce(None, "", group.example_task_id)
        return answers.Page(items=groups[: query.limit], total=len(groups))

    async def matrix(self, call: Call) -> answers.Matrix:
        query: MatrixQuery = call.query
        rows = await self._past.ask(
            lambda queries: past_tests.matrix(
                queries, by=query.by, text=query.text, task_id="", run_id=query.run, limit=query.limit
            )
        )
        cells = [answers.MatrixCell(**row) for row in rows]
        return answers.Matrix(
            by=query.by,
            rows=list(dict.fromkeys(cell.row for cell in cells)),
            columns=sorted({cell.column for cell in cells}),
            cells=cells,
        )
