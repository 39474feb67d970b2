"""Runs: submit, list, show, cancel, run again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from fleetest.api import answers, describe
from fleetest.api.context import Context
from fleetest.api.paging import Cursor, Limit, Text, make_cursor, read_cursor
from fleetest.api.past import HISTORY_UNUSABLE
from fleetest.api.route import Call, Route
from fleetest.api.suites import CommandSuite, Suite, as_suites
from fleetest.core.model import RunId, TaskId, Verdict
from fleetest.errors import NotReady, RemoteProtocolError
from fleetest.storage import past_runs
from fleetest.transport.identity import Role
from fleetest.transport.problems import Problem
from fleetest.wire import messages as wire

SUBMISSION_BYTES_MAX = 32 * 1024 * 1024
CONVERTED_AT_ONCE_MAX = 1000
"""Commands; more are looked through on a thread."""
RUNS_MAX = 1000
"""Runs that are not finished; further ones are refused."""


class RunsQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    state: Annotated[
        Literal["all", "live", "finished"], msgspec.Meta(description="Live runs come first, then finished ones.")
    ] = "all"
    text: Text = ""
    outcome: Literal["finished", "cancelled", "abandoned", "unfinished"] | None = None
    limit: Limit = 50
    cursor: Cursor = ""


class NewRun(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to be run. It goes on by itself: nobody has to stay connected."""

    suites: Annotated[list[Suite], msgspec.Meta(min_length=1, max_length=1000)]
    title: Annotated[str, msgspec.Meta(max_length=10_000)] = ""
    owner: Annotated[
        str, msgspec.Meta(max_length=200, description="Fair share is between owners; default: the token's name.")
    ] = ""
    priority: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = 0
    weight: Annotated[float, msgspec.Meta(gt=0, le=1000, description="Its part of the fleet beside others of 1.")] = 1.0
    wait_for_workers_s: (
        Annotated[
            float,
            msgspec.Meta(ge=0, le=1e8, description="How long work that no worker can do waits; null: for ever."),
        ]
        | None
    ) = None


