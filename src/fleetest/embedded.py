"""Opens a fleet: inside this process (coordinator and worker on one background loop), or at a coordinator's address."""

from __future__ import annotations

import asyncio
import math
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetest.client.background import BackgroundFleet, ClientLink
from fleetest.client.pytest_options import embedded_slots
from fleetest.errors import LinkClosed, UserError

if TYPE_CHECKING:
    from fleetest.client.fleet import Fleet
    from fleetest.coordinator import Coordinator
    from fleetest.processes.launch import PrestartedTemplate
    from fleetest.storage.history import HistoryRecorder
    from fleetest.transport.link import Link


def open_fleet(
    target: str,
    *,
    root_directory: Path,
    history: Path | None = None,
    python: str | None = None,
    token_file: Path | None = None,
    data_directory: Path | None = None,
    tls_ca: Path | None = None,
    prestarted: PrestartedTemplate | None = None,
    balancing: str | None = None,
    scheduler: str | None = None,
    dashboard_port: int | None = None,
) -> Fleet:
    """Connect to ``target``: ``auto``, a number of embedded runners, or ``ws://`` / ``wss://`` of a coordinator.

    ``root_directory`` holds ``.fleetest`` (scratch files; the history unless ``history`` is elsewhere or None).
    ``balancing`` and ``scheduler`` name the policies of an embedded fleet; a coordinator has its own.
    ``dashboard_port`` (0: any) serves the dashboard of an embedded fleet while it is open; at a coordinator, 0 asks for
    a link to its own. The fleet's ``announcements`` have the link.
    Raises UserError (unreachable, refused, unreadable token, not a target, unknown policy).
    """
    if "://" in target:
        if balancing is not None:
            raise UserError("--fleet-balancing is for embedded runners: a coordinator is started with --balancing")
        if scheduler is not None:
            raise UserError("--fleet-scheduler is for embedded runners: a coordinator is started with --scheduler")
        if dashboard_port:
            raise UserError("a port for the dashboard is for embedded runners: a coordinator serves it on its own port")
        return _open_remote(target, token_file, data_directory, tls_ca, has_dashboard=dashboard_port is not None)
    slots = embedded_slots(target)
    announcements: list[str] = []
    open_link = partial(
        _embedded_fleet,
        slots=slots,
        history_path=history,
        python=python,
        prestarted=prestarted,
        policies=(balancing, scheduler),
        dashboard_port=dashboard_port,
        announcements=announcements,
    )
    fleet = BackgroundFleet(open_link, announcements)
    fleet.wait_connected()
    return fleet


def _open_remote(
    url: str, token_file: Path | None, data_directory: Path | None, tls_ca: Path | None, *, has_dashboard: bool
) -> Fleet:
    from fleetest.config import find_token
    from fleetest.transport.identity import Role
    from fleetest.transport.websocket import check_url, connect_client

    check_url(url)
    token = find_token(token_file, data_directory, Role.SUBMIT)

    @asynccontextmanager
    async def open_link(notices: list[str]) -> AsyncIterator[ClientLink]:
        link = await connect_client(url, token, tls_ca=tls_ca)
        try:
            yield link
        finally:
            await link.close()

    announcements: list[str] = []
    fleet = BackgroundFleet(open_link, announcements)
    fleet.wait_connected()
    if has_dashboard:
        from fleetest.operator.api_client import ApiClient
        from fleetest.operator.dashboard_link import ask_for_link

        client = ApiClient(url, token, tls_ca)
        try:
            announcements.append(f"dashboard: {ask_for_link(client)}")
        except UserError:
            fleet.close()
            raise
        finally:
            client.close()
    return fleet


@asynccontextmanager
async def _embedded_fleet(
    notices: list[str],
    *,
    slots: int,
    history_path: Path | None,
    python: str | None,
    prestarted: PrestartedTemplate | None,
    policies: tuple[str | None, str | None],
    dashboard_port: int | None,
    announcements: list[str],
) -> AsyncIterator[ClientLink]:
    from fleetest.coordinator import Coordinator
    from fleetest.core.model import Limits
    from fleetest.hardware import detect_cheaply
    from fleetest.hooks import make_cluster_state, plugin_manager
    from fleetest.storage.history import HistoryRecorder
    from fleetest.transport.memory import memory_link_pair
    from fleetest.worker import Worker, WorkerSettings

    # One process, one clock: the worker cannot be silent while the coordinator is not.
    limits = Limits(heartbeat_interval_s=math.inf, workers_may_join=False)
    state = make_cluster_state(plugin_manager(), limits, epoch=1, balancing=policies[0], scheduler=policies[1])
    # The dashboard asks the history while the run goes on. Others then leave their records in their spools meanwhile.
    keep_open = dashboard_port is not None
    history = HistoryRecorder(history_path, keep_open=keep_open) if history_path is not None else None
    coordinator = Coordinator(state, history=history)
    settings = WorkerSettings(name=socket.gethostname() or "localhost", slots=slots, python=python, is_embedded=True)
    worker = Worker(settings, capabilities=detect_cheaply(), adopt=prestarted)
    worker_end, coordinator_end_of_worker = memory_link_pair()
    client_end, coordinator_end_of_client = memory_link_pair()
    serving: list[asyncio.Future[None]] = []
    around = AsyncExitStack()
    try:
        if dashboard_port is not None:
            await around.enter_async_context(_dashboard(coordinator, history, dashboard_port, announcements))
        serving += [
            asyncio.ensure_future(_watched(part, coordinator_end_of_client))
            for part in (
                coordinator.serve_worker(coordinator_end_of_worker),
                coordinator.serve_client(coordinator_end_of_client),
                worker.serve(worker_end),
            )
        ]
        yield client_end
    finally:
        await worker.close()
        await coordinator.close()
        for task in serving:
            task.cancel()
            # What broke has been told: here everything else is still to be closed.
            with suppress(asyncio.CancelledError, Exception):
                await task
        with suppress(Exception):
            await around.aclose()
        if prestarted is not None and prestarted.start is not None:
            shutil.rmtree(prestarted.start["scratch"], ignore_errors=True)
        if history is not None:
            notices.extend(await _close_history(history))


@asynccontextmanager
async def _dashboard(
    coordinator: Coordinator, history: HistoryRecorder | None, port: int, announcements: list[str]
) -> AsyncIterator[None]:
    """Served meanwhile; the user is told where, and at the end that it is gone."""
    from fleetest.dashboard_of_run import serve_dashboard

    try:
        async with serve_dashboard(coordinator, history, port) as line:
            announcements.append(line)
            yield
    finally:
        if announcements:
            hint = " (what was recorded: fleetest history)" if history is not None else ""
            announcements.append(f"the dashboard is closed with the run: its link is dead{hint}")


async def _close_history(history: HistoryRecorder) -> list[str]:
    try:
        return await asyncio.to_thread(history.close)
    except RuntimeError:
        # No thread to be had on this machine: nothing else is left for this loop to do, so it may wait itself.
        return history.close()


async def _watched(serving: Awaitable[None], client_end: Link[Any, Any]) -> None:
    """``serving``; if it breaks, the client is told instead of waiting for ever."""
    try:
        await serving
    except LinkClosed:
        raise
    except Exception as error:
        await client_end.close(f"internal error: {error!r}")
        raise
