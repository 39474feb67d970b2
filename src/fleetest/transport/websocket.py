"""Links over WebSocket: one binary frame carries an array of messages; both sides.

Frames are never compressed: what travels is small or already compact, and a compressed frame can be a bomb.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from fleetest.errors import ExitStatus, LinkClosed, RemoteProtocolError, UserError
from fleetest.transport.dialed_socket import NoHttp, NotUpgraded, dial
from fleetest.transport.identity import Identity, Role
from fleetest.wire.codec import FRAME_BYTES_MAX, Codec, VersionMismatch, client_codec, worker_codec
from fleetest.wire.messages import (
    AttemptsFinished,
    ClientMessage,
    CoordinatorMessage,
    CoordinatorToClient,
    TasksFinished,
    WorkerMessage,
)

_log = logging.getLogger("fleetest.transport")

Incoming = TypeVar("Incoming")
Outgoing = TypeVar("Outgoing")

WORKER_PATH = "/v1/worker"
CLIENT_PATH = "/v1/client"
PING_INTERVAL_S = 30.0
"""A peer whose pong stays away for half of this is gone. Only a second signal: leases live by heartbeats."""
ROLE_NEEDED = "Fleetest-Role-Needed"
"""Header of a refused upgrade: dialers see no body."""
CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
HIGH_WATER_MESSAGES = 1000
"""``drain`` waits while more than this many messages are not yet written."""
BACKLOG_BYTES_MAX = 256 * 1024 * 1024
"""A client that reads so slowly that this much waits for it is cut off; nothing else ever waits for it."""
CLOSED_TOO_SLOW = 1013
CLOSED_PROTOCOL_ERROR = 1002
CLOSED_TOO_BIG = 1009
CLOSED_INTERNAL_ERROR = 1011


class MessageSocket(Protocol):
    """One open WebSocket, of either side."""

    async def receive(self) -> bytes:
        """The next binary message; may be cancelled. Raises LinkClosed, or RemoteProtocolError for anything else."""

    async def send_bytes(self, message: bytes) -> None:
        """Returns once the network has taken enough of it. Raises ConnectionError or RuntimeError."""

    async def close(self, *, code: int, message: bytes) -> object:
        """Say so, wait for the peer's answer, release the connection."""


