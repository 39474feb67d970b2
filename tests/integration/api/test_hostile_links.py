"""What a holder of a good token tries over a link: frames that are none, messages out of turn, leases of others.

There is no attack with archives here: no workspace is ever uploaded, so that nothing is unpacked.
"""

import asyncio
import json
import os
import struct
from contextlib import suppress
from pathlib import Path

import aiohttp
import msgspec
import pytest

from fleetest.core.model import AttemptResult, Capabilities, LeaseId, Verdict
from fleetest.core.suite_planning import fingerprint_of
from fleetest.errors import LinkClosed
from fleetest.transport.audit import LIMITED_LINES_MAX
from fleetest.transport.identity import Role
from fleetest.transport.websocket import CLIENT_PATH, WORKER_PATH, connect_worker
from fleetest.wire import messages as wire
from fleetest.wire.codec import FRAME_BYTES_MAX

TIMEOUT_S = 120.0
BINARY, CONTINUATION, CLOSE = 2, 0, 8
GROWTH_BYTES_MAX = 32 * 2**20
LINKS = [(WORKER_PATH, Role.WORKER, FRAME_BYTES_MAX), (CLIENT_PATH, Role.SUBMIT, FRAME_BYTES_MAX),
         ("/api/v1/events", Role.VIEW, 4096)]  # fmt: skip


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


def header(opcode: int, length: int, *, is_last: bool = True) -> bytes:
    """Of a masked frame, with a mask of zeros."""
    first = bytes([(0x80 if is_last else 0) | opcode])
    if length < 126:
        return first + bytes([0x80 | length]) + bytes(4)
    return first + bytes([0x80 | 127]) + struct.pack(">Q", length) + bytes(4)


async def upgraded(served, path: str, role: Role):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {served.tokens[role]}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def close_code(reader) -> int:
    """The code of the close frame; other frames before it are read past."""
    while True:
        first, length = await reader.readexactly(2)
        if length == 126:
            [length] = struct.unpack(">H", await reader.readexactly(2))
        elif length == 127:
            [length] = struct.unpack(">Q", await reader.readexactly(8))
        payload = await reader.readexactly(length)
        if first & 0xF == CLOSE:
            return int.from_bytes(payload[:2], "big")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("path", "role", "limit"), LINKS)
@pytest.mark.parametrize("excess", ["one", "2^62", "2^64"])
def test_a_frame_that_announces_too_much_is_refused_by_its_header(serve, path, role, limit, excess):
    """A20"""

    async def main():
        async with serve() as served:
            reader, writer = await upgraded(served, path, role)
            before = resident_bytes()
            writer.write(header(BINARY, {"one": limit + 1, "2^62": 2**62, "2^64": 2**64 - 1}[excess]))
            assert await close_code(reader) == 1009
            assert resident_bytes() - before < GROWTH_BYTES_MAX
            writer.close()

    run(main)


