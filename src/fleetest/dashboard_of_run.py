"""The dashboard of an embedded fleet: a port on loopback in the client's process, while the fleet is open."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fleetest.api.application import Api
from fleetest.api.fleet import Fleet, History
from fleetest.dashboard_server import DashboardServer
from fleetest.transport.identity import FixedCredentials, Role
from fleetest.transport.link import Link
from fleetest.transport.server import NetworkServer

HOST = "127.0.0.1"
CODE_S = 12 * 3600.0
"""The link is read in a terminal, perhaps long after the run began; it is dead at its end anyway."""


@asynccontextmanager
async def serve_dashboard(fleet: Fleet, history: History | None, port: int) -> AsyncIterator[str]:
    """Serve until the context ends; gives the line with the one-use link. ``history`` is one that is kept open.

    The token lives in memory and is told to nobody: the link is the only way in. Raises UserError: port in use.
    """
    token = secrets.token_urlsafe(32)
    credentials = FixedCredentials({token: Role.ADMIN})
    identity = credentials.identify(token)
    assert identity is not None
    api = Api(fleet, history=history, credentials=credentials)
    server = NetworkServer(
        credentials=credentials,
        serve_worker=_refuse,
        serve_client=_refuse,
        site=DashboardServer(api),
        sessions=api.sessions,
    )
    try:
        bound = await server.start(HOST, port)
        api.start(server.gate)
        code = api.sessions.make_code(identity, CODE_S)
        yield f"dashboard: http://{HOST}:{bound}/login#code={code} (opens once, dead when the run ends)"
    finally:
        api.context.is_draining = True
        await api.hub.close()
        await server.close()
        await api.close()


async def _refuse(link: Link[Any, Any]) -> None:
    await link.close("this fleet belongs to one run: nobody joins it", 1008)
