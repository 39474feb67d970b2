"""Workers: list, show, and what an operator does with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec

from fleetest.api import answers, describe
from fleetest.api.answers import utc
from fleetest.api.context import Context
from fleetest.api.paging import Cursor, Limit, Text, make_cursor, one_of, read_cursor
from fleetest.api.route import Call, Route
from fleetest.api.series import FleetSeries, told_facts
from fleetest.api.worker_states import WorkerStates
from fleetest.core import events
from fleetest.core.entities import Worker
from fleetest.core.lifecycle import WorkerState
from fleetest.core.model import Trust, WorkerId
from fleetest.transport.identity import Role
from fleetest.transport.problems import Problem

SUMMARISED_AT_ONCE = 100
STATES = tuple(state.value for state in WorkerState if not state.is_gone)


class WorkersQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    state: Annotated[str, msgspec.Meta(max_length=200, description=f"Of {', '.join(STATES)}; several with commas.")] = (
        ""
    )
    text: Text = ""
    limit: Limit = 1000
    cursor: Cursor = ""


class Quarantine(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    reason: Annotated[str, msgspec.Meta(max_length=500)] = ""


class WorkerRoutes:
    def __init__(self, context: Context, series: FleetSeries, states: WorkerStates) -> None:
        self._context = context
        self._series = series
        self._states = states

    def routes(self) -> Sequence[Route]:
        def action(name: str, summary: str, handler: Any, body: Any = None, *problems: int) -> Route:
            return Route("POST", f"/api/v1/workers/{{worker}}/{name}", Role.ADMIN, summary, handler, answers.Ok,
                         body=body, is_body_optional=True, status=202, is_repeatable=True, tag="workers",
                         problems=(404, 422, 503, *problems))  # fmt: skip

        return [
            Route("GET", "/api/v1/workers", Role.VIEW, "Every worker that is there.", self.browse,
                  answers.Page[answers.WorkerSummary], query=WorkersQuery, shared_s=0.0, tag="workers"),
            Route("GET", "/api/v1/workers/{worker}", Role.VIEW, "One worker.", self.show, answers.WorkerDetail,
                  shared_s=0.0, tag="workers", problems=(404,)),
            Route("GET", "/api/v1/workers/{worker}/series", Role.VIEW, "Its load and memory over the last half hour.",
                  self.series, answers.Series, shared_s=0.0, tag="workers", problems=(404,)),
            Route("GET", "/api/v1/workers/{worker}/states", Role.VIEW,
                  "Its states since the coordinator started, also of a worker that is gone.",
                  self.states, answers.StateHistory, tag="workers", problems=(404,)),
            Route("GET", "/api/v1/lost-workers", Role.VIEW,
                  "Workers that were lost and did not come back, the latest first.", self.lost,
                  answers.Page[answers.LostWorker], shared_s=0.0, tag="workers"),
            action("drain", "It finishes what it runs and gets nothing new.", self.drain),
            action("resume", "It takes work again after a drain.", self.resume),
            action("quarantine", "It gets no more work until it is released.", self.quarantine, Quarantine),
            action("release", "It is trusted again after a quarantine.", self.release, None, 409),
        ]  # fmt: skip

    async def browse(self, call: Call) -> answers.Page[answers.WorkerSummary]:
        query: WorkersQuery = call.query
        states = one_of(query.state, STATES, "state")
        after: tuple[int] | None = read_cursor(query.cursor, tuple[int])
        text = query.text.lower()
        found = [
            worker
            for worker in self._context.fleet.state.cluster.workers.values()
            if (not states or worker.state.value in states)
            and (not text or text in worker.worker_id.lower() or text in self._host(worker).lower())
            and (after is None or worker.order > after[0])
        ]
        page = found[: query.limit]
        cursor = make_cursor(page[-1].order) if len(found) > len(page) else None
        items: list[answers.WorkerSummary] = []
        for start in range(0, len(page), SUMMARISED_AT_ONCE):
            items += [self._summary(worker) for worker in page[start : start + SUMMARISED_AT_ONCE]]
            await asyncio.sleep(0)
        return answers.Page(items=items, next_cursor=cursor, total=len(found) if after is None else None)

    async def show(self, call: Call) -> answers.WorkerDetail:
        worker = self._worker(call)
        summary = self._summary(worker)
        cluster = self._context.fleet.state.cluster
        prefetch_s = cluster.balancing.standing(worker, cluster.now).prefetch_s
        return answers.WorkerDetail(
            **msgspec.structs.asdict(summary),
            prefetch_s=prefetch_s,
            story=describe.story(worker.story.lines(), self._context.index),
        )

    async def series(self, call: Call) -> answers.Series:
        return self._series.of_worker(self._worker(call).worker_id)

    async def states(self, call: Call) -> answers.StateHistory:
        found = self._states.of(WorkerId(call.path["worker"]))
        if found is None:
            raise _unknown(call)
        return found

    async def lost(self, call: Call) -> answers.Page[answers.LostWorker]:
        found = self._states.lost()
        return answers.Page(items=found, next_cursor=None, total=len(found))

    async def drain(self, call: Call) -> answers.Ok:
        return await self._operate(
            call, events.WorkerDrainRequested, is_wanted=lambda worker: not worker.is_drain_requested
        )

    async def resume(self, call: Call) -> answers.Ok:
        worker_id = WorkerId(call.path["worker"])
        if worker_id in self._context.fleet.state.cluster.absent_drains.values():  # Wherever it is: it may come back.
            return await self._apply(events.WorkerResumed(worker_id))
        return await self._operate(call, events.WorkerResumed, is_wanted=lambda worker: worker.is_drain_requested)

    async def quarantine(self, call: Call) -> answers.Ok:
        reason = call.body.reason or f"no reason given by {call.identity.name}"
        return await self._operate(
            call,
            lambda worker_id: events.WorkerQuarantined(worker_id, reason),
            # What its record or its probe says ends by itself, the operator's word does not.
            is_wanted=lambda worker: worker.held_back_because != reason,
        )

    async def release(self, call: Call) -> answers.Ok:
        worker_id = WorkerId(call.path["worker"])
        if worker_id in self._context.fleet.state.cluster.held_back:  # Wherever it is: perhaps it never comes back.
            return await self._apply(events.WorkerReleased(worker_id))
        worker = self._worker(call)
        if worker.probe_failure and not _can_release(worker):
            detail = f"{worker.probe_failure}: it gets work as soon as its probe passes, nobody else holds it back"
            raise Problem(409, "held_by_probe", detail)
        return await self._operate(call, events.WorkerReleased, is_wanted=_can_release)

    async def _operate(
        self,
        call: Call,
        event: Callable[[WorkerId], events.Event],
        *,
        is_wanted: Callable[[Worker], bool],
    ) -> answers.Ok:
        """What is so already stays so: asking twice is no mistake."""
        worker = self._worker(call)
        if is_wanted(worker):
            return await self._apply(event(worker.worker_id))
        await self._context.keep()
        return answers.Ok()

    async def _apply(self, event: events.Event) -> answers.Ok:
        self._context.fleet.apply(event)
        await self._context.keep()
        return answers.Ok()

    def _worker(self, call: Call) -> Worker:
        worker = self._context.fleet.state.cluster.workers.get(WorkerId(call.path["worker"]))
        if worker is None:
            raise _unknown(call)
        return worker

    def _host(self, worker: Worker) -> str:
        facts = self._context.fleet.worker_facts.get(worker.worker_id)
        return facts.host if facts is not None else ""

    def _summary(self, worker: Worker) -> answers.WorkerSummary:
        context = self._context
        facts, told = context.fleet.worker_facts.get(worker.worker_id), told_facts(context.fleet, worker.worker_id)
        running = running_on(worker, context)
        cluster = context.fleet.state.cluster
        standing = cluster.balancing.standing(worker, cluster.now)
        last_seen = utc(context.index.to_wall(worker.last_seen))
        assert last_seen is not None
        return answers.WorkerSummary(
            worker_id=worker.worker_id,
            state=worker.state.value,
            reason=worker.quarantined_because if worker.state is WorkerState.QUARANTINED else "",
            can_release=_can_release(worker),
            host=facts.host if facts is not None else "",
            address=facts.address if facts is not None else "",
            slots=len(worker.slots),
            slots_used=len(running),
            waiting=worker.lease_count - len(running),
            waiting_s=sum(slot.queued_s for slot in worker.slots),
            running=running,
            attributes={name: list(values) for name, values in worker.capabilities.attributes.items()},
            resources=dict(worker.capabilities.resources),
            free=dict(worker.free),
            load_average=told.load_average if told is not None else None,
            memory_available_bytes=told.memory_available_bytes if told is not None else None,
            joined_at=utc(facts.joined_at) if facts is not None else None,
            last_seen_at=last_seen,
            alerts=list(cluster.alerts.causes(worker.worker_id)),
            speed=standing.speed,
            reliability=standing.reliability,
            load_s=standing.load_s,
        )


def _can_release(worker: Worker) -> bool:
    return bool(worker.held_back_because) or worker.trust is not Trust.FULL


def _unknown(call: Call) -> Problem:
    detail = f"no worker {call.path['worker'][:200]!r} is here: /api/v1/workers lists them"
    return Problem(404, "unknown_worker", detail)


def running_on(worker: Worker, context: Context) -> list[answers.RunningTask]:
    """The first lease of each slot."""
    found = []
    now = context.fleet.now()
    for slot in worker.slots:
        head = slot.head()
        if head is None:
            continue
        since = utc(context.index.to_wall(slot.head_since))
        assert since is not None
        found.append(
            answers.RunningTask(
                run_id=head.task.run.run_id,
                task_id=head.task.task_id,
                attempt=head.attempt,
                worker_id=slot.worker.worker_id,
                slot=slot.index,
                is_started=head.is_started,
                since=since,
                running_s=max(0.0, now - slot.head_since) if head.is_started else 0.0,
            )
        )
    return found
