"""The dialing end of a WebSocket against servers that speak byte by byte, wrongly, or not at all."""

import asyncio
import base64
import hashlib
import os
import socket
import ssl
import struct
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from fleetest.errors import LinkClosed, RemoteProtocolError
from fleetest.transport import dialed_socket
from fleetest.transport.dialed_socket import NoHttp, NotUpgraded, dial
from fleetest.transport.websocket import WebSocketLink
from fleetest.wire import messages as wire
from fleetest.wire.codec import worker_codec

TIMEOUT_S = 30.0
BYTES_MAX = 2**21
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
SIZES = [0, 1, 3, 125, 126, 65_535, 65_536, 1_000_001]


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


def frame(opcode: int, payload: bytes = b"", *, is_last: bool = True) -> bytes:
    first, length = bytes([(0x80 if is_last else 0) | opcode]), len(payload)
    if length < 126:
        return first + bytes([length]) + payload
    if length < 2**16:
        return first + b"\x7e" + struct.pack(">H", length) + payload
    return first + b"\x7f" + struct.pack(">Q", length) + payload


async def read_frame(reader) -> tuple[int, bytes]:
    """Opcode and payload of a frame of the client; it must be whole and masked."""
    first, second = await reader.readexactly(2)
    assert first & 0xF0 == 0x80
    assert second & 0x80, "what a client sends is masked"
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", await reader.readexactly(2))
    elif length == 127:
        (length,) = struct.unpack(">Q", await reader.readexactly(8))
    mask = await reader.readexactly(4)
    masked = await reader.readexactly(length)
    return first & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked))


