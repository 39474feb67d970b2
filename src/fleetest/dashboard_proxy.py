"""A coordinator elsewhere, asked on behalf of the pages that are served here.

Browsers log in here; what they ask of the API goes to the coordinator with the token of this process, which no browser
ever sees. Only named headers pass, in both directions: no cookie and no origin of a browser reaches the coordinator,
and no cookie of the coordinator reaches a browser. Nothing is kept, so the pages heal as soon as it is back.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yarl
from aiohttp import WSMsgType, hdrs, web

from fleetest.errors import ExitStatus, UserError
from fleetest.transport.gate import Pass
from fleetest.transport.problems import Problem
from fleetest.transport.server import CLOSED_REVOKED, CREDENTIALS_CHECK_S, HEADERS, REVOKED
from fleetest.transport.websocket import tls_context

EVENTS_PATH = "/api/v1/events"
PATHS = frozenset({"/api", "/metrics", "/openapi.json", "/healthz", "/readyz", "/version"})
"""What is asked of the coordinator besides everything under ``/api/``."""
PASSED_ON = (hdrs.ACCEPT, hdrs.CONTENT_TYPE, "Idempotency-Key")
PASSED_BACK = (
    hdrs.AGE,
    hdrs.CONTENT_TYPE,
    hdrs.CONTENT_DISPOSITION,
    hdrs.RETRY_AFTER,
    hdrs.ALLOW,
    "Idempotency-Replayed",
)
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 300.0
REQUESTS_MAX = 32
"""Requests under way; further ones wait for their turn."""
LISTENERS_MAX = 64
BODY_BYTES_MAX = 32 * 1024 * 1024
FRAME_BYTES_MAX = 16 * 1024 * 1024
STALLED_S = 20.0
"""A browser that does not read a frame for so long is cut off; meanwhile nothing more is read for it."""
_CLOSE_TIMEOUT_S = 2.0
_SCHEMES = {"ws": "http", "http": "http", "wss": "https", "https": "https"}


class DashboardProxy:
    """``url``: the coordinator's, ws[s] or http[s]; raises UserError for anything else. Belongs to one event loop."""

    def __init__(self, url: str, token: str, tls_ca: Path | None = None) -> None:
        parts = urlsplit(url)
        try:
            is_good = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            is_good = False
        if not is_good or parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username is not None:
            raise UserError(f"{url!r} is not a coordinator's address: write for example ws://127.0.0.1:8765")
        self.url = f"{_SCHEMES[parts.scheme]}://{parts.netloc}"
        self._token = token
        self._tls: ssl.SSLContext | bool = tls_context(tls_ca) if self.url.startswith("https:") else True
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(REQUESTS_MAX)
        self._listeners: set[web.WebSocketResponse[Any]] = set()

    def start(self, is_good: Callable[[Pass], bool]) -> None:
        """``is_good``: whether what passed the gate here once would pass now."""
        self._is_good = is_good
        timeout = aiohttp.ClientTimeout(
            total=ANSWER_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=REQUESTS_MAX + LISTENERS_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            trust_env=False,
            auto_decompress=False,
        )

    async def close(self) -> None:
        await asyncio.gather(*(_close(each, 1001, b"stopping") for each in list(self._listeners)))
        if self._session is not None:
            await self._session.close()

    async def check(self) -> str:
        """Why the coordinator cannot be asked at the moment; empty if it can. Raises UserError for a refused token."""
        try:
            async with self._open("GET", "/api/v1/status", {}, None) as answer:
                await answer.read()
        except Problem as problem:
            if problem.code == "token_refused":
                raise UserError(problem.detail, ExitStatus.REFUSED) from problem
            return problem.detail
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            return self._absent(error).detail
        return ""

    def takes(self, raw_path: str) -> bool:
        return raw_path.startswith("/api/") or raw_path in PATHS

    async def answer(self, request: web.BaseRequest, passed: Pass) -> web.StreamResponse:
        """Ask the coordinator and pass on what it says. Raises Problem: 502, 503, 413."""
        path = request.raw_path.partition("?")[0]
        if path == EVENTS_PATH and request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
            return await self._follow(request, passed)
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        if (request.content_length or 0) > BODY_BYTES_MAX:
            raise _too_big()
        body = _bounded(request) if request.body_exists else None
        response: web.StreamResponse | None = None
        try:
            async with self._turns, self._open(request.method, request.raw_path, headers, body) as answer:
                response = web.StreamResponse(status=answer.status)
                for name in PASSED_BACK:
                    if name in answer.headers:
                        response.headers[name] = answer.headers[name]
                await self._copy(request, answer, response)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            if isinstance(error.__cause__, Problem):
                raise error.__cause__ from None
            if response is not None and response.prepared:
                # Half an answer must not look like a whole one.
                raise ConnectionError("the coordinator broke off its answer") from error
            raise self._absent(error) from None
        return response

    async def _copy(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, response: web.StreamResponse
    ) -> None:
        first = await answer.content.readany()
        response.headers.update(HEADERS)
        await response.prepare(request)
        if request.method == "HEAD":
            return
        while first:
            await response.write(first)
            first = await answer.content.readany()
        await response.write_eof()

    def _open(self, method: str, raw_path: str, headers: dict[str, str], body: Any) -> _Answering:
        assert self._session is not None, "the proxy is started before it is asked"
        assert raw_path.startswith("/"), "only paths of the coordinator are asked for"
        return _Answering(
            self._session.request(
                method,
                yarl.URL(self.url + raw_path, encoded=True),
                headers={**headers, hdrs.AUTHORIZATION: f"Bearer {self._token}", hdrs.ACCEPT_ENCODING: "identity"},
                data=body,
                ssl=self._tls,
                allow_redirects=False,
            ),
            self.url,
        )

    async def _follow(self, request: web.BaseRequest, passed: Pass) -> web.StreamResponse:
        """Frames of the coordinator to one browser; as slow as the browser reads, and until its user logs out."""
        if len(self._listeners) >= LISTENERS_MAX:
            raise Problem(503, "too_many_listeners", "too many listen already: close a page", {hdrs.RETRY_AFTER: "30"})
        here: web.WebSocketResponse[Any] = web.WebSocketResponse(
            compress=False, max_msg_size=4096, heartbeat=30.0, timeout=_CLOSE_TIMEOUT_S
        )
        if not here.can_prepare(request):
            raise Problem(426, "websocket_needed", "a WebSocket is spoken here", {hdrs.UPGRADE: "websocket"})
        assert self._session is not None
        try:
            there = await asyncio.wait_for(
                self._session.ws_connect(
                    yarl.URL(self.url + request.raw_path, encoded=True),
                    headers={hdrs.AUTHORIZATION: f"Bearer {self._token}"},
                    ssl=self._tls,
                    compress=0,
                    max_msg_size=FRAME_BYTES_MAX,
                    heartbeat=30.0,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
                ),
                CONNECT_TIMEOUT_S,
            )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 401:
                raise _token_refused(self.url) from None
            raise Problem(error.status, "refused", f"the coordinator refused with status {error.status}") from None
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise self._absent(error) from None
        try:
            here.headers.update(HEADERS)
            await here.prepare(request)
            self._listeners.add(here)
            await self._pump(there, here, passed)
        finally:
            self._listeners.discard(here)
            await there.close()
        if request.transport is not None and request.transport.get_write_buffer_size():
            request.transport.abort()
        return here

    async def _pump(
        self, there: aiohttp.ClientWebSocketResponse[Any], here: web.WebSocketResponse[Any], passed: Pass
    ) -> None:
        async def outwards() -> None:
            async for message in there:
                if message.type is not WSMsgType.TEXT:
                    break
                await asyncio.wait_for(here.send_str(message.data), STALLED_S)

        async def until_logged_out() -> None:
            while self._is_good(passed):
                await asyncio.sleep(CREDENTIALS_CHECK_S)

        sending = asyncio.ensure_future(outwards())
        # Browsers say nothing here but that they leave.
        reading = asyncio.ensure_future(here.receive())
        ending = asyncio.ensure_future(until_logged_out())
        try:
            await asyncio.wait({sending, reading, ending}, return_when=asyncio.FIRST_COMPLETED)
            is_ended = ending.done()
        finally:
            for task in (sending, reading, ending):
                task.cancel()
            await asyncio.gather(sending, reading, ending, return_exceptions=True)
        if is_ended:
            await _close(here, CLOSED_REVOKED, REVOKED.encode())
            return
        code = there.close_code or 1013
        await _close(here, code if code in (1000, 1001, 1008, 1013) else 1013, b"the coordinator closed this")

    def _absent(self, error: Exception) -> Problem:
        if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
            why = "its certificate is not trusted here: give its CA with --tls-ca"
        elif isinstance(error, asyncio.TimeoutError):
            why = "no answer in time"
        else:
            why = getattr(getattr(error, "os_error", error), "strerror", None) or "the connection broke"
        detail = f"the coordinator at {self.url} cannot be reached ({why}); this goes on trying"
        return Problem(503, "coordinator_absent", detail, {hdrs.RETRY_AFTER: "2"})


