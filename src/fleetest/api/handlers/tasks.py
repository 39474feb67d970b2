"""Tasks of a run: lists by filter, one with everything that is known, failures by likeness, the timeline."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

import msgspec

from fleetest.api import answers, describe
from fleetest.api.context import Context
from fleetest.api.failure_groups import group_failures
from fleetest.api.handlers.runs import RunRoutes, unknown_run
from fleetest.api.live_index import IndexedRun, tasks_of
from fleetest.api.paging import PAGE_MAX, Cursor, Limit, Text, first_ones, make_cursor, one_of, read_cursor, smallest
from fleetest.api.route import Call, Route
from fleetest.core.entities import Run, Task
from fleetest.core.lifecycle import TaskState
from fleetest.core.matching import describe as describe_requirements
from fleetest.core.model import RunId, TaskId, Verdict
from fleetest.storage import past_runs
from fleetest.transport.identity import Role
from fleetest.transport.problems import Problem

STATES = tuple(state.value for state in TaskState)
VERDICTS = tuple(verdict.value for verdict in Verdict)
FAILURES_READ_MAX = 5000
FAILURES_SHARED_S = 2.0
"""Most of their cost is the history's, on a thread."""
TIMELINE_MAX = 20_000
TIMELINE_STEP_S = 1.0
"""The timeline of a live run grows in such steps, so that all who follow it ask for the same parts."""
SCORES_MAX = 10
FAILING = tuple(
    verdict for verdict in Verdict if not verdict.is_success and verdict not in (Verdict.CANCELLED, Verdict.NOT_RUN)
)
Sort = Literal["position", "-position", "duration", "-duration", "task_id", "-task_id"]


class TasksQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    state: Annotated[str, msgspec.Meta(max_length=200, description=f"Of {', '.join(STATES)}; several with commas.")] = (
        ""
    )
    verdict: Annotated[
        str, msgspec.Meta(max_length=200, description=f"Of {', '.join(VERDICTS)}; several with commas.")
    ] = ""
    worker: Annotated[str, msgspec.Meta(max_length=200)] = ""
    suite: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    text: Text = ""
    sort: Sort = "position"
    limit: Limit = 100
    cursor: Cursor = ""


class FailuresQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)] = 100


class TimelineQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    after: Cursor = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=TIMELINE_MAX)] = TIMELINE_MAX


