"""Many open dashboards in one process: what the page of a run listens to and asks for; a third never reads.

Sockets that read and drop: on a machine with few cores, what these clients compute would be taken from the coordinator.
Prints at its end, as JSON, what was asked and received and the processor time that this took.

    python benchmarks/open_dashboards.py URL TOKEN_FILE RUN --count 50
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop

BREATHING = 5.0
"""As the page does: what took long is asked for less often."""
POLLS = (
    ("", 5.0),
    ("/failures", 2.0),
    ("/timeline", 1.0),
    ("/tasks?limit=500", 1.0),
    ("/tasks?sort=-duration&limit=5", 10.0),
)
CHUNK_BYTES = 256 * 1024
PONG_EVERY_S = 10.0
PONG = b"\x8a\x80" + bytes(4)
SLOW_BUFFER_BYTES = 64 * 1024
"""Of those that never read: what more is sent to them waits with the coordinator."""
_NEXT = re.compile(rb'"next":"([^"]*)"')
_LENGTH = re.compile(rb"(?i)content-length: (\d+)")


class Target(NamedTuple):
    host: str
    port: int
    token: str
    run_id: str


class Totals:
    def __init__(self) -> None:
        self.requests = self.refused = self.bytes = self.cut_off = 0
        self.longest_s = 0.0


async def connect(target: Target, *, reads: bool = True) -> socket.socket:
    opened = socket.socket()
    opened.setblocking(False)
    if not reads:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER_BYTES)
    await asyncio.get_running_loop().sock_connect(opened, (target.host, target.port))
    return opened


def request(target: Target, path: str, *headers: str) -> bytes:
    lines = (f"GET {path} HTTP/1.1", f"Host: {target.host}:{target.port}", f"Authorization: Bearer {target.token}")
    return "\r\n".join((*lines, *headers, "", "")).encode()


async def ask(opened: socket.socket, wanted: bytes, buffer: bytearray) -> tuple[int, bytes, int]:
    """The status, the last bytes and how many there were."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(opened, wanted)
    head = b""
    while b"\r\n\r\n" not in head:
        part = await loop.sock_recv(opened, 8192)
        if not part:
            raise ConnectionError("closed")
        head += part
    head, _, last = head.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    assert length is not None
    got, whole = len(last), int(length[1])
    while got < whole:
        count = await loop.sock_recv_into(opened, buffer)
        if not count:
            raise ConnectionError("closed")
        got += count
        last = bytes(buffer[max(0, count - 200) : count])
    return int(head[9:12]), last, whole


async def poll(target: Target, path: str, pause_s: float, totals: Totals) -> None:
    opened, buffer, following = await connect(target), bytearray(CHUNK_BYTES), ""
    while True:
        began = time.monotonic()
        address = f"/api/v1/runs/{target.run_id}{path}" + (f"?after={following}" if following else "")
        status, last, length = await ask(opened, request(target, address), buffer)
        found = _NEXT.search(last) if path == "/timeline" else None
        following = found[1].decode() if found is not None else following
        took_s = time.monotonic() - began
        totals.requests += 1
        totals.refused += status != 200
        totals.bytes += length
        totals.longest_s = max(totals.longest_s, took_s)
        await asyncio.sleep(max(0.0, max(pause_s, BREATHING * took_s) - took_s))


async def keep_alive(opened: socket.socket) -> None:
    """Until the coordinator has closed the connection."""
    with suppress(ConnectionError):
        while True:
            await asyncio.sleep(PONG_EVERY_S)
            await asyncio.get_running_loop().sock_sendall(opened, PONG)


async def listen(target: Target, totals: Totals, *, reads: bool) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}")
    loop, buffer = asyncio.get_running_loop(), bytearray(CHUNK_BYTES)
    while True:
        opened = await connect(target, reads=reads)
        await loop.sock_sendall(opened, request(target, "/api/v1/events", *upgrade))
        beating = asyncio.create_task(keep_alive(opened))
        with suppress(ConnectionError):
            while reads and (count := await loop.sock_recv_into(opened, buffer)):
                totals.bytes += count
        if reads:
            beating.cancel()
        else:
            await beating
        totals.cut_off += 1
        opened.close()


async def show_all(given: argparse.Namespace) -> None:
    parts = urlsplit(given.url)
    target = Target(parts.hostname or "", parts.port or 0, given.token_file.read_text().strip(), given.run)
    totals = Totals()
    working = [asyncio.create_task(listen(target, totals, reads=number % 3 != 0)) for number in range(given.count)]
    for number in range(given.count):
        if number % 3 != 0:
            working += [asyncio.create_task(poll(target, path, pause_s, totals)) for path, pause_s in POLLS]
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    await ending.wait()
    broken = [task.exception() for task in working if task.done()]
    for task in working:
        task.cancel()
    print(json.dumps({**vars(totals), "broken": [repr(error) for error in broken], "cpu_s": time.process_time()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("token_file", type=Path)
    parser.add_argument("run")
    parser.add_argument("--count", type=int, default=50)
    uvloop.run(show_all(parser.parse_args()))


if __name__ == "__main__":
    main()
