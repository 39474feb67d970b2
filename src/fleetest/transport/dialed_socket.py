"""The dialing end of a WebSocket on asyncio alone: what a client of a coordinator needs of RFC 6455, and no more.

The client of each ``pytest --fleet`` dials once. A whole HTTP stack takes longer to import than all the rest of it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import ssl
import struct
from collections import deque
from collections.abc import Mapping
from enum import IntEnum
from typing import cast
from urllib.parse import urlsplit

import aiohappyeyeballs

from fleetest.errors import LinkClosed, RemoteProtocolError

ANSWER_BYTES_MAX = 64 * 1024
"""Status line and headers."""
QUEUED_BYTES_MAX = 16 * 1024 * 1024
"""Nothing more is read while so much waits for ``receive``."""
_NEXT_ADDRESS_S = 0.25
"""A host may have several addresses: the next one is tried while the one before has not answered."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTROL_BYTES_MAX = 125
_FRAME_BYTES = 64
"""What a message, or a fragment of one, counts beside its length while it waits: empty ones are bounded too."""
_PROTOCOL_ERROR = 1002
_DEFAULT_PORTS = {"ws": 80, "wss": 443}
_NO_STATUS = 1005
_LOST = 1006


class _Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class NotUpgraded(Exception):
    """What answers speaks HTTP and does not open a WebSocket. Names of ``headers`` are in lower case."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status
        self.headers = headers


class NoHttp(Exception):
    """What answers does not speak HTTP, or closed the connection without an answer (``is_silent``)."""

    def __init__(self, message: str, *, is_silent: bool = False) -> None:
        super().__init__(message)
        self.is_silent = is_silent


async def dial(
    url: str, headers: Mapping[str, str], tls: ssl.SSLContext | None, *, bytes_max: int, ping_interval_s: float
) -> DialedSocket:
    """Open ``ws[s]://host[:port]/path``, directly: no proxy, no redirect, no compression.

    Messages of more than ``bytes_max`` end the connection. Raises NotUpgraded, NoHttp, OSError (ssl.SSLError too).
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    loop = asyncio.get_running_loop()
    try:
        name = _name(parts.hostname)
        addresses = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "no such host can be") from error
    connection = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S)
    _, dialed = await loop.create_connection(
        lambda: DialedSocket(bytes_max, ping_interval_s),
        sock=connection,
        ssl=tls,
        server_hostname=name if tls is not None else None,
    )
    try:
        await dialed.upgrade(_host(name, port, parts.scheme), parts.path, headers)
    except BaseException:
        dialed.abort()
        raise
    return dialed


def _name(hostname: str) -> str:
    """As servers and certificates write it. Raises UnicodeError."""
    name = hostname.removesuffix(".")
    return name if name.isascii() else name.encode("idna").decode()


def _host(name: str, port: int, scheme: str) -> str:
    """What the header Host says."""
    host = f"[{name}]" if ":" in name else name
    return host if port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"


