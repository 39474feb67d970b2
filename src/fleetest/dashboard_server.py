"""What the coordinator shows over HTTP. Read-only: nothing here can change a run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web


class DashboardServer:
    """``status`` is called for every request and must be cheap; it returns plain values."""

    def __init__(self, status: Callable[[], object]) -> None:
        self._status = status

    def pages(self) -> Mapping[str, Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]]:
        """Handlers by exact path."""
        return {"/api/v1/status": self._show_status}

    async def _show_status(self, request: web.BaseRequest) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._status()), content_type="application/json")