class TaskRoutes:
    def __init__(self, context: Context, runs: RunRoutes) -> None:
        self._context = context
        self._runs = runs

    def routes(self) -> Sequence[Route]:
        return [
            Route("GET", "/api/v1/runs/{run}/tasks", Role.VIEW, "Tasks of a run, by filter and in order.", self.browse,
                  answers.Page[answers.TaskRow], query=TasksQuery, shared_s=0.0, tag="tasks",
                  problems=(404, 503)),
            Route("GET", "/api/v1/runs/{run}/tasks/{task...}", Role.VIEW, "One task with all its attempts.", self.show,
                  answers.TaskDetail, tag="tasks", problems=(404, 503)),
            Route("GET", "/api/v1/runs/{run}/failures", Role.VIEW, "Failures, grouped by likeness of their tracebacks.",
                  self.failures, answers.Page[answers.FailureGroup], query=FailuresQuery,
                  shared_s=FAILURES_SHARED_S, tag="tasks", problems=(404, 503)),
            Route("GET", "/api/v1/runs/{run}/timeline", Role.VIEW, "Every attempt as a bar on its slot.", self.timeline,
                  answers.Timeline, query=TimelineQuery, shared_s=0.0, tag="tasks", problems=(404, 503)),
        ]  # fmt: skip

    async def browse(self, call: Call) -> answers.Page[answers.TaskRow]:
        query: TasksQuery = call.query
        run_id = RunId(call.path["run"])
        states = one_of(query.state, STATES, "state")
        verdicts = [Verdict(word) for word in one_of(query.verdict, VERDICTS, "verdict")]
        found = self._context.index.get(run_id)
        if found is not None:
            return await self._live_page(*found, query, states, verdicts)
        return await self._past_page(run_id, query, states, verdicts)

    async def _live_page(
        self, run: Run, indexed: IndexedRun, query: TasksQuery, states: list[str], verdicts: list[Verdict]
    ) -> answers.Page[answers.TaskRow]:
        after: tuple[Any, int] | None = read_cursor(query.cursor, _cursor_kind(query.sort))
        candidates = _candidates(run, indexed, states, verdicts)
        if query.sort.endswith("position") and not verdicts and len(candidates) == len(run.tasks):
            # In the order of the plan the place is the index.
            candidates = _from_place(candidates, after[1] if after is not None else None, query.sort)
            is_in_order = True
        else:
            is_in_order = False
        sign = -1 if query.sort.startswith("-") else 1
        key = _live_key(query.sort.lstrip("-"), indexed)
        wanted = _live_filter(query, states, verdicts, indexed)
        if is_in_order:
            page = await first_ones(candidates, query.limit + 1, wanted=wanted)
        elif query.sort in {"position", "duration", "-duration", "-position"}:
            signed: Callable[[Task], tuple[Any, int]] = lambda task: (sign * key(task), task.position)  # noqa: E731
            start = (sign * after[0], after[1]) if after is not None else None
            page = await smallest(candidates, query.limit + 1, wanted=wanted, key=signed, after=start)
        else:
            page = await _by_text(candidates, query.limit + 1, wanted, after, descending=sign < 0)
        now = self._context.wall()
        items = [describe.live_task(task, indexed, self._context.index, now) for task in page[: query.limit]]
        cursor = None
        if len(page) > query.limit:
            last = page[query.limit - 1]
            cursor = make_cursor(key(last), last.position)
        is_all = not (states or verdicts or query.worker or query.text or query.suite is not None)
        return answers.Page(items=items, next_cursor=cursor, total=len(run.tasks) if is_all else None)

    async def _past_page(
        self, run_id: RunId, query: TasksQuery, states: list[str], verdicts: list[Verdict]
    ) -> answers.Page[answers.TaskRow]:
        after: tuple[Any, int] | None = read_cursor(query.cursor, _cursor_kind(query.sort))
        # Of a run that is over nothing waits: what has no verdict never will have one.
        names = [verdict.value for verdict in verdicts]
        is_unfinished = bool(states) and TaskState.FINISHED.value not in states
        if states and TaskState.FINISHED.value in states and not names:
            names = list(VERDICTS)
        wanted = past_runs.TaskFilter(names, is_unfinished, query.worker, query.suite, query.text)

        def ask(queries: Any) -> list[dict[str, Any]] | None:
            rows = past_runs.tasks_page(queries, run_id, wanted, sort=query.sort, after=after, limit=query.limit + 1)
            return rows if rows or past_runs.run_row(queries, run_id) is not None else None

        rows = await self._context.past.ask(ask, is_fresh=after is None)
        if rows is None:
            raise unknown_run(run_id)
        items = [describe.past_task(row, int(row["position"])) for row in rows[: query.limit]]
        cursor = None
        if len(rows) > query.limit:
            last = rows[query.limit - 1]
            cursor = make_cursor(last["key"], last["position"])
        return answers.Page(items=items, next_cursor=cursor)

    async def show(self, call: Call) -> answers.TaskDetail:
        run_id, task_id = RunId(call.path["run"]), TaskId(call.path["task"])
        submission = await self._runs.submission_of(run_id)
        found = self._context.index.get(run_id)
        if found is None:
            return await self._past_task(run_id, task_id, submission)
        run, indexed = found
        task = run.tasks.get(task_id)
        if task is None:
            raise _unknown_task(run_id, task_id)
        attempts = describe.live_attempts(indexed, task_id)
        if self._context.past.exists and not self._context.past.trouble and attempts:
            rows = await self._context.past.ask(
                lambda queries: past_runs.attempts_of(queries, run_id, task_id), is_fresh=True
            )
            # A history that has not caught up tells less than we know.
            attempts = [describe.attempt(row) for row in rows] if len(rows) >= len(attempts) else attempts
        state = self._context.fleet.state
        row = describe.live_task(task, indexed, self._context.index, self._context.wall())
        return _detail(
            row,
            run_id=run_id,
            why=state.why(run_id, task_id),
            requirements=describe_requirements(task.requirements),
            timeout_s=task.spec.timeout_s,
            retries=task.spec.retries,
            priority=task.priority,
            depends_on=list(task.spec.depends_on),
            story=describe.story(state.story(run_id, task_id), self._context.index),
            scores=self._scores(task) if task.state is TaskState.QUEUED else [],
            attempt_list=attempts,
            reproduce=describe.reproduce(submission, task.suite.name, task_id),
        )

    def _scores(self, task: Task) -> Sequence[answers.Score]:
        """Of a balancer that tells them: the best workers for the task."""
        cluster = self._context.fleet.state.cluster
        score = getattr(cluster.balancing, "score", None)
        if score is None:
            return []
        told = ((worker.worker_id, score(worker, task)) for worker in cluster.workers.values())
        scored = heapq.nlargest(SCORES_MAX, ((s.total, worker, s) for worker, s in told if s is not None), key=_total)
        return [
            answers.Score(
                worker_id=worker,
                total=total,
                fit=parts.fit,
                free=parts.free,
                speed=parts.speed,
                reliability=parts.reliability,
                locality=parts.locality,
                preference=parts.preference,
            )
            for total, worker, parts in scored
        ]

    async def _past_task(self, run_id: RunId, task_id: TaskId, submission: Any) -> answers.TaskDetail:
        def ask(queries: Any) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
            return past_runs.task_row(queries, run_id, task_id), past_runs.attempts_of(queries, run_id, task_id)

        known, rows = await self._context.past.ask(ask, is_fresh=True)
        if known is None:
            raise _unknown_task(run_id, task_id)
        row = describe.past_task(known, int(known["position"]))
        attempts = [describe.attempt(attempt) for attempt in rows]
        final = next((attempt for attempt in attempts if attempt.is_final), None)
        row.started_at = final.started_at if final is not None else None
        verdict = row.verdict.replace("_", " ") if row.verdict else ""
        why = f"finished: {verdict}" if verdict else "its run ended before it had a verdict"
        return _detail(
            row,
            run_id=run_id,
            why=f"{why} ({row.reason})" if row.reason else why,
            requirements="",
            timeout_s=None,
            retries=0,
            priority=0,
            depends_on=[],
            story=[],
            scores=[],
            attempt_list=attempts,
            reproduce=describe.reproduce(submission, row.suite, task_id),
        )

    async def failures(self, call: Call) -> answers.Page[answers.FailureGroup]:
        run_id = RunId(call.path["run"])
        submission = await self._runs.submission_of(run_id)
        suite_of: dict[str, str] = {}
        found = self._context.index.get(run_id)

        def ask(queries: Any) -> tuple[bool, list[answers.FailureGroup]]:
            rows = past_runs.failures_of(queries, run_id, FAILURES_READ_MAX)
            is_known = bool(rows) or found is not None or past_runs.run_row(queries, run_id) is not None
            return is_known, group_failures(rows)

        if self._context.past.exists:
            is_known, groups = await self._context.past.ask(ask, is_fresh=True)
        else:
            is_known = found is not None
            groups = group_failures(_failures_without_history(found[1]) if found is not None else [])
        if not is_known:
            raise unknown_run(run_id)
        if found is not None:
            suite_of = {task_id: found[0].tasks[TaskId(task_id)].suite.name for task_id in _examples(groups, found[0])}
        for group in groups:
            suite = suite_of.get(group.example_task_id, _suite_by_prefix(submission, group.example_task_id))
            group.reproduce = describe.reproduce(submission, suite, group.example_task_id)
        return answers.Page(items=groups[: call.query.limit], total=len(groups))

    async def timeline(self, call: Call) -> answers.Timeline:
        query: TimelineQuery = call.query
        run_id = RunId(call.path["run"])
        cursor: tuple[int] | None = read_cursor(query.after, tuple[int])
        after = max(0, cursor[0]) if cursor is not None else 0
        found = self._context.index.get(run_id)
        if found is not None:
            run, indexed = found
            end = self._shown(run, indexed, call)
            bars = [
                (row.task_id, row.attempt, row.worker, row.slot or 0, row.started_at, row.duration_s, row.verdict.value)
                for row in indexed.attempts[after : min(after + query.limit, end)]
            ]
            is_complete = after + query.limit >= end
            running = _running(run, indexed, self._context.wall())
            # A verdict without an execution has a place in the list, and no bar.
            shown = [bar for bar in bars if bar[4] is not None and bar[2]]
            return _timeline(shown, indexed.facts.submitted_at, running, after + len(bars), is_complete)
        row, past_bars = await self._context.past.ask(
            lambda queries: (
                past_runs.run_row(queries, run_id),
                past_runs.attempts_after(queries, run_id, after, query.limit),
            ),
            is_fresh=True,
        )
        if row is None:
            raise unknown_run(run_id)
        origin = row["started_at"].replace(tzinfo=timezone.utc).timestamp()
        return _timeline(past_bars, origin, [], after + len(past_bars), len(past_bars) < query.limit)

    def _shown(self, run: Run, indexed: IndexedRun, call: Call) -> int:
        """How many attempts the timeline tells now."""
        now = self._context.fleet.now()
        if run.is_finished or now - indexed.shown[2] >= TIMELINE_STEP_S:
            indexed.shown = (len(indexed.attempts), self._context.index.changes, now)
        count, call.as_of, _ = indexed.shown
        return count