class DialedSocket(asyncio.Protocol):
    """One open connection. ``receive`` may be cancelled at any time: no message is lost by that."""

    def __init__(self, bytes_max: int, ping_interval_s: float) -> None:
        self.close_code: int | None = None
        self._loop = asyncio.get_running_loop()
        self._bytes_max = bytes_max
        self._ping_interval_s = ping_interval_s
        self._transport: asyncio.Transport | None = None
        self._unread = bytearray()
        self._is_open = False
        """The answer to the upgrade has been read: what follows are frames."""
        self._fragments: list[bytes] = []
        """Of a message whose last frame has not come."""
        self._fragmented_bytes = 0
        self._is_fragmented = False
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._is_paused = False
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._end: Exception | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._has_sent_close = False
        self._heard_at = self._loop.time()
        self._is_pinged = False
        self._watch: asyncio.TimerHandle | None = None

    # asyncio.Protocol -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports inherit from it.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(LinkClosed(f"the connection broke: {exc}" if exc else "the connection was lost", _LOST))
        self._transport = None
        self.resume_writing()
        if not self._lost.done():
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._heard_at, self._is_pinged = self._loop.time(), False
        self._unread += data
        if not self._is_open:
            self._wake()
            return
        self._cut_frames()

    # The upgrade ----------------------------------------------------------------------------------------------------

    async def upgrade(self, host: str, path: str, headers: Mapping[str, str]) -> None:
        """Raises NotUpgraded, NoHttp."""
        assert self._transport is not None
        key = base64.b64encode(os.urandom(16))
        fields = {
            "Host": host,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key.decode(),
            "Sec-WebSocket-Version": "13",
            **headers,
        }
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        assert not any("\r" in line or "\n" in line for line in lines), "one line of a request may not become two"
        self._transport.write("".join(line + "\r\n" for line in [*lines, ""]).encode())
        status, answer = await self._read_answer()
        accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
        if status != 101 or answer.get("upgrade", "").lower() != "websocket":
            raise NotUpgraded(status, answer)
        if answer.get("sec-websocket-accept") != accept:
            raise NoHttp("it answers the opening of a WebSocket as if it were another one")
        self._is_open = True
        self._watch_silence()
        self._cut_frames()

    async def _read_answer(self) -> tuple[int, dict[str, str]]:
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            if self._end is not None:
                raise NoHttp("it closed the connection without an answer", is_silent=not self._unread)
            if len(self._unread) > ANSWER_BYTES_MAX or not b"HTTP/".startswith(bytes(self._unread[:5])):
                raise NoHttp("it does not speak HTTP")
            await self._wait_for_arrival()
        first, *lines = self._unread[:end].decode("latin-1").split("\r\n")
        del self._unread[: end + 4]
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
            raise NoHttp("it does not speak HTTP")
        fields = (line.partition(":") for line in lines)
        return int(rest[:3]), {name.strip().lower(): value.strip() for name, _, value in fields}

    # Messages -------------------------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """The next message. Raises LinkClosed, or RemoteProtocolError if the peer broke the protocol."""
        while not self._queue:
            if self._end is not None:
                raise self._end
            await self._wait_for_arrival()
        message = self._queue.popleft()
        self._queued_bytes -= len(message) + _FRAME_BYTES
        if self._queued_bytes < QUEUED_BYTES_MAX:
            self._read_on()
        return message

    async def send_bytes(self, message: bytes) -> None:
        """Returns once the network has taken enough of it. Raises ConnectionError."""
        if self._transport is None or self._transport.is_closing() or self._has_sent_close:
            raise ConnectionResetError("the connection is closed")
        self._send_frame(_Opcode.BINARY, message)
        if self._room is not None:
            await self._room

    async def close(self, *, code: int, message: bytes) -> None:
        """Say so, and wait until the peer has; what it still sends is dropped. Cancelled, the connection is cut off."""
        try:
            self._send_close(code, message)
            self._read_on()
            if self._transport is not None:
                await asyncio.shield(self._lost)
        finally:
            self.abort()

    def abort(self) -> None:
        """End the connection now."""
        self._finish(LinkClosed("the link was closed here"))
        if self._transport is not None:
            self._transport.abort()

    def _read_on(self) -> None:
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._heard_at = self._loop.time()
            self._transport.resume_reading()

    # Frames ---------------------------------------------------------------------------------------------------------

    def _cut_frames(self) -> None:
        try:
            while self._end is None and self._cut_frame():
                pass
        except RemoteProtocolError as error:
            self._finish(error)
            self._send_close(_PROTOCOL_ERROR, str(error).encode())
        if self._end is not None:
            self._unread.clear()
        is_full = self._queued_bytes >= QUEUED_BYTES_MAX
        # Once this side has closed, nothing more is queued, and the peer's answer is waited for.
        if is_full and not self._has_sent_close and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def _cut_frame(self) -> bool:
        """Take in one frame; False if it has not come as a whole."""
        unread = self._unread
        if len(unread) < 2:
            return False
        if unread[0] & 0x70:
            raise RemoteProtocolError("a frame with reserved bits")
        if unread[1] & 0x80:
            raise RemoteProtocolError("a masked frame")
        length, begin = unread[1], 2
        if length > _CONTROL_BYTES_MAX:
            if unread[0] & 0x08:
                raise RemoteProtocolError("a long control frame")
            form, size = ("!H", 2) if length == 126 else ("!Q", 8)
            if len(unread) < 2 + size:
                return False
            (length,) = struct.unpack_from(form, unread, 2)
            begin += size
        if not unread[0] & 0x08 and length + self._fragmented_bytes > self._bytes_max:
            raise RemoteProtocolError(f"a message of more than {self._bytes_max} bytes")
        if len(unread) < begin + length:
            return False
        with memoryview(unread) as view:
            payload = bytes(view[begin : begin + length])
        is_last, opcode = bool(unread[0] & 0x80), unread[0] & 0x0F
        del unread[: begin + length]
        self._take_frame(opcode, payload, is_last)
        return True

    def _take_frame(self, opcode: int, payload: bytes, is_last: bool) -> None:
        if opcode >= _Opcode.CLOSE and not is_last:
            raise RemoteProtocolError("a control frame in parts")
        if opcode in (_Opcode.CONTINUATION, _Opcode.BINARY):
            if (opcode == _Opcode.CONTINUATION) != self._is_fragmented:
                raise RemoteProtocolError("frames out of order")
            self._is_fragmented = not is_last
            if not is_last:
                self._fragments.append(payload)
                self._fragmented_bytes += len(payload) + _FRAME_BYTES
                return
            if self._fragments:
                payload = b"".join([*self._fragments, payload])
                self._fragments.clear()
                self._fragmented_bytes = 0
            if not self._has_sent_close:
                self._queue.append(payload)
                self._queued_bytes += len(payload) + _FRAME_BYTES
                self._wake()
        elif opcode == _Opcode.TEXT:
            raise RemoteProtocolError("a text frame")
        elif opcode == _Opcode.PING:
            self._send_frame(_Opcode.PONG, payload)
        elif opcode == _Opcode.CLOSE:
            self._take_close(payload)
        elif opcode != _Opcode.PONG:
            raise RemoteProtocolError(f"a frame of unknown kind {opcode}")

    def _take_close(self, payload: bytes) -> None:
        if len(payload) == 1:
            raise RemoteProtocolError("half a close code")
        code = struct.unpack("!H", payload[:2])[0] if payload else _NO_STATUS
        self.close_code = code
        self._finish(LinkClosed(payload[2:].decode("utf-8", "replace") or "the peer closed the link", code))
        self._send_close(code if payload else None)
        if self._transport is not None:
            self._transport.close()

    def _send_close(self, code: int | None, reason: bytes = b"") -> None:
        if not self._has_sent_close:
            payload = b"" if code is None else struct.pack("!H", code) + reason[: _CONTROL_BYTES_MAX - 2]
            self._send_frame(_Opcode.CLOSE, payload)
            self._has_sent_close = True

    def _send_frame(self, opcode: _Opcode, payload: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        length = len(payload)
        if length <= _CONTROL_BYTES_MAX:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        elif length < 1 << 16:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
        mask = os.urandom(4)
        self._transport.write(b"".join((head, mask, _masked(payload, mask))))

    # Endings --------------------------------------------------------------------------------------------------------

    def _watch_silence(self) -> None:
        """Ask a silent peer whether it is there; one that does not answer within half of the interval is gone."""
        if self._end is not None or self._transport is None:
            return
        pause_s = self._heard_at + self._ping_interval_s - self._loop.time()
        if self._is_paused:
            # It is we who do not listen.
            pause_s = self._ping_interval_s
        elif self._is_pinged:
            self._finish(LinkClosed("the connection was lost", _LOST))
            self._transport.abort()
            return
        elif pause_s <= 0:
            self._send_frame(_Opcode.PING, b"")
            self._is_pinged = True
            pause_s = self._ping_interval_s / 2
        self._watch = self._loop.call_later(pause_s, self._watch_silence)

    def _finish(self, end: Exception) -> None:
        """Nothing more is received than what is queued."""
        if self._end is not None:
            return
        self._end = end
        if self.close_code is None and isinstance(end, LinkClosed):
            self.close_code = end.code
        if self._watch is not None:
            self._watch.cancel()
        self._wake()

    def _wake(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None and not arrival.done():
            arrival.set_result(None)

    async def _wait_for_arrival(self) -> None:
        assert self._arrival is None or self._arrival.done(), "one waits at a time"
        self._arrival = self._loop.create_future()
        await self._arrival


def _masked(payload: bytes, mask: bytes) -> bytes:
    """``payload`` with the four bytes of ``mask`` added over and over, in a few steps whatever its length."""
    length = len(payload)
    repeated = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(length, "little")