class _Answering:
    """One answer of the coordinator; a refused token is no matter between it and the browser."""

    def __init__(self, asking: Any, url: str) -> None:
        self._asking = asking
        self._url = url

    async def __aenter__(self) -> aiohttp.ClientResponse:
        answer: aiohttp.ClientResponse = await self._asking.__aenter__()
        if answer.status == 401:
            answer.close()
            raise _token_refused(self._url)
        return answer

    async def __aexit__(self, *how: Any) -> None:
        await self._asking.__aexit__(*how)


def _token_refused(url: str) -> Problem:
    """Not 401: the browser is logged in here, and a new login would change nothing."""
    detail = f"{url} refused the token of this dashboard: start it again with a good one"
    return Problem(502, "token_refused", detail)


async def _bounded(request: web.BaseRequest) -> AsyncIterator[bytes]:
    count = 0
    async for part in request.content.iter_any():
        count += len(part)
        if count > BODY_BYTES_MAX:
            raise _too_big()
        yield part


def _too_big() -> Problem:
    return Problem(413, "body_too_big", f"the body is larger than {BODY_BYTES_MAX} bytes")


async def _close(socket: web.WebSocketResponse[Any], code: int, reason: bytes) -> None:
    with suppress(asyncio.TimeoutError, ConnectionError, RuntimeError):
        await asyncio.wait_for(socket.close(code=code, message=reason), _CLOSE_TIMEOUT_S)
