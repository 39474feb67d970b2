"""A coordinator with its port and its API in the test's own process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fleetest.api.application import Api
from fleetest.coordinator import Coordinator
from fleetest.core.cluster_state import ClusterState
from fleetest.core.model import Limits
from fleetest.dashboard_server import DashboardServer
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.storage.history import HistoryRecorder
from fleetest.task_scheduler import TaskScheduler
from fleetest.transport.audit import AUDIT_NAME, AuditLog
from fleetest.transport.file_credentials import FileCredentials
from fleetest.transport.identity import Role
from fleetest.transport.server import NetworkServer
from fleetest.transport.token import TOKEN_NAMES, read_token
from fleetest.transport.token_store import TokenStore


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A coordinator that is served. ``tokens`` by role."""

    port: int
    data: Path
    shell: Coordinator
    api: Api
    site: DashboardServer
    network: NetworkServer
    tokens: dict[Role, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def ask(
        self,
        method: str,
        path: str,
        role: Role | None = Role.ADMIN,
        body: Any = None,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        host: str | None = None,
    ) -> Answer:
        """One raw request: nothing is normalised on the way. ``host`` empty: no Host header."""
        lines = [f"{method} {path} HTTP/1.1"]
        if host != "":
            lines.append(f"Host: {host or f'127.0.0.1:{self.port}'}")
        if role is not None:
            lines.append(f"Authorization: Bearer {self.tokens[role]}")
        encoded = b""
        if body is not None:
            encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
            if not any(name.lower() == "content-type" for name, _ in headers):
                lines.append("Content-Type: application/json")
            lines.append(f"Content-Length: {len(encoded)}")
        lines += [f"{name}: {value}" for name, value in headers]
        if not any(name.lower() == "connection" for name, _ in headers):
            lines.append("Connection: close")
        return await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + encoded)

    async def send(self, request: bytes) -> Answer:
        """These bytes on a new connection, and what comes back."""
        return await raw(self.port, request)


async def raw(port: int, request: bytes) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines if line)
    headers = {name.lower(): value for name, _, value in pairs}
    status = int(first.split()[1])
    if status == 101:
        body = b""
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = await reader.read()
    writer.close()
    return Answer(status, headers, body)


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    """An async context manager that gives a ``Served``."""

    @asynccontextmanager
    async def serving(*, history: bool = False, **settings: Any) -> AsyncIterator[Served]:
        data = tmp_path / "data"
        TokenStore(data).prepare()
        credentials = FileCredentials(data)
        limits = Limits(heartbeat_interval_s=float("inf"))
        state = ClusterState(TaskScheduler(), LoadBalancer(), HealthMonitor(), limits=limits)
        recorder = HistoryRecorder(data / "history.duckdb", keep_open=True) if history else None
        shell = Coordinator(state, history=recorder)
        audit = AuditLog(data / AUDIT_NAME)
        api = Api(shell, history=recorder, credentials=credentials, data_directory=data, audit=audit)
        site = DashboardServer(api)
        network = NetworkServer(
            credentials=credentials,
            serve_worker=shell.serve_worker,
            serve_client=shell.serve_client,
            site=site,
            sessions=api.sessions,
            audit=audit,
            **settings,
        )
        port = await network.start("127.0.0.1", 0)
        api.start(network.gate)
        tokens = {role: read_token(data / name) for role, name in TOKEN_NAMES.items()}
        try:
            yield Served(port, data, shell, api, site, network, tokens)
        finally:
            await shell.close()
            await api.hub.close()
            await network.close()
            await api.close()
            audit.close()
            if recorder is not None:
                await asyncio.to_thread(recorder.close)

    return serving