def _from_place(tasks: Sequence[Task], after: int | None, sort: str) -> Sequence[Task]:
    """What comes after the task at that place, in the order that was asked for."""
    if sort == "position":
        return tasks if after is None else tasks[max(0, after + 1) :]
    return tasks[::-1] if after is None else tasks[: max(0, after)][::-1]


def _total(scored: tuple[float, str, object]) -> float:
    return scored[0]


def _cursor_kind(sort: str) -> Any:
    return tuple[str, int] if sort.endswith("task_id") else tuple[float, int]


def _candidates(run: Run, indexed: IndexedRun, states: list[str], verdicts: list[Verdict]) -> Sequence[Task]:
    """As few as an index tells; what is filtered is checked again."""
    if verdicts:
        return [run.tasks[task_id] for verdict in verdicts for task_id in indexed.by_verdict.get(verdict, ())]
    if states and set(states) <= {TaskState.RUNNING.value, TaskState.LEASED.value}:
        return list(dict.fromkeys(lease.task for lease in run.leases.values()))
    return tasks_of(run)


def _live_key(name: str, indexed: IndexedRun) -> Callable[[Task], Any]:
    if name == "task_id":
        return lambda task: str(task.task_id)
    if name == "position":
        return lambda task: task.position

    def duration(task: Task) -> float:
        row = indexed.final.get(task.task_id)
        return row.duration_s if row is not None and row.duration_s is not None else -1.0

    return duration