@pytest.mark.parametrize(("path", "role", "limit"), LINKS)
def test_parts_without_end_take_no_memory_and_others_are_served_meanwhile(serve, path, role, limit):
    """A20: a message in a great many empty parts, and one whose parts are too much together."""

    async def main():
        async with serve() as served:
            reader, writer = await upgraded(served, path, role)
            writer.write(header(BINARY, 0, is_last=False))
            before = resident_bytes()
            for _ in range(100):
                writer.write(header(CONTINUATION, 0, is_last=False) * 1000)
                await writer.drain()
                assert (await served.ask("GET", "/healthz", None)).status == 200
            assert resident_bytes() - before < GROWTH_BYTES_MAX
            part = header(CONTINUATION, limit // 4, is_last=False) + bytes(limit // 4)
            for _ in range(4):
                writer.write(part)
            assert await close_code(reader) == 1009
            writer.close()

    run(main)


HELLO = {"type": "WorkerHello", "version": wire.PROTOCOL_VERSION, "name": "w", "session": "s", "slots": 1,
         "capabilities": {"attributes": {}, "resources": {}}}  # fmt: skip


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "Heartbeat"}],
        [{"type": "NoSuchThing"}],
        [{"type": "ClientHello", "version": wire.PROTOCOL_VERSION}],
        [{**HELLO, "surprise": 1}],
        [{**HELLO, "slots": 10**9}],
        [{**HELLO, "name": "\x1b[2J"}],
        [{**HELLO, "version": wire.PROTOCOL_VERSION + 1}],
        [HELLO, HELLO],
        [],
        {},
        None,
    ],
    ids=["out of turn", "unknown", "of the other link", "field", "slots", "name", "version", "twice", "none", "map",
         "nil"],
)  # fmt: skip
def test_a_message_that_may_not_come_closes_that_link_with_the_reason(serve, messages):
    """A24"""

    async def main():
        async with serve() as served:
            headers = {"Authorization": f"Bearer {served.tokens[Role.WORKER]}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                socket = await session.ws_connect(served.url + WORKER_PATH)
                await socket.send_bytes(msgspec.msgpack.encode(messages))
                while (message := await socket.receive()).type is aiohttp.WSMsgType.BINARY:
                    pass
                assert message.type is aiohttp.WSMsgType.CLOSE
                assert socket.close_code == 1002
                assert message.extra
            assert (await served.ask("GET", "/healthz", None)).status == 200

    run(main)


async def join(served, name: str):
    link = await connect_worker(served.ws_url, served.tokens[Role.WORKER])
    link.send(
        wire.WorkerHello(
            version=wire.PROTOCOL_VERSION, name=name, session=f"session of {name}", slots=1, capabilities=Capabilities()
        )
    )
    assert isinstance((await link.receive())[0], wire.Welcome)
    return link


async def next_of(link, kind):
    while True:
        for message in await link.receive():
            if isinstance(message, kind):
                return message


async def submit(served, **fields) -> str:
    command = {"name": "a", "argv": ["true"], **fields}
    body = {"suites": [{"kind": "commands", "commands": [command]}]}
    answer = await served.ask("POST", "/api/v1/runs", body=body)
    assert answer.status in {200, 201, 202}, answer.body
    return answer.value["run_id"]


async def first_lease(link, run_id: str):
    [suite] = (await next_of(link, wire.PrepareRun)).suites
    fingerprint = fingerprint_of(task.task_id for task in suite.tasks)
    link.send(wire.SuiteCollected(run_id=run_id, suite=suite.name, fingerprint=fingerprint, count=1))
    return (await next_of(link, wire.GrantLeases)).leases[0]


async def end(link) -> None:
    """Everything that was sent before has been looked at when this returns."""
    link.send(wire.Goodbye())
    with suppress(LinkClosed):
        while True:
            await link.receive()
    await link.close()


def stale_lines(served) -> list[dict]:
    lines = map(json.loads, (served.data / "audit.jsonl").read_text().splitlines())
    return [line for line in lines if line["action"] == "stale results"]


def test_a_worker_touches_only_the_leases_that_it_holds(serve):
    """A28"""

    async def main():
        async with serve() as served:
            holder = await join(served, "holder")
            run_id = await submit(served)
            lease = await first_lease(holder, run_id)
            thief = await join(served, "thief")
            guesses = [lease.lease_id, *(LeaseId(lease.lease_id + number) for number in range(1, 200))]
            thief.send(wire.AttemptsStarted(leases=tuple((each, 0.0) for each in guesses)))
            thief.send(wire.Heartbeat(held_leases=tuple(guesses)))
            thief.send(wire.LeasesReturned(lease_ids=tuple(guesses)))
            thief.send(wire.InfrastructureFailed(lease_ids=tuple(guesses), reason="stolen"))
            for _ in range(LIMITED_LINES_MAX + 10):
                thief.send(wire.AttemptsFinished(results=[AttemptResult(each, Verdict.FAILED) for each in guesses]))
            await end(thief)
            task = (await served.ask("GET", f"/api/v1/runs/{run_id}/tasks/a")).value
            assert (task["state"], task["verdict"]) == ("leased", None)
            holder.send(wire.AttemptsFinished(results=[AttemptResult(lease.lease_id, Verdict.PASSED)]))
            await next_of(holder, wire.EndRun)
            task = (await served.ask("GET", f"/api/v1/runs/{run_id}/tasks/a")).value
            assert (task["state"], task["verdict"]) == ("finished", "passed")
            told = stale_lines(served)
            assert len(told) == LIMITED_LINES_MAX
            assert {line["target"] for line in told} == {"thief"}
            assert told[0]["detail"].startswith("200 under leases it does not hold")
            await holder.close()

    run(main)


def test_a_result_that_is_said_again_after_a_later_attempt_changes_nothing(serve):
    """A30"""

    async def main():
        async with serve() as served:
            worker = await join(served, "worker")
            run_id = await submit(served, retries=1)
            first = await first_lease(worker, run_id)
            captured = wire.AttemptsFinished(results=[AttemptResult(first.lease_id, Verdict.FAILED)])
            worker.send(captured)
            second = (await next_of(worker, wire.GrantLeases)).leases[0]
            assert (second.attempt, second.task_id) == (2, first.task_id)
            worker.send(captured)
            worker.send(wire.AttemptsFinished(results=[AttemptResult(second.lease_id, Verdict.PASSED)]))
            worker.send(captured)
            await next_of(worker, wire.EndRun)
            await end(worker)
            task = (await served.ask("GET", f"/api/v1/runs/{run_id}/tasks/a")).value
            assert (task["verdict"], task["attempts"]) == ("passed", 2), task
            assert [line["target"] for line in stale_lines(served)] == ["worker"] * 2

    run(main)


def test_strangers_cannot_push_others_out_of_the_audit_log(serve):
    async def main():
        async with serve() as served:
            assert (await served.ask("POST", "/api/v1/workers/w/drain")).status == 404
            for _ in range(3 * LIMITED_LINES_MAX):
                await served.ask("POST", "/api/v1/runs", None, {})
                await served.ask("GET", "/", None, host="evil.example.org")
            assert (await served.ask("POST", "/login", None, {"token": served.tokens[Role.VIEW]})).status == 200
            path = served.data / "audit.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == LIMITED_LINES_MAX + 3
        assert (lines[0]["token"], lines[-2]["target"]) == ("admin", "/login")
        assert (lines[-1]["action"], lines[-1]["target"]) == ("left out", "strangers")
        assert lines[-1]["detail"].startswith(f"{5 * LIMITED_LINES_MAX} more")

    run(main)