class Unreachable(UserError):
    """Nothing that answers like a coordinator is there now; it may be later."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitStatus.UNREACHABLE)


class WebSocketLink(Generic[Incoming, Outgoing]):
    """One end over an open WebSocket. A task of its own writes, so that ``send`` never waits."""

    def __init__(
        self,
        socket: MessageSocket,
        codec: Codec[Incoming, Outgoing],
        peer: str,
        *,
        transport: asyncio.Transport | None = None,
        backlog_bytes_max: int | None = None,
        identity: Identity | None = None,
    ) -> None:
        """``identity``: whose token the peer showed. ``transport`` is cut if the peer does not take its last words."""
        self.peer = peer
        self.identity = identity
        self._socket = socket
        self._codec = codec
        self._transport = transport
        self._backlog_bytes_max = backlog_bytes_max
        self._backlog_bytes = 0
        self._outbox: list[Outgoing] = []
        self._in_flight = 0
        """Messages that the writer has taken and not yet written."""
        self._closed: LinkClosed | None = None
        self._guess: LinkClosed | None = None
        """What the writer takes the end for; a close of the peer may still be there to be read."""
        self._wake: asyncio.Future[None] | None = None
        self._drainers: list[asyncio.Future[None]] = []
        self._closing: asyncio.Task[None] | None = None
        self._writer = asyncio.get_running_loop().create_task(self._write())

    def send(self, message: Outgoing) -> None:
        if self._closed is not None:
            return
        self._outbox.append(message)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        elif self._in_flight and self._backlog_bytes_max is not None:
            self._backlog_bytes += _weight(message)
            if self._backlog_bytes > self._backlog_bytes_max:
                self._cut_off("it did not read what was sent to it", CLOSED_TOO_SLOW)

    async def drain(self) -> None:
        while self._closed is None and len(self._outbox) + self._in_flight > HIGH_WATER_MESSAGES:
            waiter = asyncio.get_running_loop().create_future()
            self._drainers.append(waiter)
            await waiter

    async def receive(self) -> Sequence[Incoming]:
        try:
            frame = await self._socket.receive()
        except RemoteProtocolError as error:
            await self.close(str(error), CLOSED_PROTOCOL_ERROR)
            raise
        except LinkClosed as closed:
            if self._closed is self._guess:
                self._closed = None
            self._stop_sending(closed)
            await self._release()
            assert self._closed is not None
            raise LinkClosed(self._closed.reason, self._closed.code) from None
        try:
            return self._codec.decode(frame)
        except VersionMismatch:
            raise  # The caller still has a word to say: Refused.
        except RemoteProtocolError as error:
            await self.close(str(error), CLOSED_PROTOCOL_ERROR)
            raise

    async def close(self, reason: str = "", code: int = 1000) -> None:
        await asyncio.shield(self._close_soon(reason, code))

    def _close_soon(self, reason: str, code: int) -> asyncio.Task[None]:
        self._guess = None
        self._stop_sending(LinkClosed(reason, code))
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(reason, code))
        return self._closing

    async def _close(self, reason: str, code: int) -> None:
        """Whatever the peer does, this ends within about twice ``CLOSE_TIMEOUT_S``."""
        await asyncio.wait({self._writer}, timeout=CLOSE_TIMEOUT_S)
        text = reason.encode("utf-8", "replace")[:120].decode("utf-8", "ignore").encode()
        with suppress(asyncio.TimeoutError, ConnectionError, RuntimeError):
            await asyncio.wait_for(self._socket.close(code=code, message=text), CLOSE_TIMEOUT_S)
        if self._transport is not None and self._transport.get_write_buffer_size():
            self._transport.abort()
        await self._release()

    def _cut_off(self, reason: str, code: int) -> None:
        """Without last words: the peer would not read them either."""
        self._outbox.clear()
        self._writer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._close_soon(reason, code)

    def _stop_sending(self, closed: LinkClosed) -> None:
        if self._closed is None:
            self._closed = closed
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        self._wake_drainers()

    async def _release(self) -> None:
        self._writer.cancel()
        await asyncio.wait({self._writer})
        self._wake_drainers()

    async def _write(self) -> None:
        """Messages sent in one turn of the loop leave in one frame."""
        try:
            while True:
                if not self._outbox:
                    if self._closed is not None:
                        return
                    self._wake = asyncio.get_running_loop().create_future()
                    await self._wake
                    self._wake = None
                    continue
                messages, self._outbox = self._outbox, []
                self._in_flight = len(messages)
                self._backlog_bytes = 0
                for frame in self._codec.encode(messages):
                    await self._socket.send_bytes(frame)
                self._in_flight = 0
                self._wake_drainers()
        except (ConnectionError, RuntimeError):
            # The peer is gone; receive says so. What was queued went nowhere, as on any lost link.
            self._guess = LinkClosed("the connection was lost")
            self._stop_sending(self._guess)
        except RemoteProtocolError as error:
            self._close_soon(f"cannot be sent: {error}", CLOSED_TOO_BIG)
        except Exception as error:
            # Our own mistake, and nobody awaits this task: the link must not just fall silent.
            _log.exception("cannot write to %s", self.peer)
            self._close_soon(f"internal error: {error}", CLOSED_INTERNAL_ERROR)

    def _wake_drainers(self) -> None:
        waiters, self._drainers = self._drainers, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


async def connect_worker(
    url: str, token: str, *, tls_ca: Path | None = None
) -> WebSocketLink[CoordinatorMessage, WorkerMessage]:
    """Dial ``ws://host:port`` or ``wss://host:port`` as a worker.

    Raises Unreachable if nobody is there (trying again may help), UserError if this side was refused.
    """
    return await _connect(url, WORKER_PATH, token, tls_ca, worker_codec())


async def connect_client(
    url: str, token: str, *, tls_ca: Path | None = None
) -> WebSocketLink[CoordinatorToClient, ClientMessage]:
    """Dial as a client; see :func:`connect_worker`."""
    return await _connect(url, CLIENT_PATH, token, tls_ca, client_codec())


async def _connect(
    url: str, path: str, token: str, tls_ca: Path | None, codec: Codec[Incoming, Outgoing]
) -> WebSocketLink[Incoming, Outgoing]:
    base = check_url(url)
    tls = tls_context(tls_ca) if base.startswith("wss:") else None
    try:
        socket = await asyncio.wait_for(
            dial(
                base + path,
                {"Authorization": f"Bearer {token}"},
                tls,
                bytes_max=FRAME_BYTES_MAX,
                ping_interval_s=PING_INTERVAL_S,
            ),
            CONNECT_TIMEOUT_S,
        )
    except (NotUpgraded, NoHttp, OSError, asyncio.TimeoutError) as error:
        raise _user_error(base, error) from error
    return WebSocketLink(socket, codec, base)


def check_url(url: str) -> str:
    """``url`` without its trailing slash. Raises UserError unless it is ``ws[s]://host[:port]``."""
    parts = urlsplit(url)
    try:
        is_good = parts.scheme in {"ws", "wss"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_good = False
    if not is_good or parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username is not None:
        raise UserError(f"not a coordinator's address: {url!r}; it looks like ws://127.0.0.1:8765 or wss://host:port")
    return f"{parts.scheme}://{parts.netloc}"


def tls_context(tls_ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=tls_ca)
    except (OSError, ssl.SSLError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise UserError(f"cannot read the certificates in {tls_ca}: {reason}") from error


def _user_error(url: str, error: Exception) -> UserError:
    if isinstance(error, NotUpgraded):
        return _refusal(url, error)
    if isinstance(error, ssl.SSLCertVerificationError):
        message = f"{url}: its certificate is not trusted here ({error.verify_message}); give its CA with --tls-ca"
        return UserError(message, ExitStatus.REFUSED)
    if isinstance(error, NoHttp) and error.is_silent and url.startswith("ws:"):
        return Unreachable(f"{url} closed the connection at once: does it speak TLS (wss://)?")
    if isinstance(error, asyncio.TimeoutError):
        return Unreachable(f"cannot reach the coordinator at {url}: no answer within {CONNECT_TIMEOUT_S:.0f} s")
    return Unreachable(f"cannot reach the coordinator at {url}: {_cause(error)}; is it running there?")


def _refusal(url: str, error: NotUpgraded) -> UserError:
    if error.status == 401:
        message = (
            f"{url} refused the token: give the token file of that coordinator with --token-file,"
            " or its data directory with --data"
        )
        return UserError(message, ExitStatus.REFUSED)
    role = error.headers.get(ROLE_NEEDED.lower(), "")
    if role in {known.value for known in Role}:
        message = f"{url} refused: this needs a token of role {role!r}, such as {role}.token of its data directory"
        return UserError(message, ExitStatus.REFUSED)
    if error.status == 429:
        wait_s = error.headers.get("retry-after", "60")[:20]
        return Unreachable(f"{url}: too many wrong tokens from this address: try again in {wait_s} s")
    if error.status in {400, 403}:
        message = f"{url} refused this address: start the coordinator with --public-host for the name used here"
        return UserError(message, ExitStatus.REFUSED)
    return Unreachable(f"{url} is not a coordinator: it answered with HTTP status {error.status}")


def _cause(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    code = getattr(error, "errno", None)
    is_system_error = isinstance(code, int) and code in errno.errorcode
    return (os.strerror(code) if is_system_error and code is not None else str(error)) or type(error).__name__


def _weight(message: object) -> int:
    """Roughly the bytes of a queued message; exact enough to bound a backlog."""
    if isinstance(message, TasksFinished):
        results = [outcome.result for outcome in message.outcomes]
    elif isinstance(message, AttemptsFinished):
        results = list(message.results)
    else:
        return 500
    return sum(500 + len(result.reports or b"") + len(result.output) if result else 200 for result in results)
