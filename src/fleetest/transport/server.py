"""The one port of a coordinator: who may pass, then links and pages.

Every request passes the same gate before anything is routed: an allowed Host, no foreign Origin, the token. Only
``/healthz`` needs no token, and it says only ``ok``.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler

from fleetest.errors import ExitStatus, UserError
from fleetest.transport.link import Link
from fleetest.transport.websocket import (
    BACKLOG_BYTES_MAX,
    CLIENT_PATH,
    CLOSE_TIMEOUT_S,
    PING_INTERVAL_S,
    WORKER_PATH,
    WebSocketLink,
)
from fleetest.wire.codec import FRAME_BYTES_MAX, Codec, coordinator_client_codec, coordinator_worker_codec
from fleetest.wire.session import HANDSHAKE_TIMEOUT_S

Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
ServeLink = Callable[[Link[Any, Any]], Awaitable[None]]

STRANGERS_MAX = 64
"""Connections that have not shown the token yet; further ones are closed at once."""
_HEADERS = {
    "Server": "fleetest",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class _GuardedServer(web.Server):
    """Knows which connections have not shown the token yet: few may, and none for long."""

    def __init__(self, handler: Page, handshake_timeout_s: float) -> None:
        super().__init__(
            handler, access_log=None, max_line_size=8190, max_field_size=8190, max_headers=64, lingering_time=1.0
        )
        self._handshake_timeout_s = handshake_timeout_s
        self._strangers: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        delay_s = self._handshake_timeout_s if len(self._strangers) < STRANGERS_MAX else 0.0
        self._strangers[handler] = asyncio.get_running_loop().call_later(delay_s, transport.abort)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        self.trust(handler)
        super().connection_lost(handler, exc)

    def trust(self, handler: asyncio.BaseProtocol) -> None:
        """It has shown the token (or is gone)."""
        timer = self._strangers.pop(handler, None)
        if timer is not None:
            timer.cancel()


class NetworkServer:
    """Listens, checks, and hands each link to ``serve_worker`` or ``serve_client``; ``pages`` are by exact path."""

    def __init__(
        self,
        *,
        token: str,
        serve_worker: ServeLink,
        serve_client: ServeLink,
        pages: Mapping[str, Page],
        public_hosts: Collection[str] = (),
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        self._token = token.encode()
        self._serve_worker = serve_worker
        self._serve_client = serve_client
        self._pages = dict(pages)
        self._public_hosts = tuple(public_hosts)
        self._hosts: frozenset[str] = frozenset()
        self._web_server = _GuardedServer(self._answer, handshake_timeout_s)
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen on ``host`` (an address) and ``port`` (0: any); returns the port.

        Raises UserError: port in use, no such address here.
        """
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                self._web_server,
                host,
                port,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls is not None else None,
                backlog=512,
            )
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        bound_host, bound_port = self._listener.sockets[0].getsockname()[:2]
        assert ipaddress.ip_address(bound_host) == ipaddress.ip_address(host), "listens on another address than asked"
        names = {"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host}
        allowed = {f"{name}:{bound_port}" for name in names}
        for public in self._public_hosts:
            allowed |= {public.lower(), f"{public.lower()}:{bound_port}"}
        self._hosts = frozenset(allowed)
        return int(bound_port)

    async def close(self) -> None:
        """Stop listening and end what is still connected; close the links first."""
        if self._listener is not None:
            self._listener.close()
        self._web_server.pre_shutdown()
        await self._web_server.shutdown(timeout=CLOSE_TIMEOUT_S)
        if self._listener is not None:
            await self._listener.wait_closed()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is None:
            response = await self._route(request)
        else:
            response = refusal
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    def _refusal(self, request: web.BaseRequest) -> web.Response | None:
        """Why this request goes no further; None if it may."""
        hosts = request.headers.getall(hdrs.HOST, [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _text(403, "this name is not allowed here; see --public-host")
        origins = request.headers.getall(hdrs.ORIGIN, [])
        if origins and (len(origins) > 1 or not self._is_own_origin(origins[0])):
            return _text(403, "this origin is not allowed here")
        credentials = request.headers.getall(hdrs.AUTHORIZATION, [])
        if len(credentials) > 1:
            return _text(400, "more than one Authorization header")
        if request.path == "/healthz":
            return _text(200, "ok") if request.method in {"GET", "HEAD"} else _text(405, "GET only")
        scheme, _, given = (credentials[0] if credentials else "").partition(" ")
        is_known = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
        if scheme.lower() != "bearer" or not is_known:
            refusal = _text(401, "a token is needed")
            refusal.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="fleetest"'
            return refusal
        self._web_server.trust(request.protocol)
        return None

    def _is_own_origin(self, origin: str) -> bool:
        scheme, _, host = origin.lower().partition("://")
        return scheme in {"http", "https"} and host in self._hosts

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in {"GET", "HEAD"}:
            return _text(405, "GET only")
        if request.path == WORKER_PATH:
            return await self._upgrade(request, coordinator_worker_codec(), self._serve_worker, None)
        if request.path == CLIENT_PATH:
            return await self._upgrade(request, coordinator_client_codec(), self._serve_client, BACKLOG_BYTES_MAX)
        page = self._pages.get(request.path)
        if page is None:
            return _text(404, "no such page")
        return await page(request)

    async def _upgrade(
        self, request: web.BaseRequest, codec: Codec[Any, Any], serve: ServeLink, backlog_bytes_max: int | None
    ) -> web.StreamResponse:
        answer = web.WebSocketResponse(
            compress=False, max_msg_size=FRAME_BYTES_MAX, heartbeat=PING_INTERVAL_S, timeout=CLOSE_TIMEOUT_S
        )
        if not answer.can_prepare(request):
            return _text(426, "a WebSocket is spoken here")
        await answer.prepare(request)
        peer = request.remote or "unknown address"
        link: WebSocketLink[Any, Any] = WebSocketLink(
            answer, codec, peer, transport=request.transport, backlog_bytes_max=backlog_bytes_max
        )
        try:
            await serve(link)
        finally:
            await link.close()
        return answer


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")


def _cannot_listen(host: str, port: int, error: OSError) -> UserError:
    if error.errno == errno.EADDRINUSE:
        message = f"port {port} on {host} is in use: stop what listens there, or choose another with --port"
        return UserError(message, ExitStatus.PORT_IN_USE)
    return UserError(f"cannot listen on {host} port {port}: {error.strerror}")


def resolve_host(host: str) -> str:
    """The address that ``--host`` names. Raises UserError if it names none."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise UserError(f"--host {host}: {error.strerror}") from error


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
