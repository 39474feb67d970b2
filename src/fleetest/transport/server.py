"""The one port of a coordinator: who may pass, then links and pages.

Every request passes the same gate before anything is routed: an allowed Host, no foreign Origin, a known token. What
needs no token is named by the site; everything else is refused alike, whether it exists or not.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any, Protocol

from aiohttp import WebSocketError, WSMsgType, hdrs, web
from aiohttp.web_protocol import RequestHandler

from fleetest.errors import ExitStatus, LinkClosed, RemoteProtocolError, UserError
from fleetest.transport.audit import STRANGERS, AuditSink
from fleetest.transport.browser_sessions import BrowserSessions
from fleetest.transport.gate import CHALLENGE, SAFE_METHODS, Gate, Pass, check_unsafe, raw_path
from fleetest.transport.identity import Credentials, Identity, Role
from fleetest.transport.link import Link
from fleetest.transport.problems import Problem
from fleetest.transport.websocket import (
    BACKLOG_BYTES_MAX,
    CLIENT_PATH,
    CLOSE_TIMEOUT_S,
    PING_INTERVAL_S,
    ROLE_NEEDED,
    WORKER_PATH,
    WebSocketLink,
)
from fleetest.wire.codec import FRAME_BYTES_MAX, Codec, coordinator_client_codec, coordinator_worker_codec
from fleetest.wire.session import HANDSHAKE_TIMEOUT_S

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
ServeLink = Callable[[Link[Any, Any]], Awaitable[None]]

_log = logging.getLogger("fleetest.transport")

STRANGERS_MAX = 64
"""Connections that have not shown a token yet; for each further one the oldest is closed.

Who has a token shows it at once, so that it is never the oldest for long: strangers cannot keep it out."""
CREDENTIALS_CHECK_S = 1.0
"""How often revoked tokens are looked for; what they had opened is closed then."""
CLOSED_REVOKED = 1008
REVOKED = "its token was revoked or has expired, or its user logged out"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Server": "fleetest",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
}


class Site(Protocol):
    """Everything that is served besides links."""

    def is_public(self, request: web.BaseRequest) -> bool:
        """Whether this needs no token."""

    async def answer(self, request: web.BaseRequest, passed: Pass) -> web.StreamResponse:
        """Answer a request that passed the gate. Raises Problem."""

    def challenge(self, request: web.BaseRequest) -> web.Response:
        """The 401 for whoever showed nothing; the same whatever was asked for."""


class NoSite:
    """A port for links alone."""

    def is_public(self, request: web.BaseRequest) -> bool:
        return False

    async def answer(self, request: web.BaseRequest, passed: Pass) -> web.StreamResponse:
        raise Problem(404, "not_found", "there is nothing here")

    def challenge(self, request: web.BaseRequest) -> web.Response:
        return token_needed().response()


def token_needed() -> Problem:
    return Problem(401, "token_needed", "send a token: Authorization: Bearer TOKEN, or log in at /login", CHALLENGE)


class _Handler(RequestHandler):
    """Answers what is no request as everything else is answered, without a line in the log for each."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("half of another answer was sent already")
        if status >= 500:
            _log.error("cannot answer a request", exc_info=exc)
            problem = Problem(500, "internal_error", "a mistake of the coordinator: its log says more")
        else:
            problem = Problem(400, "bad_request", "this is no HTTP request that is understood here, or it is too long")
        response = problem.response()
        response.headers.update(HEADERS)
        response.force_close()
        return response