def upgrade_of(request: bytes) -> bytes:
    fields = dict(line.split(": ", 1) for line in request.decode().split("\r\n")[1:-2])
    assert (fields["Upgrade"], fields["Sec-WebSocket-Version"], fields["Who"]) == ("websocket", "13", "me")
    digest = hashlib.sha1(fields["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    accept = base64.b64encode(digest).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode()


@asynccontextmanager
async def serving(serve):
    """The address of a server that gives each connection to ``serve``; what that raises fails the test."""
    tasks = []

    async def accept(reader, writer):
        tasks.append(asyncio.current_task())
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"ws://127.0.0.1:{port}/path"
        await asyncio.gather(*tasks)
    finally:
        server.close()


@asynccontextmanager
async def dialed(serve, *, ping_interval_s: float = TIMEOUT_S):
    """A socket to a server that upgrades the connection and then does ``serve``."""

    async def upgrade(reader, writer):
        writer.write(upgrade_of(await reader.readuntil(b"\r\n\r\n")))
        await serve(reader, writer)

    async with serving(upgrade) as url:
        socket = await dial(url, {"Who": "me"}, None, bytes_max=BYTES_MAX, ping_interval_s=ping_interval_s)
        try:
            yield socket
        finally:
            socket.abort()


@pytest.mark.parametrize("size", SIZES)
def test_messages_of_every_length_go_both_ways(size):
    message = os.urandom(size)

    async def echo(reader, writer):
        writer.write(frame(*await read_frame(reader)))

    async def main():
        async with dialed(echo) as socket:
            await socket.send_bytes(message)
            assert await socket.receive() == message

    run(main)


def test_frames_may_come_byte_by_byte_in_parts_and_with_pings_between():
    long = os.urandom(300)

    async def serve(reader, writer):
        stream = (
            frame(BINARY, b"whole")
            + frame(BINARY, long, is_last=False)
            + frame(PING, b"are you there")
            + frame(CONTINUATION, b"", is_last=False)
            + frame(CONTINUATION, b"end")
            + frame(PONG, b"nobody asked")
            + frame(BINARY, b"")
        )
        for at in range(len(stream)):
            writer.write(stream[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)
        assert await read_frame(reader) == (PONG, b"are you there")

    async def main():
        async with dialed(serve) as socket:
            assert [await socket.receive() for _ in range(3)] == [b"whole", long + b"end", b""]

    run(main)


def test_a_message_of_all_the_bytes_may_have_pings_between_and_the_next_counts_anew():
    first = bytes(BYTES_MAX - 64)

    async def serve(reader, writer):
        for _ in range(2):
            writer.write(frame(BINARY, first, is_last=False) + frame(PING, b"x" * 125) + frame(CONTINUATION))
            assert await read_frame(reader) == (PONG, b"x" * 125)

    async def main():
        async with dialed(serve) as socket:
            assert [await socket.receive() for _ in range(2)] == [first] * 2

    run(main)


def test_a_cancelled_receive_loses_nothing():
    async def serve(reader, writer):
        writer.write(frame(BINARY, b"message")[:4])
        await read_frame(reader)
        writer.write(frame(BINARY, b"message")[4:])

    async def main():
        async with dialed(serve) as socket:
            receiving = asyncio.ensure_future(socket.receive())
            await asyncio.sleep(0)
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
            await socket.send_bytes(b"")
            assert await socket.receive() == b"message"

    run(main)


@pytest.mark.parametrize(
    ("sent", "mistake"),
    [
        (frame(TEXT, b"text"), "a text frame"),
        (b"\xc2\x00", "reserved bits"),
        (b"\x82\x81mask!", "a masked frame"),
        (frame(3), "unknown kind 3"),
        (frame(11), "unknown kind 11"),
        (frame(PING, is_last=False), "a control frame in parts"),
        (b"\x89\x7e\x00\xff", "a long control frame"),
        (frame(CONTINUATION, b"of nothing"), "out of order"),
        (frame(BINARY, b"a", is_last=False) + frame(BINARY, b"b"), "out of order"),
        (frame(CLOSE, b"x"), "half a close code"),
        (b"\x82\x7f" + struct.pack(">Q", BYTES_MAX + 1), "more than"),
        (b"\x82\x7f" + b"\xff" * 8, "more than"),
        (frame(BINARY, bytes(BYTES_MAX), is_last=False) + frame(CONTINUATION, b"b"), "more than"),
        (frame(BINARY, is_last=False) + frame(CONTINUATION, is_last=False) * (BYTES_MAX // 64 + 1), "more than"),
    ],
)
def test_whoever_breaks_the_protocol_is_told_so(sent, mistake):
    async def serve(reader, writer):
        writer.write(frame(BINARY, b"before") + sent)
        opcode, payload = await read_frame(reader)
        assert (opcode, payload[:2]) == (CLOSE, struct.pack(">H", 1002))
        assert mistake in payload[2:].decode()

    async def main():
        async with dialed(serve) as socket:
            assert await socket.receive() == b"before"
            for _ in range(2):
                with pytest.raises(RemoteProtocolError, match=mistake):
                    await socket.receive()

    run(main)


@pytest.mark.parametrize(
    ("payload", "reason", "code"),
    [
        (struct.pack(">H", 4001) + b"enough", "enough", 4001),
        (struct.pack(">H", 1000), "the peer closed the link", 1000),
        (b"", "the peer closed the link", 1005),
        (struct.pack(">H", 1011) + b"\xff", "�", 1011),
    ],
)
def test_a_peer_that_closes_says_why_and_is_answered(payload, reason, code):
    async def serve(reader, writer):
        writer.write(frame(BINARY, b"last") + frame(CLOSE, payload) + frame(BINARY, b"too late"))
        assert await read_frame(reader) == (CLOSE, payload[:2])
        assert await reader.read() == b""

    async def main():
        async with dialed(serve) as socket:
            assert await socket.receive() == b"last"
            for _ in range(2):
                with pytest.raises(LinkClosed) as caught:
                    await socket.receive()
                assert (caught.value.reason, caught.value.code, socket.close_code) == (reason, code, code)
            with pytest.raises(ConnectionError):
                await socket.send_bytes(b"")

    run(main)


def test_a_link_that_cannot_send_any_more_still_tells_why_the_peer_closed():
    async def serve(reader, writer):
        writer.write(frame(CLOSE, struct.pack(">H", 4001) + b"enough"))
        assert await read_frame(reader) == (CLOSE, struct.pack(">H", 4001))

    async def main():
        async with dialed(serve) as socket:
            link = WebSocketLink(socket, worker_codec(), "peer")
            while socket.close_code is None:
                await asyncio.sleep(0)
            link.send(wire.Draining())
            await asyncio.wait({link._writer})
            for _ in range(2):
                with pytest.raises(LinkClosed) as caught:
                    await link.receive()
                assert (caught.value.reason, caught.value.code) == ("enough", 4001)

    run(main)


def test_a_lost_connection_ends_what_waits():
    async def serve(reader, writer):
        writer.write(frame(BINARY, b"before") + frame(BINARY, b"half")[:3])

    async def main():
        async with dialed(serve) as socket:
            assert await socket.receive() == b"before"
            with pytest.raises(LinkClosed, match="lost"):
                await socket.receive()

    run(main)


def test_closing_waits_for_the_answer_and_drops_what_still_comes(monkeypatch):
    monkeypatch.setattr(dialed_socket, "QUEUED_BYTES_MAX", 100_000)
    flooded = asyncio.Event()

    async def serve(reader, writer):
        writer.write(frame(BINARY, bytes(100_000)))
        await flooded.wait()
        # More than the network takes while nobody reads.
        writer.write(frame(BINARY, bytes(BYTES_MAX)) * 10)
        assert await read_frame(reader) == (CLOSE, struct.pack(">H", 1000) + b"bye")
        await writer.drain()
        writer.write(frame(CLOSE, struct.pack(">H", 1000) + b"bye"))

    async def main():
        async with dialed(serve) as socket:
            assert len(await socket.receive()) == 100_000
            flooded.set()
            await socket.close(code=1000, message=b"bye")
            while socket._queue:
                await socket.receive()
            with pytest.raises(LinkClosed) as caught:
                await socket.receive()
            assert caught.value.code == 1000

    run(main)


def test_closing_is_not_held_up_by_what_nobody_has_taken(monkeypatch):
    monkeypatch.setattr(dialed_socket, "QUEUED_BYTES_MAX", 100_000)

    async def serve(reader, writer):
        writer.write(frame(BINARY, bytes(100_000)))
        assert await read_frame(reader) == (CLOSE, struct.pack(">H", 1000) + b"bye")
        writer.write(frame(BINARY, bytes(BYTES_MAX)) * 10 + frame(CLOSE, struct.pack(">H", 1000) + b"bye"))
        assert await reader.read() == b""

    async def main():
        async with dialed(serve) as socket:
            while not socket._is_paused:
                await asyncio.sleep(0)
            await socket.close(code=1000, message=b"bye")
            assert socket.close_code == 1000

    run(main)


def test_nothing_more_is_read_while_much_waits_and_all_of_it_arrives(monkeypatch):
    monkeypatch.setattr(dialed_socket, "QUEUED_BYTES_MAX", 100_000)
    count = 400

    async def serve(reader, writer):
        for number in range(count):
            writer.write(frame(BINARY, struct.pack(">I", number) + bytes(100_000)))
        assert await read_frame(reader) == (BINARY, b"all")

    async def main():
        async with dialed(serve) as socket:
            while socket._transport.is_reading():
                await asyncio.sleep(0)
            assert 100_000 <= socket._queued_bytes < 1_000_000
            assert [struct.unpack(">I", (await socket.receive())[:4])[0] for _ in range(count)] == list(range(count))
            await socket.send_bytes(b"all")

    run(main)


def test_empty_messages_that_nobody_takes_are_bounded_too(monkeypatch):
    monkeypatch.setattr(dialed_socket, "QUEUED_BYTES_MAX", 100_000)
    count = 400_000

    async def serve(reader, writer):
        writer.write(frame(BINARY) * count)
        assert await read_frame(reader) == (BINARY, b"all")

    async def main():
        async with dialed(serve) as socket:
            while socket._transport.is_reading() and len(socket._queue) < count:
                await asyncio.sleep(0)
            assert len(socket._queue) < count // 2
            for _ in range(count):
                assert await socket.receive() == b""
            assert socket._queued_bytes == 0
            await socket.send_bytes(b"all")

    run(main)


def test_a_peer_that_answers_no_ping_is_gone():
    async def serve(reader, writer):
        assert await read_frame(reader) == (PING, b"")
        writer.write(frame(PONG))
        assert await read_frame(reader) == (PING, b"")
        await reader.read()

    async def main():
        async with dialed(serve, ping_interval_s=0.05) as socket:
            with pytest.raises(LinkClosed, match="the connection was lost"):
                await socket.receive()

    run(main)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nFleetest-Role-Needed: worker\r\n\r\n", NotUpgraded),
        (b"HTTP/1.1 200 OK\r\n\r\n", NotUpgraded),
        (b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: no\r\n\r\n", NoHttp),
        (b"HTTP/1.1 ???\r\n\r\n", NoHttp),
        (b"220 mail.example ESMTP\r\n", NoHttp),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 2**17, NoHttp),
        (b"HTTP/1.1 200 OK\r\nhalf", NoHttp),
        (b"", NoHttp),
    ],
)
def test_what_is_no_websocket_is_told_apart(answer, error):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async def main():
        async with serving(serve) as url:
            with pytest.raises(error) as caught:
                await dial(url, {}, None, bytes_max=BYTES_MAX, ping_interval_s=TIMEOUT_S)
        if isinstance(caught.value, NotUpgraded):
            assert caught.value.status == int(answer[9:12])
            assert caught.value.headers.get("fleetest-role-needed") == ("worker" if b"401" in answer else None)
        else:
            assert caught.value.is_silent == (not answer)

    run(main)


@pytest.mark.parametrize("host", ["a" * 64, "no-such-host.invalid"])
def test_a_host_that_cannot_be_is_an_error_of_the_system(host):
    async def main():
        with pytest.raises(OSError):
            await dial(f"ws://{host}:1/", {}, None, bytes_max=BYTES_MAX, ping_interval_s=TIMEOUT_S)

    run(main)


@pytest.mark.parametrize(
    ("url", "said", "server_name"),
    [
        ("ws://Rack-7.example.:80/v1", "rack-7.example", None),
        ("ws://rack-7.example:443/v1", "rack-7.example:443", None),
        ("wss://rack-7.example.:443/v1", "rack-7.example", "rack-7.example"),
        ("wss://rack-7.example:80/v1", "rack-7.example:80", "rack-7.example"),
        ("wss://b\xfccher.example./v1", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("wss://[::1]/v1", "[::1]", "::1"),
        ("ws://[::1]:8765/v1", "[::1]:8765", None),
    ],
)
def test_the_host_is_named_as_servers_and_certificates_write_it(monkeypatch, url, said, server_name):
    names, heard = [], []

    async def serve(reader, writer):
        heard.extend((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    async def main():
        loop = asyncio.get_running_loop()

        async def resolved(*_, **__):
            return []

        async with serving(serve) as here:
            address = urlsplit(here)

            async def connected(_, **__):
                return socket.create_connection((address.hostname, address.port))

            async def without_tls(protocol, *, sock, ssl, server_hostname):
                names.append(server_hostname)
                return await create_connection(protocol, sock=sock)

            create_connection = loop.create_connection
            monkeypatch.setattr(loop, "getaddrinfo", resolved)
            monkeypatch.setattr(loop, "create_connection", without_tls)
            monkeypatch.setattr(dialed_socket.aiohappyeyeballs, "start_connection", connected)
            tls = ssl.create_default_context() if url.startswith("wss:") else None
            with pytest.raises(NotUpgraded):
                await dial(url, {}, tls, bytes_max=BYTES_MAX, ping_interval_s=TIMEOUT_S)

    run(main)
    assert [line for line in heard if line.lower().startswith("host:")] == [f"Host: {said}"]
    assert names == [server_name]