def _live_filter(
    query: TasksQuery, states: list[str], verdicts: list[Verdict], indexed: IndexedRun
) -> Callable[[Task], bool]:
    text = query.text.lower()
    state_set, verdict_set = {TaskState(state) for state in states}, set(verdicts)

    def wanted(task: Task) -> bool:
        if state_set and task.state not in state_set:
            return False
        if verdict_set and task.verdict not in verdict_set:
            return False
        if query.suite is not None and task.suite.name != query.suite:
            return False
        if query.worker and _worker_of(task, indexed) != query.worker:
            return False
        return not text or text in task.spec.task_id.lower()

    return wanted


def _worker_of(task: Task, indexed: IndexedRun) -> str:
    row = indexed.final.get(task.task_id)
    if row is not None:
        return row.worker
    return str(task.lease.slot.worker.worker_id) if task.lease is not None else ""


async def _by_text(
    candidates: Sequence[Task],
    count: int,
    wanted: Callable[[Task], bool],
    after: tuple[str, int] | None,
    *,
    descending: bool,
) -> list[Task]:
    """Text has no negative: the last ones are found by turning every comparison round."""
    if not descending:
        return await smallest(
            candidates, count, wanted=wanted, key=lambda task: (str(task.task_id), task.position), after=after
        )
    start = (_Reversed(after[0]), after[1]) if after is not None else None
    return await smallest(
        candidates, count, wanted=wanted, key=lambda task: (_Reversed(task.task_id), task.position), after=start
    )


