"""The coordinator itself: is it alive, ready, which version, how is the fleet; and who am I."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Annotated

import msgspec
from aiohttp import web

from fleetest import __version__
from fleetest.api import answers, describe, frames
from fleetest.api.answers import utc
from fleetest.api.context import Context
from fleetest.api.events import EventHub
from fleetest.api.handlers.alerts import alert_counts
from fleetest.api.readiness import Readiness
from fleetest.api.route import Call, Public, Route
from fleetest.api.series import FleetSeries
from fleetest.core.lifecycle import WorkerState
from fleetest.core.model import RunId
from fleetest.transport.identity import GRANTS, Role
from fleetest.wire.messages import PROTOCOL_VERSION

AnyFrame = frames.Snapshot | frames.Delta | frames.Tasks


class EventsQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    run: Annotated[str, msgspec.Meta(max_length=64, description="Also every change of this run's tasks.")] = ""


class ServerRoutes:
    def __init__(self, context: Context, series: FleetSeries, readiness: Readiness, hub: EventHub) -> None:
        self._context = context
        self._series = series
        self._readiness = readiness
        self._hub = hub

    def routes(self) -> Sequence[Route]:
        return [
            Route("GET", "/healthz", Public.PUBLIC, "The event loop is alive; says nothing else.", self.health, str,
                  media_type="text/plain", tag="server"),
            Route("GET", "/readyz", Public.PUBLIC, "It can do its work; says why not to whoever shows a token.",
                  self.ready, answers.Ready, tag="server", problems=(503,)),
            Route("GET", "/version", Role.VIEW, "Versions.", self.version, answers.Version, tag="server"),
            Route("GET", "/api/v1/status", Role.VIEW, "The fleet at this moment, in numbers.", self.status,
                  answers.FleetStatus, tag="fleet"),
            Route("GET", "/api/v1/status/series", Role.VIEW, "The fleet over the last half hour.", self.fleet_series,
                  answers.Series, shared_s=0.0, tag="fleet"),
            Route("GET", "/api/v1/events", Role.VIEW, "Live events over a WebSocket: a snapshot, then what changes.",
                  self.follow, AnyFrame, query=EventsQuery, status=101, tag="fleet", problems=(426, 503)),
        ]  # fmt: skip

    async def health(self, call: Call) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(self, call: Call) -> web.Response | answers.Ready:
        checks = await self._readiness.checks()
        is_ready = all(found == "ok" for found in checks.values())
        identity = call.passed.identity
        shown = checks if identity is not None and identity.may(Role.VIEW) else {}
        answer = answers.Ready(is_ready=is_ready, checks=shown)
        if is_ready:
            return answer
        body = msgspec.json.encode(answer)
        return web.Response(status=503, body=body, content_type="application/json", headers={"Retry-After": "5"})

    async def version(self, call: Call) -> answers.Version:
        return answers.Version(version=__version__, python=platform.python_version(), protocol=PROTOCOL_VERSION)

    async def fleet_series(self, call: Call) -> answers.Series:
        return self._series.of_fleet()

    async def status(self, call: Call) -> answers.FleetStatus:
        identity = call.identity
        me = answers.Me(
            name=identity.name, role=identity.role.value, may=sorted(role.value for role in GRANTS[identity.role])
        )
        numbers = fleet_numbers(self._context, self._series, self._hub.client_count)
        return answers.FleetStatus(**msgspec.structs.asdict(numbers), me=me)

    async def follow(self, call: Call) -> web.StreamResponse:
        run = RunId(call.query.run) if call.query.run else None
        return await self._hub.serve(call.request, call.passed, run)


def fleet_numbers(context: Context, series: FleetSeries, listeners: int) -> answers.FleetNumbers:
    """Costs a look at every worker and every live run."""
    cluster = context.fleet.state.cluster
    workers = {state.value: 0 for state in WorkerState if not state.is_gone}
    total = used = free = 0
    for worker in cluster.workers.values():
        workers[worker.state.value] = workers.get(worker.state.value, 0) + 1
        busy = sum(bool(slot.leases) for slot in worker.slots)
        total += len(worker.slots)
        used += busy
        free += len(worker.slots) - busy if worker.accepts else 0
    runs = list(cluster.runs.values())
    now = context.wall()
    now_at, started_at = utc(now), utc(context.started_at)
    assert now_at is not None
    assert started_at is not None
    trouble = context.past.trouble
    return answers.FleetNumbers(
        now=now_at,
        started_at=started_at,
        uptime_s=max(0.0, now - context.started_at),
        version=__version__,
        epoch=cluster.epoch,
        workers=workers,
        workers_total=len(cluster.workers),
        slots=answers.SlotCounts(total=total, used=used, free=free),
        runs=len(runs),
        tasks=describe.task_counts(runs),
        verdicts={verdict.value: count for verdict, count in context.index.verdicts_total.items()},
        finished_per_s=series.finished_per_s(),
        remaining_s=context.remaining_s(),
        alerts=alert_counts(context),
        clients=context.fleet.client_count,
        listeners=listeners,
        history=answers.HistoryState(is_usable=not trouble, trouble=trouble),
    )
