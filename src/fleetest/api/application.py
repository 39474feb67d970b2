"""The API put together: everything it needs is given, nothing is assumed about who serves it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from fleetest.api import answers
from fleetest.api.context import Context, Keeper
from fleetest.api.events import EventHub
from fleetest.api.fleet import Fleet, History
from fleetest.api.handlers.alerts import AlertRoutes, alert_answer
from fleetest.api.handlers.history import HistoryRoutes
from fleetest.api.handlers.login import LoginRoutes
from fleetest.api.handlers.queue import QueueRoutes
from fleetest.api.handlers.runs import RunRoutes
from fleetest.api.handlers.server import ServerRoutes, fleet_numbers
from fleetest.api.handlers.tasks import TaskRoutes
from fleetest.api.handlers.workers import WorkerRoutes
from fleetest.api.handlers.workload import WorkloadRoutes
from fleetest.api.live_index import LiveIndex
from fleetest.api.metrics import MEDIA_TYPE, FleetMetrics
from fleetest.api.openapi import openapi, reference_page
from fleetest.api.past import Past
from fleetest.api.readiness import Readiness
from fleetest.api.route import Call, Route
from fleetest.api.series import FleetSeries
from fleetest.api.shared_answers import SharedAnswers
from fleetest.api.worker_states import WorkerStates
from fleetest.core import commands, events
from fleetest.storage.submissions import SUBMISSIONS_DIRECTORY, SubmissionStore
from fleetest.transport.audit import AuditSink
from fleetest.transport.browser_sessions import BrowserSessions
from fleetest.transport.gate import Gate
from fleetest.transport.identity import Credentials, Role
from fleetest.wire.messages import SubmitRun

_log = logging.getLogger("fleetest.api")


class Api:
    """Follows a fleet from its construction on. ``start`` and ``close`` belong to the fleet's event loop.

    ``history`` must be one that is kept open. ``data_directory`` None: nothing is kept on disk.
    ``needed_bytes``: of free space there, to be ready (``storage.disk_room``).
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        history: History | None,
        credentials: Credentials,
        data_directory: Path | None = None,
        needed_bytes: int | None = None,
        audit: AuditSink | None = None,
        keeper: Keeper | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        index = LiveIndex(fleet, wall)
        submissions = SubmissionStore(data_directory / SUBMISSIONS_DIRECTORY) if data_directory is not None else None
        self.sessions = BrowserSessions(credentials, clock)
        self.context = Context(
            fleet=fleet,
            index=index,
            past=Past(history),
            credentials=credentials,
            sessions=self.sessions,
            submissions=submissions,
            audit=audit,
            keeper=keeper,
            wall=wall,
            started_at=wall(),
        )
        self._series = FleetSeries(fleet, index, wall)
        self._states = WorkerStates(fleet, index)
        self._metrics = FleetMetrics(self.context, data_directory)
        self.hub = EventHub(self.context, self._numbers, lambda alert: alert_answer(alert, self.context))
        self._shared = SharedAnswers(lambda: index.changes, clock)
        fleet.observe(self._shared.observe)
        self._readiness = Readiness(self.context, data_directory, needed_bytes)
        self._saving: set[asyncio.Future[None]] = set()
        self._document: bytes = b""
        self._page = ""
        if submissions is not None:
            fleet.observe(self._keep_submission)
        if audit is not None:
            fleet.observe(self._audit_stray_results)

    def routes(self) -> Sequence[Route]:
        """Everything the API answers."""
        runs = RunRoutes(self.context)
        found = [
            *ServerRoutes(self.context, self._series, self._readiness, self.hub).routes(),
            *LoginRoutes(self.context).routes(),
            *runs.routes(),
            *TaskRoutes(self.context, runs).routes(),
            *WorkloadRoutes(self.context).routes(),
            *WorkerRoutes(self.context, self._series, self._states).routes(),
            *AlertRoutes(self.context).routes(),
            *QueueRoutes(self.context).routes(),
            *HistoryRoutes(self.context).routes(),
            Route("GET", "/metrics", Role.VIEW, "Numbers for Prometheus.", self._show_metrics, None,
                  media_type="text/plain", tag="server"),
            Route("GET", "/openapi.json", Role.VIEW, "This API for machines: OpenAPI 3.1.", self._show_document, Any,
                  tag="server"),
            Route("GET", "/api", Role.VIEW, "This API as a page.", self._show_page, None, media_type="text/html",
                  tag="server"),
        ]  # fmt: skip
        found = [self._shared.around(route) for route in found]
        document = openapi(found)
        self._document = msgspec.json.encode(document)
        self._page = reference_page(document)
        return found

    def start(self, gate: Gate) -> None:
        """``gate``: of the server that it is mounted on."""
        self.context.gate = gate
        self._series.start()
        self._metrics.start()

    async def close(self) -> None:
        await self.hub.close()
        await self._series.close()
        await self._metrics.close()
        while self._saving:
            await asyncio.wait(self._saving)
        await asyncio.to_thread(self.context.past.close)

    def _numbers(self) -> answers.FleetNumbers:
        return fleet_numbers(self.context, self._series, self.hub.client_count)

    async def _show_metrics(self, call: Call) -> web.Response:
        return web.Response(body=await self._metrics.text(), headers={"Content-Type": MEDIA_TYPE})

    async def _show_document(self, call: Call) -> web.Response:
        return web.Response(body=self._document, content_type="application/json")

    async def _show_page(self, call: Call) -> web.Response:
        return web.Response(text=self._page, content_type="text/html")

    def _audit_stray_results(self, event: events.Event, commanded: Sequence[commands.Command]) -> None:
        if type(event) is not events.AttemptsFinished:
            return
        for command in commanded:
            if type(command) is commands.ReportStrayResults:
                self._audit_stray(command)

    def _audit_stray(self, command: commands.ReportStrayResults) -> None:
        """A lease that is over is told once in a while by honest workers too, after a broken link."""
        audit, peer = self.context.audit, self.context.fleet.worker_facts.get(command.worker_id)
        assert audit is not None
        shown = ", ".join(str(lease_id)[:50] for lease_id in command.lease_ids[:5])
        audit.write(
            None,
            peer.address if peer is not None else "",
            "stale results",
            str(command.worker_id),
            409,
            f"{len(command.lease_ids)} under leases it does not hold: {shown}",
            limit_by=f"worker {command.worker_id}",
        )

    def _keep_submission(self, event: events.Event, commanded: Sequence[commands.Command]) -> None:
        if type(event) is not events.RunSubmitted:
            return
        facts = self.context.fleet.run_facts.get(event.run_id)
        if facts is not None:
            saving = asyncio.get_running_loop().run_in_executor(None, self._save, facts.submission)
            self._saving.add(saving)
            saving.add_done_callback(self._saving.discard)

    def _save(self, submission: SubmitRun) -> None:
        assert self.context.submissions is not None
        try:
            self.context.submissions.save(submission)
        except (OSError, ValueError) as error:
            fields = {"fields": {"run": submission.run_id}}
            _log.warning("the submission of run %s cannot be kept: %s", submission.run_id, error, extra=fields)