class _Reversed:
    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __lt__(self, other: _Reversed) -> bool:
        return other.text < self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def _detail(row: answers.TaskRow, **more: Any) -> answers.TaskDetail:
    return answers.TaskDetail(**msgspec.structs.asdict(row), **more)


def _unknown_task(run_id: str, task_id: str) -> Problem:
    return Problem(
        404, "unknown_task", f"run {run_id[:64]} has no task {task_id[:200]!r}: its tasks are listed under it"
    )


def _running(run: Run, indexed: IndexedRun, now_wall: float) -> list[answers.RunningTask]:
    return [
        answers.RunningTask(
            run_id=run.run_id,
            task_id=lease.task.task_id,
            attempt=lease.attempt,
            worker_id=lease.slot.worker.worker_id,
            slot=lease.slot.index,
            is_started=True,
            since=datetime.fromtimestamp(since, timezone.utc),
            running_s=max(0.0, now_wall - since),
        )
        for lease in run.leases.values()
        if lease.is_started
        for since in [indexed.started.get(lease.task.task_id, now_wall)]
    ]


def _timeline(
    bars: Sequence[Sequence[Any]],
    origin_s: float,
    running: list[answers.RunningTask],
    following: int,
    is_complete: bool,
) -> answers.Timeline:
    lanes: dict[str, int] = {}
    lane = [lanes.setdefault(f"{bar[2]}/{bar[3]}", len(lanes)) for bar in bars]
    numbers = {name: number for number, name in enumerate(VERDICTS)}
    return answers.Timeline(
        origin=datetime.fromtimestamp(origin_s, timezone.utc),
        lanes=list(lanes),
        verdicts=list(VERDICTS),
        task_id=[bar[0] for bar in bars],
        attempt=[bar[1] for bar in bars],
        lane=lane,
        start_s=[round(bar[4] - origin_s, 4) for bar in bars],
        duration_s=[round(bar[5] or 0.0, 4) for bar in bars],
        verdict=[numbers[bar[6]] for bar in bars],
        running=running,
        next=make_cursor(following),
        is_complete=is_complete,
    )


def _failures_without_history(indexed: IndexedRun) -> list[dict[str, Any]]:
    names = {name for verdict in FAILING for name in indexed.by_verdict.get(verdict, ())}
    rows = []
    for attempt in (indexed.final[name] for name in names):
        row: dict[str, Any] = dict.fromkeys(
            (
                "runner",
                "setup_s",
                "call_s",
                "teardown_s",
                "cpu_s",
                "peak_memory_bytes",
                "output",
                "traceback",
                "artifacts",
            )
        )
        started = datetime.fromtimestamp(attempt.started_at, timezone.utc) if attempt.started_at else None
        row |= attempt._asdict() | {"verdict": attempt.verdict.value, "run_id": indexed.run_id, "started_at": started}
        rows.append(row)
    return rows


def _examples(groups: Sequence[answers.FailureGroup], run: Run) -> list[str]:
    return [group.example_task_id for group in groups if TaskId(group.example_task_id) in run.tasks]


def _suite_by_prefix(submission: Any, task_id: str) -> str:
    """Of a run of the past: the suite whose name the id begins with."""
    names = [suite.name for suite in submission.suites] if submission is not None else []
    return max((name for name in names if name and task_id.startswith(f"{name}::")), key=len, default="")