class _GuardedServer(web.Server):
    """Knows which connections have not shown a token yet: few may, and none for long."""

    def __init__(self, handler: Handler, handshake_timeout_s: float) -> None:
        super().__init__(handler)
        self._settings: dict[str, Any] = {
            "access_log": None,
            "max_line_size": 8190,
            "max_field_size": 8190,
            "max_headers": 64,
            "lingering_time": 1.0,
            # A packed body is refused; it must not be unpacked before that.
            "auto_decompress": False,
        }
        self._handshake_timeout_s = handshake_timeout_s
        self._strangers: dict[asyncio.BaseProtocol, tuple[asyncio.TimerHandle, asyncio.Transport]] = {}
        """The oldest first."""

    def __call__(self) -> RequestHandler:
        return _Handler(self, loop=asyncio.get_running_loop(), **self._settings)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        while len(self._strangers) >= STRANGERS_MAX:
            oldest = next(iter(self._strangers))
            timer, waiting = self._strangers.pop(oldest)
            timer.cancel()
            waiting.abort()
        timer = asyncio.get_running_loop().call_later(self._handshake_timeout_s, transport.abort)
        self._strangers[handler] = timer, transport

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        self.trust(handler)
        super().connection_lost(handler, exc)

    def trust(self, handler: asyncio.BaseProtocol) -> None:
        """It has shown a token (or is gone)."""
        known = self._strangers.pop(handler, None)
        if known is not None:
            known[0].cancel()


class _AcceptedSocket:
    """aiohttp's end of an upgraded request as a ``MessageSocket``."""

    def __init__(self, response: web.WebSocketResponse) -> None:
        self._response = response

    async def receive(self) -> bytes:
        frame = await self._response.receive()
        if frame.type is WSMsgType.BINARY:
            return bytes(frame.data)
        if frame.type is WSMsgType.TEXT or isinstance(frame.data, WebSocketError):
            raise RemoteProtocolError("a text frame" if frame.type is WSMsgType.TEXT else str(frame.data))
        if frame.type is WSMsgType.CLOSE:
            raise LinkClosed(frame.extra or "the peer closed the link", frame.data)
        if frame.type is WSMsgType.ERROR:
            raise LinkClosed(f"the connection broke: {frame.data}", self._response.close_code)
        raise LinkClosed("the connection was lost", self._response.close_code)

    async def send_bytes(self, message: bytes) -> None:
        await self._response.send_bytes(message)

    async def close(self, *, code: int, message: bytes) -> None:
        await self._response.close(code=code, message=message)