class Cancellation(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    reason: Annotated[str, msgspec.Meta(max_length=500)] = ""
    kill: Annotated[bool, msgspec.Meta(description="End running tests at once instead of within a grace.")] = False


class Rerun(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    only: Annotated[
        Literal["failed", "all"],
        msgspec.Meta(description="failed: what did not succeed, with the commands it depends on."),
    ] = "failed"


class RunRoutes:
    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> Sequence[Route]:
        return [
            Route("GET", "/api/v1/runs", Role.VIEW, "Runs, live ones first, then newest first.", self.browse,
                  answers.Page[answers.RunSummary], query=RunsQuery, shared_s=0.0, tag="runs", problems=(503,)),
            Route("POST", "/api/v1/runs", Role.SUBMIT, "Submit a run.", self.submit, answers.Submitted, body=NewRun,
                  status=201, body_bytes_max=SUBMISSION_BYTES_MAX, is_repeatable=True, tag="runs", problems=(422, 429)),
            Route("GET", "/api/v1/runs/{run}", Role.VIEW, "One run.", self.show, answers.RunDetail, shared_s=0.0,
                  tag="runs", problems=(404, 503)),
            Route("POST", "/api/v1/runs/{run}/cancel", Role.SUBMIT, "End a run.", self.cancel, answers.Ok,
                  body=Cancellation, is_body_optional=True, status=202, is_repeatable=True, tag="runs",
                  problems=(404, 409, 422)),
            Route("POST", "/api/v1/runs/{run}/rerun", Role.SUBMIT, "Run it again: what failed, or everything.",
                  self.rerun, answers.Submitted, body=Rerun, is_body_optional=True, status=201, is_repeatable=True,
                  tag="runs", problems=(404, 409, 422, 429, 503)),
        ]  # fmt: skip

    # Reading ---------------------------------------------------------------------------------------------------

    async def browse(self, call: Call) -> answers.Page[answers.RunSummary]:
        query: RunsQuery = call.query
        after: tuple[int, str] | None = read_cursor(query.cursor, tuple[int, str])
        items: list[answers.RunSummary] = []
        live_ids = set(self._context.fleet.state.cluster.runs)
        if after is None and query.state != "finished" and query.outcome is None:
            items = [summary for summary in self._live() if _has(summary, query.text)]
        if query.state == "live":
            return answers.Page(items=items[: query.limit], total=len(items))
        if not self._context.past.exists:
            items += [] if after is not None else [run for run in self._just_finished() if _has(run, query.text)]
            return answers.Page(items=items[: query.limit])
        try:
            rows = await self._context.past.ask(
                lambda queries: past_runs.runs_page(
                    queries,
                    # Live runs have rows too, and are passed over.
                    limit=query.limit + 1 + len(live_ids),
                    before=after,
                    text=query.text,
                    outcome=query.outcome,
                ),
                is_fresh=after is None,
            )
        except Problem as problem:
            if problem.code != HISTORY_UNUSABLE or after is not None:
                raise
            # A full disk must not hide what runs now, nor keep anybody from cancelling it.
            items += [
                run for run in self._just_finished() if _has(run, query.text) and query.outcome in (None, run.outcome)
            ]
            if not items:
                raise
            return answers.Page(items=items[: query.limit])
        finished = [row for row in rows if row["run_id"] not in live_ids]
        room = max(0, query.limit - len(items))
        page = [describe.past_run(row) for row in finished[:room]]
        cursor = None
        if len(finished) > room:
            last = finished[room - 1] if room else None
            # Without room for any, the next page begins with the newest finished one.
            cursor = make_cursor(last["started_us"], last["run_id"]) if last else make_cursor(2**62, "")
        return answers.Page(items=[*items[: query.limit], *page], next_cursor=cursor)

    async def show(self, call: Call) -> answers.RunDetail:
        run_id = RunId(call.path["run"])
        found = self._context.index.get(run_id)
        if found is not None:
            run, indexed = found
            summary = describe.live_run(run, indexed, self._context.wall(), self._context.remaining_s(run))
            kinds = {suite.name: suite for suite in indexed.facts.submission.suites}
            suites = [
                answers.SuiteState(
                    name=name,
                    kind="pytest" if isinstance(kinds.get(name), wire.PytestSuite) else "commands",
                    state="planned" if suite.is_planned else "refused" if suite.is_refused else "collecting",
                )
                for name, suite in run.suites.items()
            ]
            return _detail(summary, suites, list(indexed.facts.notices), can_rerun=True)
        row = await self._context.past.ask(lambda queries: past_runs.run_row(queries, run_id), is_fresh=True)
        if row is None:
            raise unknown_run(run_id)
        submission = await self.submission_of(run_id)
        suites = [
            answers.SuiteState(
                name=suite.name,
                kind="pytest" if isinstance(suite, wire.PytestSuite) else "commands",
                state="planned",
            )
            for suite in (submission.suites if submission is not None else ())
        ]
        summary = describe.past_run(row)
        # What was said while it was live is not recorded; why it failed without a failure must not stay open.
        is_empty = not summary.tasks and summary.outcome == "finished"
        notices = ["no test was run: none was collected, or the collection failed"] if is_empty else []
        return _detail(summary, suites, notices, can_rerun=submission is not None)

    async def submission_of(self, run_id: RunId) -> wire.SubmitRun | None:
        indexed = self._context.index.runs.get(run_id)
        if indexed is not None:
            return indexed.facts.submission
        store = self._context.submissions
        return await asyncio.to_thread(store.load, run_id) if store is not None else None

    def _live(self) -> list[answers.RunSummary]:
        context = self._context
        now = context.wall()
        found = [
            describe.live_run(run, context.index.runs[run_id], now, context.remaining_s(run))
            for run_id, run in context.fleet.state.cluster.runs.items()
            if run_id in context.index.runs
        ]
        return found[::-1]

    def _just_finished(self) -> list[answers.RunSummary]:
        context = self._context
        return [
            describe.live_run(run, context.index.runs[run_id], context.wall(), None)
            for run_id, run in reversed(context.fleet.state.cluster.finished_runs.items())
            if run_id in context.index.runs
        ]

    # Changing --------------------------------------------------------------------------------------------------

    async def submit(self, call: Call) -> answers.Submitted:
        body: NewRun = call.body
        size = sum(len(suite.commands) for suite in body.suites if isinstance(suite, CommandSuite))
        is_large = size > CONVERTED_AT_ONCE_MAX
        submission = wire.SubmitRun(
            run_id=RunId(uuid.uuid4().hex),
            suites=await asyncio.to_thread(as_suites, body.suites) if is_large else as_suites(body.suites),
            owner=body.owner or call.identity.name,
            priority=body.priority,
            weight=body.weight,
            wait_for_workers_s=body.wait_for_workers_s,
            title=body.title or "through the API",
        )
        return self._submit(submission, call)

    async def cancel(self, call: Call) -> answers.Ok:
        body: Cancellation = call.body
        run_id = RunId(call.path["run"])
        facts = self._context.fleet.run_facts.get(run_id)
        if facts is None:
            await self._must_be_known(run_id)
            raise Problem(409, "run_is_over", "this run has ended already")
        identity = call.identity
        if not identity.may(Role.ADMIN) and facts.submitter != identity.token_id:
            raise Problem(403, "not_your_run", "only an admin, or the token that submitted it, may cancel this run")
        reason = body.reason or f"cancelled by {identity.name}"
        self._context.fleet.cancel(run_id, reason, kill=body.kill)
        return answers.Ok()

    async def rerun(self, call: Call) -> answers.Submitted:
        body: Rerun = call.body
        run_id = RunId(call.path["run"])
        submission = await self.submission_of(run_id)
        if submission is None:
            await self._must_be_known(run_id)
            raise Problem(409, "submission_not_kept", "what was submitted then is not kept: submit it again yourself")
        only: tuple[TaskId, ...] = ()
        if body.only == "failed":
            only = with_prerequisites(submission, await self._failed(run_id))
            if not only:
                raise Problem(409, "nothing_failed", "nothing in this run failed, so there is nothing to run again")
        again = msgspec.structs.replace(
            submission,
            run_id=RunId(uuid.uuid4().hex),
            suites=with_own_artifacts(submission, run_id),
            owner=submission.owner or call.identity.name,
            title=submission.title if submission.title.endswith(" (again)") else f"{submission.title} (again)",
            only=only or submission.only,
        )
        return self._submit(again, call)

    def _submit(self, submission: wire.SubmitRun, call: Call) -> answers.Submitted:
        context = self._context
        if context.is_draining:
            raise Problem(503, "draining", "this coordinator is about to stop and takes no new runs")
        if len(context.fleet.run_facts) >= RUNS_MAX:
            raise Problem(429, "too_many_runs", f"{RUNS_MAX} runs are under way: wait until one ends")
        try:
            context.fleet.submit(submission, submitter=call.identity.token_id)
        except RemoteProtocolError as error:
            raise Problem(422, "bad_submission", f"this cannot be run: {error}") from error
        except NotReady as error:
            raise Problem(503, "not_ready", str(error), {"Retry-After": "60"}) from error
        return answers.Submitted(run_id=submission.run_id, url=describe.run_url(submission.run_id))

    async def _failed(self, run_id: RunId) -> list[TaskId]:
        """Tasks whose verdict is no success, or that have none."""
        found = self._context.index.get(run_id)
        if found is not None:
            run, _ = found
            if not run.is_finished:
                raise Problem(409, "run_not_over", "this run has not ended yet: cancel it, or wait")
            return [task_id for task_id, task in run.tasks.items() if task.verdict and not task.verdict.is_success]
        wanted = past_runs.TaskFilter(
            verdicts=[verdict.value for verdict in Verdict if not verdict.is_success], unfinished=True
        )
        rows = await self._context.past.ask(
            lambda queries: past_runs.tasks_page(
                queries,
                run_id,
                wanted,
                sort="position",
                after=None,
                limit=self._context.fleet.state.cluster.limits.tasks_per_run,
            ),
            is_fresh=True,
        )
        return [TaskId(row["task_id"]) for row in rows]

    async def _must_be_known(self, run_id: RunId) -> None:
        """Raises Problem 404."""
        if self._context.index.get(run_id) is None and (
            not self._context.past.exists
            or await self._context.past.ask(lambda queries: past_runs.run_row(queries, run_id), is_fresh=True) is None
        ):
            raise unknown_run(run_id)


def unknown_run(run_id: str) -> Problem:
    return Problem(404, "unknown_run", f"there is no run {run_id[:64]!r}: /api/v1/runs lists them")


def with_prerequisites(submission: wire.SubmitRun, failed: Sequence[TaskId]) -> tuple[TaskId, ...]:
    """These and the commands that they depend on: a prerequisite that is not run is never taken as done."""
    depends_on = {
        task.task_id: task.depends_on
        for suite in submission.suites
        if isinstance(suite, wire.CommandSuite)
        for task in suite.tasks
    }
    wanted: dict[TaskId, None] = {}
    waiting = list(reversed(failed))
    while waiting:
        task_id = waiting.pop()
        if task_id not in wanted:
            wanted[task_id] = None
            waiting += depends_on.get(task_id, ())
    return tuple(wanted)


def with_own_artifacts(submission: wire.SubmitRun, run_id: RunId) -> tuple[wire.Suite, ...]:
    """A run never writes into the artifact directory of another one."""
    return tuple(
        msgspec.structs.replace(suite, artifact_directory=f"{suite.artifact_directory}-again-{uuid.uuid4().hex[:8]}")
        if isinstance(suite, wire.CommandSuite) and suite.artifact_directory
        else suite
        for suite in submission.suites
    )


def _has(run: answers.RunSummary, text: str) -> bool:
    return not text or text.lower() in run.title.lower() or run.run_id.startswith(text) or run.owner == text


def _detail(
    summary: answers.RunSummary, suites: list[answers.SuiteState], notices: list[str], *, can_rerun: bool
) -> answers.RunDetail:
    return answers.RunDetail(**msgspec.structs.asdict(summary), suites=suites, notices=notices, can_rerun=can_rerun)
