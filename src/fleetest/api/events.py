"""Live events for screens: a snapshot, then what changed, four times a second at most and less often if that is dear.

A frame is encoded once for everybody. Nobody is waited for: who falls behind gets a new snapshot instead of a longer
queue, and who does not read at all is cut off. While nobody listens, nothing is done.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from fleetest.api import answers, describe, frames
from fleetest.api.answers import utc
from fleetest.api.context import Context
from fleetest.api.series import told_facts
from fleetest.core import commands, events
from fleetest.core.alerts import Alert
from fleetest.core.model import RunId
from fleetest.transport.gate import Pass
from fleetest.transport.problems import Problem
from fleetest.transport.server import HEADERS, REVOKED

TICK_S = 0.25
BUDGET = 0.01
"""Part of a processor for finding out what changed."""
PAUSE_MAX_S = 10.0
"""However dear the last look was: it may have been the garbage collector's."""
LOOKED_AFTER_EVERY_S = 1.0
"""Clients, at least: are their tokens still good, do they read?"""
SLOW_TICKS = 4
"""The fleet and its workers are looked at every so many ticks."""
QUEUE_MAX = 256
STALLED_S = 20.0
CLIENTS_MAX = 256
TASKS_PER_FRAME_MAX = 2000
SEND_BUFFER_BYTES = 256 * 1024
"""Of the system, for each client: beyond it what one does not read waits here, where it is seen."""
CLOSED_GOING_AWAY = 1001
CLOSED_POLICY = 1008
CLOSED_TRY_AGAIN_LATER = 1013
_CLOSE_TIMEOUT_S = 2.0
_log = logging.getLogger("fleetest.api")


@dataclass(slots=True, eq=False)
class _Client:
    socket: web.WebSocketResponse[Any]
    transport: asyncio.Transport | None
    passed: Pass
    run_id: RunId | None
    queue: deque[str] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    sending_since: float | None = None

    def put(self, frame: str) -> None:
        self.queue.append(frame)
        self.wake.set()