class NetworkServer:
    """Listens, checks, and hands each link to ``serve_worker`` or ``serve_client`` and the rest to ``site``.

    ``sessions`` are those of browsers; the site opens and closes them. ``audit`` gets what changed something and what
    was refused.
    """

    def __init__(
        self,
        *,
        credentials: Credentials,
        serve_worker: ServeLink,
        serve_client: ServeLink,
        site: Site | None = None,
        sessions: BrowserSessions | None = None,
        audit: AuditSink | None = None,
        public_hosts: Collection[str] = (),
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = credentials
        self._serve_worker = serve_worker
        self._serve_client = serve_client
        self._site: Site = site or NoSite()
        self._audit = audit
        self.gate = Gate(credentials, sessions or BrowserSessions(credentials, clock), clock, public_hosts)
        self._web_server = _GuardedServer(self._handle, handshake_timeout_s)
        self._listener: asyncio.Server | None = None
        self._open: dict[WebSocketLink[Any, Any], Pass] = {}
        self._watching: asyncio.Task[None] | None = None

    async def start(
        self, host: str, port: int, tls: ssl.SSLContext | None = None, *, behind_tls_proxy: bool = False
    ) -> int:
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
        self.gate.open_for(host, bound_port, is_tls=tls is not None, is_behind_tls_proxy=behind_tls_proxy)
        self._watching = loop.create_task(self._watch_credentials())
        return int(bound_port)

    async def close(self) -> None:
        """Stop listening and end what is still connected; close the links first."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        if self._listener is not None:
            self._listener.close()
        self._web_server.pre_shutdown()
        await self._web_server.shutdown(timeout=CLOSE_TIMEOUT_S)
        if self._listener is not None:
            await self._listener.wait_closed()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        identity: Identity | None = None
        code = ""
        try:
            passed = self.gate.check(request)
            identity = passed.identity
            if identity is not None:
                self._web_server.trust(request.protocol)
            response = await self._answer(request, passed)
        except Problem as problem:
            code = problem.code
            self.gate.count(problem, identity)
            response = problem.response()
        except Exception as error:
            if isinstance(error, (ConnectionError, web.HTTPException)):
                raise
            _log.exception("cannot answer %s %s", request.method, request.path)
            response = Problem(500, "internal_error", "a mistake of the coordinator: its log says more").response()
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            response.headers["Server"] = HEADERS["Server"]
        self._write_audit(request, identity, response.status, code)
        return response

    async def _answer(self, request: web.BaseRequest, passed: Pass) -> web.StreamResponse:
        if passed.identity is None and not self._site.is_public(request):
            self.gate.refused["token_needed"] += 1
            return self._site.challenge(request)
        check_unsafe(request, passed)
        path = raw_path(request)
        if passed.identity is not None and path == WORKER_PATH:
            return await self._upgrade(
                request, passed, Role.WORKER, coordinator_worker_codec(), self._serve_worker, None
            )
        if passed.identity is not None and path == CLIENT_PATH:
            return await self._upgrade(
                request, passed, Role.SUBMIT, coordinator_client_codec(), self._serve_client, BACKLOG_BYTES_MAX
            )
        return await self._site.answer(request, passed)

    async def _upgrade(
        self,
        request: web.BaseRequest,
        passed: Pass,
        role: Role,
        codec: Codec[Any, Any],
        serve: ServeLink,
        backlog_bytes_max: int | None,
    ) -> web.StreamResponse:
        identity = passed.identity
        assert identity is not None, "a link is opened by somebody"
        if not identity.may(role):
            detail = f"this needs a token of role {role.value}, not {identity.role.value}"
            raise Problem(403, "role_not_allowed", detail, {ROLE_NEEDED: role.value})
        if request.method != "GET":
            raise Problem(405, "method_not_allowed", "a WebSocket is spoken here", {hdrs.ALLOW: "GET"})
        answer = web.WebSocketResponse(
            compress=False, max_msg_size=FRAME_BYTES_MAX, heartbeat=PING_INTERVAL_S, timeout=CLOSE_TIMEOUT_S
        )
        if not answer.can_prepare(request):
            raise Problem(426, "websocket_needed", "a WebSocket is spoken here", {hdrs.UPGRADE: "websocket"})
        answer.headers.update(HEADERS)
        await answer.prepare(request)
        link: WebSocketLink[Any, Any] = WebSocketLink(
            _AcceptedSocket(answer),
            codec,
            request.remote or "unknown address",
            transport=request.transport,
            backlog_bytes_max=backlog_bytes_max,
            identity=identity,
        )
        self._open[link] = passed
        if self._audit is not None:
            self._audit.write(identity, link.peer, "link opened", request.path, 101)
        try:
            await serve(link)
        finally:
            del self._open[link]
            await link.close()
        return answer

    async def _watch_credentials(self) -> None:
        while True:
            await asyncio.sleep(CREDENTIALS_CHECK_S)
            self._credentials.refresh()
            ended = [link for link, passed in self._open.items() if not self.gate.is_good(passed)]
            # None waits for another: a peer that does not answer takes its time.
            await asyncio.gather(*(link.close(REVOKED, CLOSED_REVOKED) for link in ended))

    def _write_audit(self, request: web.BaseRequest, identity: Identity | None, status: int, code: str) -> None:
        if self._audit is None or status == 429:
            return
        if request.method not in SAFE_METHODS or status == 403 or code == "wrong_token":
            # What is refused is cheap to ask for: nobody may push out the lines about others with it.
            limit_by = "" if status < 400 else identity.token_id if identity is not None else STRANGERS
            self._audit.write(
                identity, request.remote or "", request.method, request.path, status, code, limit_by=limit_by
            )


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
