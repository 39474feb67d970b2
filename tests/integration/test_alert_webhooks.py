"""Alerts that are posted: to a real server that fails, redirects, hangs up or is not there. Nothing here waits for time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fleetest.errors import UserError
from fleetest.transport import webhooks as module
from fleetest.transport.webhooks import Webhooks, backoff_s, check_webhook, sign

SECRET = b"0123456789abcdef"
HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "watch-the-fleet.md"


class Server:
    """Answers with the given statuses in turn, then 200; keeps what it got."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.arrived = asyncio.Condition()
        self.elsewhere = 0

    async def __aenter__(self) -> Server:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        app.router.add_route("*", "/elsewhere", self._wrong)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/hook"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        async with self.arrived:
            self.arrived.notify_all()
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"} if 300 <= status < 400 else {})

    async def _wrong(self, request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response()

    async def wait(self, count: int) -> None:
        async with self.arrived:
            await asyncio.wait_for(self.arrived.wait_for(lambda: len(self.got) >= count), 60)


def at_once(attempt: int) -> float:
    return 0.0


def in_loop(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


def test_the_first_two_deliveries_fail_and_the_third_arrives_signed_with_the_same_id():
    async def scenario() -> None:
        async with Server(500, 429) as server:
            hooks = Webhooks([server.url], SECRET, pause_s=at_once)
            hooks.send({"event": "raised", "worker": "w1"})
            await server.wait(3)
            await hooks.close()
            assert len(server.got) == 3
            assert len({headers["Fleetest-Delivery"] for headers, _ in server.got}) == 1
            for headers, body in server.got:
                assert headers["Content-Type"] == "application/json"
                assert json.loads(body) == {"event": "raised", "worker": "w1"}
                assert headers["Fleetest-Signature"] == sign(SECRET, headers["Fleetest-Timestamp"], body)

    in_loop(scenario)


def test_they_stay_in_order_and_each_has_its_id():
    async def scenario() -> None:
        async with Server(503, 200, 503) as server:
            hooks = Webhooks([server.url], pause_s=at_once)
            for number in range(5):
                hooks.send({"number": number})
            await server.wait(7)
            await hooks.close()
            delivered: dict[str, Any] = {headers["Fleetest-Delivery"]: json.loads(body) for headers, body in server.got}
            assert [value["number"] for value in delivered.values()] == [0, 1, 2, 3, 4]
            assert "Fleetest-Signature" not in server.got[0][0], "no secret, no signature"

    in_loop(scenario)


@pytest.mark.parametrize("status", [302, 307, 400, 404, 410])
def test_a_refusal_is_final_and_a_redirection_is_not_followed(status, caplog):
    async def scenario() -> None:
        async with Server(status) as server:
            hooks = Webhooks([server.url], pause_s=at_once)
            hooks.send({"number": 0})
            hooks.send({"number": 1})
            await server.wait(2)
            await hooks.close()
            assert [json.loads(body)["number"] for _, body in server.got] == [0, 1]
            assert server.elsewhere == 0

    in_loop(scenario)
    assert f"an alert is given up: it answered {status}" in caplog.text


def test_nobody_there_is_given_up_after_the_last_attempt(monkeypatch, caplog):
    monkeypatch.setattr(module, "ATTEMPTS_MAX", 3)
    pauses = []

    async def scenario() -> None:
        async with Server() as server:
            url = server.url
        hooks = Webhooks([url], pause_s=lambda attempt: pauses.append(attempt) or 0.0)
        hooks.send({"number": 0})
        await hooks._receivers[0].task
        await hooks.close()

    in_loop(scenario)
    assert pauses == [1, 2]
    assert "an alert is given up: cannot connect (Connect" in caplog.text
    assert "/hook" not in caplog.text, "the path of an URL is often a secret"


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (b"", "the connection broke (ServerDisconnectedError)"),
        (b"\x00\xff no HTTP\r\n\r\n", "it does not speak HTTP as it must"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 100_000 + b"\r\n\r\n", "it does not speak HTTP as it must"),
    ],
    ids=["nothing", "garbage", "a huge head"],
)
def test_what_is_wrong_with_a_strange_receiver_is_said_in_words(answer, trouble, monkeypatch, caplog):
    monkeypatch.setattr(module, "ATTEMPTS_MAX", 1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_tls = await reader.read(1) == b"\x16"
        if not is_tls:
            await reader.readuntil(b"}")
        writer.write(b"no TLS either" if is_tls else answer)
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for scheme, expected in (("http", trouble), ("https", "it does not speak TLS as it must")):
            hooks = Webhooks([f"{scheme}://127.0.0.1:{port}/hook"], pause_s=at_once)
            hooks.send({})
            await asyncio.wait_for(hooks._receivers[0].task, 60)
            await hooks.close()
            assert f"{scheme}://127.0.0.1:{port}: an alert is given up: {expected}" in caplog.text
        server.close()
        await server.wait_closed()

    in_loop(scenario)
    assert "/hook" not in caplog.text


def test_a_slow_receiver_costs_the_sender_and_the_other_receivers_nothing(monkeypatch, caplog):
    monkeypatch.setattr(module, "QUEUE_MAX", 3)
    monkeypatch.setattr(module, "LAST_WORDS_S", 0.0)

    async def scenario() -> None:
        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await reader.read()
            writer.close()

        silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        async with Server() as server:
            hooks = Webhooks([f"http://127.0.0.1:{port}/", server.url], pause_s=at_once)
            hooks.send({"number": 0})
            for number in range(1, 10):
                await server.wait(number)
                hooks.send({"number": number})
            await server.wait(10)
            await hooks.close()
        silent.close()

    in_loop(scenario)
    assert "too many alerts wait, the oldest is dropped" in caplog.text
    assert re.search(r"\d alerts were not delivered", caplog.text)


def test_the_pause_grows_with_full_jitter_up_to_a_bound():
    for attempt in range(1, 200):
        bound = min(module.BACKOFF_MAX_S, module.BACKOFF_MIN_S * 2.0 ** (attempt - 1))
        pauses = [backoff_s(attempt) for _ in range(20)]
        assert all(0.0 <= pause <= bound for pause in pauses)
        assert max(pauses) > bound / 4


@pytest.mark.parametrize(
    "url", ["ftp://x/", "http://", "example.org", "http://a b/", "https://x:99999/", "http://x:0/"]
)
def test_what_is_no_url_of_a_webhook_is_refused(url):
    with pytest.raises(UserError, match="must be an http:// or https:// URL"):
        check_webhook(url)


def test_the_snippet_of_the_documentation_verifies_what_is_sent():
    (snippet,) = re.findall(r"```python\n(import hashlib.*?)```", HOW_TO.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(snippet, str(HOW_TO), "exec"), names)
    verify = names["verify"]
    body = b'{"event":"raised"}'
    headers = {"Fleetest-Timestamp": "1700000000", "Fleetest-Signature": sign(SECRET, "1700000000", body)}
    assert verify(SECRET, headers, body, now=1700000010.0)
    assert not verify(SECRET, headers, body + b" ", now=1700000010.0)
    assert not verify(b"another secret..", headers, body, now=1700000010.0)
    assert not verify(SECRET, headers, body, now=1700001000.0), "recorded and played again"
    assert not verify(SECRET, {**headers, "Fleetest-Timestamp": "1700000001"}, body, now=1700000010.0)
