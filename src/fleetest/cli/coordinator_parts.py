"""The parts of a coordinator that serves a network, put together, opened and closed in the order that they need."""

from __future__ import annotations

import asyncio
import ssl

from fleetest.api.application import Api
from fleetest.cli.garbage import collect_now_and_then, spare_what_lives_long
from fleetest.config import CoordinatorSettings
from fleetest.coordinator import Coordinator
from fleetest.core.alerts import Cause
from fleetest.core.model import Limits
from fleetest.dashboard_server import DashboardServer
from fleetest.fleet_memory import FleetMemory
from fleetest.hooks import make_cluster_state, plugin_manager
from fleetest.self_watch import SelfWatch
from fleetest.storage.data_lock import DataLock
from fleetest.storage.disk_room import PROBE_NAME, SpaceWatch
from fleetest.storage.drafts import remove_drafts
from fleetest.storage.epoch import EPOCH_NAME, next_epoch
from fleetest.storage.history import HistoryRecorder
from fleetest.storage.memory_file import MEMORY_NAME, MemoryFile
from fleetest.storage.submissions import DRAFT_NAME, SUBMISSIONS_DIRECTORY
from fleetest.transport.audit import AUDIT_NAME, AuditLog
from fleetest.transport.file_credentials import FileCredentials
from fleetest.transport.server import NetworkServer
from fleetest.transport.token_store import USED_NAME, TokenStore
from fleetest.transport.webhooks import Webhooks


class CoordinatorParts:
    """Made on the event loop that serves it. Raises UserError for a data directory that cannot be used.

    ``needed_bytes``: of free space, see ``space_trouble``.
    """

    def __init__(
        self, settings: CoordinatorSettings, limits: Limits, webhooks: Webhooks, needed_bytes: int | None
    ) -> None:
        data = settings.data
        self._settings, self._webhooks = settings, webhooks
        TokenStore(data).prepare()
        self._data_lock = DataLock(data)
        remove_drafts(data, (MEMORY_NAME, EPOCH_NAME, USED_NAME, PROBE_NAME))
        remove_drafts(data / SUBMISSIONS_DIRECTORY, (DRAFT_NAME,))
        self._credentials = FileCredentials(data)
        self._audit = audit = AuditLog(data / AUDIT_NAME)
        memory_file = MemoryFile(data)
        known = memory_file.load()
        state = make_cluster_state(
            plugin_manager(), limits, next_epoch(data), balancing=settings.balancing, scheduler=settings.scheduler
        )
        # While it is served, people ask the coordinator: nobody else can open the file.
        self._history = history = HistoryRecorder(settings.history or data / "history.duckdb", keep_open=True)
        self.shell = shell = Coordinator(state, history=history)
        self._memory = memory = FleetMemory(shell, memory_file)
        memory.recall(known)
        if settings.alert_webhook:
            shell.observe(webhooks.observe)
        self._watch = SelfWatch(
            shell,
            {
                Cause.DISK_NEARLY_FULL: SpaceWatch(data, needed_bytes).trouble,
                Cause.HISTORY_NOT_WRITTEN: lambda: history.trouble,
                Cause.AUDIT_NOT_WRITTEN: lambda: audit.trouble,
                Cause.FLEET_NOT_KEPT: lambda: memory.trouble,
            },
            no_room=Cause.DISK_NEARLY_FULL,
        )
        self._api = Api(
            shell,
            history=history,
            credentials=self._credentials,
            data_directory=data,
            needed_bytes=needed_bytes,
            audit=audit,
            keeper=memory,
        )
        self._server = NetworkServer(
            credentials=self._credentials,
            serve_worker=shell.serve_worker,
            serve_client=shell.serve_client,
            site=DashboardServer(self._api),
            sessions=self._api.sessions,
            audit=audit,
            public_hosts=settings.public_host,
        )
        spare_what_lives_long()
        self._collecting = asyncio.get_running_loop().create_task(collect_now_and_then())

    async def start(self, address: str, tls: ssl.SSLContext | None) -> int:
        """Serve there; the port. Raises UserError."""
        settings = self._settings
        await self._watch.look()
        port = await self._server.start(address, settings.port, tls, behind_tls_proxy=settings.behind_tls_proxy)
        self._api.start(self._server.gate)
        self._watch.start()
        return port

    async def close(self) -> list[str]:
        """What the user should know, a line each. Also after a ``start`` that failed."""
        self._collecting.cancel()
        await self._watch.close()
        self._api.context.is_draining = True
        await self.shell.close()
        await self._memory.close()
        await self._api.hub.close()
        await self._server.close()
        await self._api.close()
        self._credentials.write_used()
        self._audit.close()
        await self._webhooks.close()
        notices = await asyncio.to_thread(self._history.close)
        self._data_lock.close()
        return notices