class EventHub:
    """``numbers`` tells the fleet in numbers, ``as_answer`` an alert."""

    def __init__(
        self,
        context: Context,
        numbers: Callable[[], answers.FleetNumbers],
        as_answer: Callable[[Alert], answers.Alert],
    ) -> None:
        self._context = context
        self._numbers = numbers
        self._as_answer = as_answer
        self._clients: set[_Client] = set()
        self._opening = 0
        """Clients to be, whose handshake is under way."""
        self._seq = 0
        self._ticks = 0
        self._ticking: asyncio.Task[None] | None = None
        self._closings: set[asyncio.Task[None]] = set()
        self._runs: dict[str, answers.RunSummary] = {}
        self._workers: dict[str, frames.WorkerRow] = {}
        self._alerts: dict[str, Alert] = {}
        self._tasks: dict[RunId, list[frames.TaskChange]] = {}
        self._partial: set[RunId] = set()
        self._followed: set[RunId] = set()
        """Runs whose tasks somebody wants to hear of."""
        self._told_all: tuple[int, str] = (-1, "")
        """The last snapshot, and the frame after which it was made."""
        self.dropped_total = 0
        """Clients that were cut off or got a snapshot in place of frames."""
        context.fleet.observe(self._observe)

    @property
    def client_count(self) -> int:
        return len(self._clients)

    async def serve(self, request: web.BaseRequest, passed: Pass, run_id: RunId | None) -> web.StreamResponse:
        """Raises Problem 426, 503."""
        if len(self._clients) + self._opening >= CLIENTS_MAX:
            raise Problem(503, "too_many_listeners", f"{CLIENTS_MAX} listen already: close one", {"Retry-After": "30"})
        opened: web.WebSocketResponse[Any] = web.WebSocketResponse(
            compress=False, max_msg_size=4096, heartbeat=30.0, timeout=_CLOSE_TIMEOUT_S
        )
        if not opened.can_prepare(request):
            raise Problem(426, "websocket_needed", "a WebSocket is spoken here", {"Upgrade": "websocket"})
        opened.headers.update(HEADERS)
        self._opening += 1
        try:
            await opened.prepare(request)
        finally:
            self._opening -= 1
        _bound_send_buffer(request.transport)
        client = _Client(opened, request.transport, passed, run_id)
        if not self._clients:
            self._take_stock()
        self._clients.add(client)
        self._find_followed()
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.get_running_loop().create_task(self._keep_ticking())
        client.put(self._snapshot())
        writing = asyncio.get_running_loop().create_task(self._write(client))
        try:
            message = await opened.receive()
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await self._close(client, CLOSED_POLICY, b"nothing is expected here")
        finally:
            self._clients.discard(client)
            self._find_followed()
            writing.cancel()
            await asyncio.wait({writing})
        return opened

    async def close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticking
        await asyncio.gather(*(self._close(each, CLOSED_GOING_AWAY, b"stopping") for each in list(self._clients)))

    def tick(self) -> None:
        """Tell everybody what changed since the last one."""
        is_slow = self._ticks % SLOW_TICKS == 0
        self._ticks += 1
        runs = self._changed_runs()
        delta = frames.Delta(seq=self._seq + 1, at=self._now(), runs=runs)
        if is_slow:
            delta.workers, delta.workers_gone = self._changed_workers()
            delta.alerts = self._changed_alerts()
            delta.fleet = self._numbers()
        if is_slow or runs:
            self._seq += 1
            self._send(frames.encode(delta), lambda client: True)
        for run_id, rows in self._tasks.items():
            self._seq += 1
            frame = frames.Tasks(
                seq=self._seq, at=self._now(), run_id=run_id, rows=rows, is_partial=run_id in self._partial
            )
            self._send(frames.encode(frame), lambda client, run_id=run_id: client.run_id == run_id)  # type: ignore[misc]
        self._tasks, self._partial = {}, set()

    # What changed ----------------------------------------------------------------------------------------------

    def _observe(self, event: events.Event, commanded: Sequence[commands.Command]) -> None:
        wanted = self._followed
        if not wanted:
            return
        for command in commanded:
            kind = type(command)
            if kind is commands.PublishStarted and command.run_id in wanted:  # type: ignore[union-attr]
                self._started(command)  # type: ignore[arg-type]
            elif kind is commands.PublishOutcomes and command.run_id in wanted:  # type: ignore[union-attr]
                self._ended(command)  # type: ignore[arg-type]

    def _started(self, command: commands.PublishStarted) -> None:
        now = self._context.wall()
        for task_id, attempt, worker_id, slot in command.tasks:
            change = frames.TaskChange(task_id, "running", None, attempt, worker_id, slot, now, None)
            self._add(command.run_id, change)

    def _ended(self, command: commands.PublishOutcomes) -> None:
        for outcome in command.outcomes:
            if outcome.is_superseded:
                continue
            result = outcome.result
            change = frames.TaskChange(
                outcome.task_id,
                "finished" if outcome.is_final else "queued",
                outcome.verdict.value,
                outcome.attempt,
                str(outcome.worker_id or ""),
                outcome.slot,
                result.started_at or None if result is not None else None,
                result.duration_s if result is not None else None,
            )
            self._add(command.run_id, change)

    def _add(self, run_id: RunId, change: frames.TaskChange) -> None:
        rows = self._tasks.setdefault(run_id, [])
        if len(rows) < TASKS_PER_FRAME_MAX:
            rows.append(change)
        else:
            self._partial.add(run_id)

    def _take_stock(self) -> None:
        """From here on changes are told."""
        self._runs, self._workers, self._alerts = {}, {}, {}
        self._told_all = (-1, "")
        self._tasks, self._partial = {}, set()
        self._changed_runs()
        self._changed_workers()
        self._changed_alerts()

    def _changed_runs(self) -> list[answers.RunSummary]:
        context = self._context
        now, cluster = context.wall(), context.fleet.state.cluster
        current: dict[str, answers.RunSummary] = {}
        for run_id, indexed in context.index.runs.items():
            run = cluster.runs.get(run_id) or cluster.finished_runs.get(run_id)
            known = self._runs.get(run_id)
            if known is not None and not known.is_live:
                current[run_id] = known
            elif run is not None:
                current[run_id] = describe.live_run(run, indexed, now, context.remaining_s(run))
        changed = [run for run_id, run in current.items() if _essence(run) != _essence(self._runs.get(run_id))]
        self._runs = current
        return changed

    def _changed_workers(self) -> tuple[list[frames.WorkerRow], list[str]]:
        current = {row.worker_id: row for row in self._worker_rows()}
        changed = [row for worker_id, row in current.items() if self._workers.get(worker_id) != row]
        gone = [worker_id for worker_id in self._workers if worker_id not in current]
        self._workers = current
        return changed, gone

    def _worker_rows(self) -> list[frames.WorkerRow]:
        fleet, cluster = self._context.fleet, self._context.fleet.state.cluster
        rows = []
        for worker_id, worker in cluster.workers.items():
            told = told_facts(fleet, worker_id)
            used = sum(bool(slot.leases) for slot in worker.slots)
            rows.append(
                frames.WorkerRow(
                    worker_id,
                    worker.state.value,
                    len(worker.slots),
                    used,
                    worker.lease_count - used,
                    told.load_average if told is not None else None,
                    told.memory_available_bytes if told is not None else None,
                    len(cluster.alerts.causes(worker_id)),
                )
            )
        return rows

    def _changed_alerts(self) -> list[answers.Alert]:
        current = {str(alert.alert_id): alert for alert in self._context.fleet.state.cluster.alerts.all()}
        changed = [alert for alert_id, alert in current.items() if self._alerts.get(alert_id) is not alert]
        self._alerts = current
        return [self._as_answer(alert) for alert in reversed(changed)]

    def _snapshot(self) -> str:
        """What is known by the last frame, so that the next one goes on from there; one for all who come meanwhile."""
        if self._told_all[0] != self._seq:
            snapshot = frames.Snapshot(
                seq=self._seq,
                at=self._now(),
                fleet=self._numbers(),
                runs=list(self._runs.values()),
                workers=list(self._workers.values()),
                alerts=[self._as_answer(alert) for alert in reversed(self._alerts.values()) if not alert.cleared_at],
            )
            self._told_all = self._seq, frames.encode(snapshot)
        return self._told_all[1]

    def _now(self) -> Any:
        return utc(self._context.wall())

    # Clients ---------------------------------------------------------------------------------------------------

    async def _keep_ticking(self) -> None:
        pause_s = TICK_S
        while True:
            await self._pause(pause_s)
            if not self._clients:
                return
            began = time.thread_time()
            try:
                self.tick()
            except Exception:
                _log.exception("live events could not be told")
            pause_s = min(max(TICK_S, (time.thread_time() - began) / BUDGET), PAUSE_MAX_S)

    async def _pause(self, pause_s: float) -> None:
        """However long it is, who may not listen any more is cut off meanwhile."""
        while pause_s > 0.0:
            part_s = min(pause_s, LOOKED_AFTER_EVERY_S)
            await asyncio.sleep(part_s)
            pause_s -= part_s
            try:
                self._look_after_clients()
            except Exception:
                # Whoever listens goes on listening.
                _log.exception("who follows live events could not be looked after")

    def _send(self, frame: str, is_wanted: Callable[[_Client], bool]) -> None:
        for client in self._clients:
            if not is_wanted(client):
                continue
            if len(client.queue) < QUEUE_MAX:
                client.put(frame)
                continue
            self.dropped_total += 1
            client.queue.clear()
            client.put(self._snapshot())

    def _look_after_clients(self) -> None:
        now, gate = self._context.fleet.now(), self._context.gate
        assert gate is not None, "the API is mounted before it is asked"
        for client in list(self._clients):
            if not gate.is_good(client.passed):
                self._close_soon(client, CLOSED_POLICY, REVOKED.encode())
            elif client.sending_since is not None and now - client.sending_since > STALLED_S:
                self.dropped_total += 1
                self._close_soon(client, CLOSED_TRY_AGAIN_LATER, b"it did not read what was sent to it")

    async def _write(self, client: _Client) -> None:
        with suppress(ConnectionError, RuntimeError):
            while True:
                await client.wake.wait()
                client.wake.clear()
                while client.queue:
                    frame = client.queue.popleft()
                    client.sending_since = self._context.fleet.now()
                    await client.socket.send_str(frame)
                    client.sending_since = None

    def _find_followed(self) -> None:
        self._followed = {client.run_id for client in self._clients if client.run_id is not None}

    def _close_soon(self, client: _Client, code: int, reason: bytes) -> None:
        self._clients.discard(client)
        self._find_followed()
        task = asyncio.get_running_loop().create_task(self._close(client, code, reason))
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)

    async def _close(self, client: _Client, code: int, reason: bytes) -> None:
        """One that does not read cannot be told either: its connection is cut."""
        with suppress(asyncio.TimeoutError, ConnectionError, RuntimeError):
            await asyncio.wait_for(client.socket.close(code=code, message=reason), _CLOSE_TIMEOUT_S)
        if client.transport is not None and client.transport.get_write_buffer_size():
            client.transport.abort()


def _bound_send_buffer(transport: asyncio.Transport | None) -> None:
    """The system would keep megabytes for each client that does not read."""
    opened = transport.get_extra_info("socket") if transport is not None else None
    if opened is not None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def _essence(run: answers.RunSummary | None) -> Any:
    """What must differ for a run to be told again: not that time passed."""
    if run is None:
        return None
    return run.state, run.outcome, run.tasks, run.states, run.counts, run.cancel_reason
