"""Variants of the listed attacks: odd requests, cookies, sessions, cursors and keys, each over a real socket."""

import asyncio
import base64
import gzip
import json
import re
from types import SimpleNamespace

import aiohttp
import pytest

from fleetest.api.route import Public
from fleetest.transport.gate import FAILURES_MAX
from fleetest.transport.identity import Role
from fleetest.transport.server import STRANGERS_MAX
from fleetest.transport.token_store import TokenStore
from fleetest.transport.websocket import CLIENT_PATH, WORKER_PATH

TIMEOUT_S = 120.0
UPGRADE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)
LINKS = ((WORKER_PATH, Role.WORKER), (CLIENT_PATH, Role.SUBMIT), ("/api/v1/events", Role.VIEW))
COMMANDS = {"suites": [{"kind": "commands", "commands": [{"name": "a", "argv": ["true"]}]}]}


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


def concrete(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "x", path)


def cookie_of(served, value: str) -> tuple[str, str]:
    return "Cookie", f"fleetest-{served.port}={value}"


def session(served, role: Role = Role.ADMIN) -> str:
    return served.api.sessions.open(served.api.context.credentials.identify(served.tokens[role]))


def own_origin(served) -> tuple[str, str]:
    return "Origin", served.url


# What is asked for ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["http://evil.example.org{path}", "HTTP://127.0.0.1:{port}{path}", "x:{path}"])
def test_a_request_line_names_no_second_host(serve, target):
    """With a good token, and a good Host beside it."""

    async def main():
        async with serve() as served:
            for route in served.site.routes:
                answer = await served.ask(route.method, target.format(port=served.port, path=concrete(route.path)))
                assert (answer.status, answer.value["code"]) in {(400, "bad_target"), (400, "bad_request")}
            for path, role in LINKS:
                asked = target.format(port=served.port, path=path)
                assert (await served.ask("GET", asked, role, headers=UPGRADE)).status == 400
            assert (await served.ask("CONNECT", "127.0.0.1:22")).status == 400

    run(main)


@pytest.mark.parametrize(
    "path",
    ["/api/v1/%2e%2e/", "/api/v1/../v1/status", "/api//v1/status", "//api/v1/status", "/api/v1/status/", "/API/v1/status",
     "/api/v1/status;x=.js", "/api/v1/status%00", "/api/v1%2fstatus", "/healthz/../api/v1/status", "/%68ealthz",
     "/login/..%2fapi/v1/status", "/static/../login.html", "/static/%2e%2e/index.html", "/static/index.html",
     "/static/..%2f..%2fapi/http.py", "/v1/%77orker", "//127.0.0.1/healthz", "/api/v1\\status"],
)  # fmt: skip
def test_a_path_is_nothing_but_what_the_table_says(serve, path):
    """Nothing is decoded, joined or cut before the route is found: no such spelling is public, or anything at all."""

    async def main():
        async with serve() as served:
            assert (await served.ask("GET", path, None)).status == 401
            assert (await served.ask("GET", path)).status == 404
            assert (await served.ask("GET", path, headers=UPGRADE)).status == 404

    run(main)


@pytest.mark.parametrize(
    "name",
    ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL",
     "X-Forwarded-Host", "X-Forwarded-For", "Forwarded"],
)  # fmt: skip
def test_headers_that_others_obey_mean_nothing(serve, name):
    async def main():
        async with serve() as served:
            for value in ("POST", "/api/v1/workers/x/drain", "evil.example.org", "127.0.0.1"):
                given = ((name, value),)
                assert (await served.ask("GET", "/api/v1/workers/x", Role.VIEW, headers=given)).status == 404
                assert (await served.ask("POST", "/api/v1/workers/x/drain", Role.VIEW, headers=given)).status == 403
                assert (await served.ask("GET", "/healthz", None, headers=given, host="evil.example.org")).status == 403
                assert (await served.ask("GET", "/api/v1/status", None, headers=given)).status == 401

    run(main)


def test_guesses_are_counted_by_the_address_that_is_seen(serve):
    """Not by the one that is claimed."""

    async def main():
        async with serve() as served:
            statuses = []
            for number in range(FAILURES_MAX + 1):
                given = (("Authorization", "Bearer " + "x" * 43), ("X-Forwarded-For", f"10.0.0.{number}"))
                statuses.append((await served.ask("GET", "/api/v1/status", None, headers=given)).status)
            assert statuses == [401] * FAILURES_MAX + [429]

    run(main)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1.:{port}", "localhost.:{port}", "127.1:{port}", "0x7f000001:{port}", "2130706433:{port}", "0.0.0.0:{port}",
     "[::ffff:127.0.0.1]:{port}", "[0:0:0:0:0:0:0:1]:{port}", "[::1%25lo]:{port}", "127.0.0.1:0{port}",
     "127.0.0.1:{port}, evil.example.org", "evil@127.0.0.1:{port}", "127.0.0.1:{port}/", "127.0.0.1:{port}.",
     "tests.example.org.", "tests.example.org:443", "x.tests.example.org"],
)  # fmt: skip
def test_a_name_is_allowed_as_it_is_written_or_not_at_all(serve, host):
    """A07"""

    async def main():
        async with serve(public_hosts=["tests.example.org"]) as served:
            for path, role in [("/healthz", None), ("/api/v1/status", Role.ADMIN)]:
                answer = await served.ask("GET", path, role, host=host.format(port=served.port))
                assert (answer.status, answer.value["code"]) == (403, "host_not_allowed")

    run(main)


def test_a_request_of_an_older_kind_is_judged_alike(serve):
    async def main():
        async with serve() as served:
            line = f"GET /api/v1/status HTTP/1.0\r\nAuthorization: Bearer {served.tokens[Role.ADMIN]}\r\n"
            assert (await served.send(line.encode() + b"\r\n")).status == 403
            assert (await served.send(f"{line}Host: evil.example.org\r\n\r\n".encode())).status == 403
            assert (await served.send(f"{line}Host: 127.0.0.1:{served.port}\r\n\r\n".encode())).status == 200

    run(main)


# Bodies --------------------------------------------------------------------------------------------------------------

SMUGGLED = "GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
     "Transfer-Encoding: xchunked", "Transfer-Encoding : chunked", "Transfer-Encoding:\x0bchunked", "Content-Length: +4",
     "Content-Length: 0x4", "Content-Length: 4,4", "Content-Length: -4", "Content-Length: 4\r\nContent-Length: 5"],
)  # fmt: skip
def test_nobody_can_disagree_on_where_a_request_ends(serve, headers):
    """One answer, a refusal, and the connection is closed: what follows is no second request."""

    async def main():
        async with serve() as served:
            head = (
                f"POST /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\n"
                f"Authorization: Bearer {served.tokens[Role.ADMIN]}\r\n{headers}\r\n\r\n"
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(head.encode("latin-1") + b"0\r\n\r\n" + SMUGGLED.format(port=served.port).encode())
            answer = await reader.read()
            assert answer.count(b"HTTP/1.") == 1
            assert answer.split()[1] == b"400"
            writer.close()
            assert served.shell.state.cluster.runs == {}

    run(main)


@pytest.mark.parametrize("role", [None, Role.ADMIN])
def test_a_packed_body_is_never_unpacked(serve, role, monkeypatch):
    """Nor read at all: what it would be is nobody's business before it is refused."""

    def unpacked(*args, **settings):
        raise AssertionError("a body of a stranger was unpacked")

    monkeypatch.setattr("aiohttp.http_parser.DeflateBuffer", unpacked)
    bomb = gzip.compress(bytes(1_000_000))

    async def main():
        async with serve() as served:
            path = "/login" if role is None else "/api/v1/runs"
            for coding in ("gzip", "deflate", "GZIP", "br", "zstd", "identity, gzip", "x"):
                answer = await served.ask("POST", path, role, bomb, headers=(("Content-Encoding", coding),))
                assert (answer.status, answer.value["code"]) == (415, "encoding_not_allowed"), coding
            head = (
                f"POST /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\n"
                f"Authorization: Bearer {served.tokens[Role.ADMIN]}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
            )
            assert (await served.send(head.encode())).status == 415

    run(main)


def test_an_upgrade_header_does_not_make_a_form_json(serve):
    """A12: the check of the media type cannot be talked away."""

    async def main():
        async with serve() as served:
            for route in served.site.routes:
                if route.method != "POST":
                    continue
                answer = await served.ask(
                    "POST",
                    concrete(route.path),
                    body=b"{}",
                    headers=(("Content-Type", "text/plain"), ("Upgrade", "websocket")),
                )
                assert answer.status in {400, 415}, route.path
                chunked = (("Content-Type", "text/plain"), ("Upgrade", "websocket"))
                answer = await served.ask("POST", concrete(route.path), headers=chunked)
                assert answer.status == 415, route.path

    run(main)


def test_a_slow_body_is_not_waited_for(serve, monkeypatch):
    monkeypatch.setattr("fleetest.api.http.BODY_TIMEOUT_S", 0.05)

    async def main():
        async with serve() as served:
            answer = await served.send(
                f"POST /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\n"
                f"Authorization: Bearer {served.tokens[Role.ADMIN]}\r\nContent-Length: 100\r\n\r\n{{".encode()
            )
            assert (answer.status, answer.value["code"]) == (408, "body_too_slow")

    run(main)


def test_who_drips_bytes_or_asks_again_and_again_without_a_token_is_closed_in_time(serve):
    """The time for a token runs from the connection on; nothing that a stranger sends begins it anew."""

    async def main():
        async with serve(handshake_timeout_s=0.3) as served:
            begin = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n".encode()

            async def until_closed(part: bytes) -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                reading = asyncio.ensure_future(reader.read())
                try:
                    while not reading.done():
                        writer.write(part)
                        await writer.drain()
                        await asyncio.wait({reading}, timeout=0.02)
                    await reading
                except ConnectionError:
                    pass
                finally:
                    writer.close()

            await asyncio.gather(until_closed(begin + b"\r\n"), until_closed(b"X: y\r\n"), until_closed(b"\r\n"))
            async with aiohttp.ClientSession() as known:
                headers = {"Authorization": f"Bearer {served.tokens[Role.VIEW]}"}
                async with known.ws_connect(f"{served.url}/api/v1/events", headers=headers) as socket:
                    for _ in range(3):  # Longer than a stranger may stay.
                        await socket.receive()

    run(main)


def test_strangers_in_great_number_keep_nobody_out(serve):
    async def main():
        async with serve() as served:
            idle = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(3 * STRANGERS_MAX)]
            assert (await served.ask("GET", "/api/v1/status")).status == 200
            for _, writer in idle:
                writer.close()

    run(main)


# WebSockets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "role"), LINKS)
def test_an_upgrade_offers_nothing_and_tells_nothing(serve, path, role):
    """No compression whatever is offered, no protocol of the other side's choice, no name of a library."""

    async def main():
        async with serve() as served:
            offers = (
                ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"),
                ("Sec-WebSocket-Protocol", f"evil, {served.tokens[role]}"),
            )
            answer = await served.ask("GET", path, role, headers=(*UPGRADE, *offers))
            assert answer.status == 101
            assert "sec-websocket-extensions" not in answer.headers
            assert "sec-websocket-protocol" not in answer.headers
            assert answer.headers["server"] == "fleetest"
            for length in ("Content-Length", "Transfer-Encoding"):
                value = "5" if length == "Content-Length" else "chunked"
                assert (await served.ask("GET", path, role, headers=(*UPGRADE, (length, value)))).status == 400
            assert (await served.ask("POST", path, role, headers=UPGRADE)).status == 405
            no_key = tuple(pair for pair in UPGRADE if pair[0] != "Sec-WebSocket-Key")
            assert (await served.ask("GET", path, role, headers=no_key)).status == 426
            other = tuple(("Upgrade", "h2c") if pair[0] == "Upgrade" else pair for pair in UPGRADE)
            assert (await served.ask("GET", path, role, headers=other)).status == 426
            protocol = (("Sec-WebSocket-Protocol", f"bearer, {served.tokens[role]}"),)
            assert (await served.ask("GET", path, None, headers=(*UPGRADE, *protocol))).status == 401

    run(main)


@pytest.mark.parametrize("path", [WORKER_PATH, CLIENT_PATH, "/api/v1/events"])
def test_who_logs_out_loses_what_the_session_had_opened(serve, path):
    async def main():
        async with serve() as served:
            mine, other = session(served), session(served)
            async with aiohttp.ClientSession() as browser:
                sockets = {}
                for value in (mine, other):
                    headers = dict([cookie_of(served, value), own_origin(served)])
                    sockets[value] = await browser.ws_connect(served.url + path, headers=headers)
                given = (cookie_of(served, mine), own_origin(served))
                assert (await served.ask("POST", "/logout", None, headers=given)).status == 200
                while (message := await sockets[mine].receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
                assert message.type is aiohttp.WSMsgType.CLOSE
                assert sockets[mine].close_code == 1008
                assert not sockets[other].closed
                assert (await served.ask("GET", "/api/v1/status", None, headers=(given[0],))).status == 401
                assert (
                    await served.ask("GET", "/api/v1/status", None, headers=(cookie_of(served, other),))
                ).status == 200

    run(main)


def test_a_revoked_token_hears_no_more_however_seldom_there_is_something_to_tell(serve, monkeypatch):
    """A great fleet is looked at seldom, so that looking costs little; who may listen is looked at all the time."""
    monkeypatch.setattr("fleetest.api.events.BUDGET", 1e-9)

    async def main():
        async with serve() as served:
            headers = {"Authorization": f"Bearer {served.tokens[Role.VIEW]}"}
            async with aiohttp.ClientSession(headers=headers) as screen:
                socket = await screen.ws_connect(f"{served.url}/api/v1/events")
                told = [json.loads((await socket.receive()).data)["type"] for _ in range(2)]
                assert told == ["snapshot", "delta"]
                TokenStore(served.data).revoke("view")
                assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
                assert socket.close_code == 1008

    run(main)


def test_a_token_that_expires_closes_what_it_had_opened(serve):
    async def main():
        async with serve() as served:
            store = TokenStore(served.data)
            secret = store.create("guest", Role.VIEW, 3600.0)
            credentials = served.api.context.credentials
            credentials.refresh()
            headers = {"Authorization": f"Bearer {secret}"}
            async with aiohttp.ClientSession(headers=headers) as guest:
                socket = await guest.ws_connect(f"{served.url}/api/v1/events")
                by_cookie = cookie_of(served, served.api.sessions.open(credentials.identify(secret)))
                assert (await served.ask("GET", "/api/v1/status", None, headers=(by_cookie,))).status == 200
                wall = credentials._wall
                credentials._wall = lambda: wall() + 3601.0
                while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
                assert message.type is aiohttp.WSMsgType.CLOSE
                assert (await served.ask("GET", "/api/v1/status", None, headers=(by_cookie,))).status == 401

    run(main)


# Cookies and codes ---------------------------------------------------------------------------------------------------


def test_two_cookies_of_ours_are_nobodys(serve):
    """Any server on this host can add one: the session of another must not take the place of one's own."""

    async def main():
        async with serve() as served:
            mine, planted = session(served), session(served, Role.VIEW)
            name = f"fleetest-{served.port}"
            for both in ([f"{name}={mine}; {name}={planted}"], [f"{name}={planted}; {name}={mine}"],
                         [f"{name}={mine}", f"{name}={planted}"], [f"a=b; {name}={mine};{name}=x"]):  # fmt: skip
                given = tuple(("Cookie", line) for line in both)
                answer = await served.ask("GET", "/api/v1/status", None, headers=given)
                assert (answer.status, answer.value["code"]) == (400, "two_credentials")
            for line in (
                f"{name}={mine}; {name}={mine}",
                f"x=y;{name}={mine}; {name}x=z; =; ;;",
                f"\xff=\x80; {name}={mine}",
            ):
                assert (await served.ask("GET", "/api/v1/status", None, headers=(("Cookie", line),))).status == 200
            other_port = (("Cookie", f"fleetest-1={mine}"),)
            assert (await served.ask("GET", "/api/v1/status", None, headers=other_port)).status == 401
            assert (
                await served.ask("GET", "/api/v1/status", None, headers=(("Cookie", "a=b; " * 1500),))
            ).status == 401

    run(main)


def test_a_header_decides_where_there_is_one_and_a_cookie_adds_nothing(serve):
    async def main():
        async with serve() as served:
            cookie = cookie_of(served, session(served))
            drain = ("POST", "/api/v1/workers/x/drain")
            assert (await served.ask(*drain, Role.VIEW, headers=(cookie, own_origin(served)))).status == 403
            for wrong in ("Bearer wrong", "Basic eDp5", "", "Bearer"):
                given = (("Authorization", wrong), cookie, own_origin(served))
                assert (await served.ask(*drain, None, headers=given)).status == 401

    run(main)


def test_one_code_opens_one_session_however_many_ask_at_once(serve):
    async def main():
        async with serve() as served:
            code = (await served.ask("POST", "/api/v1/login-codes", Role.SUBMIT)).value["code"]
            answers = await asyncio.gather(*(served.ask("POST", "/login", None, {"code": code}) for _ in range(5)))
            assert sorted(answer.status for answer in answers) == [200, 401, 401, 401, 401]
            [good] = [answer for answer in answers if answer.status == 200]
            assert good.value["role"] == "submit"
            cookie = good.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie

    run(main)


def test_a_page_elsewhere_cannot_log_the_browser_in_as_somebody_else(serve):
    async def main():
        async with serve() as served:
            body = {"token": served.tokens[Role.VIEW]}
            for site in ("cross-site", "same-site", "same-origin"):
                answer = await served.ask("POST", "/login", None, body, headers=(("Sec-Fetch-Site", site),))
                assert (answer.status, answer.value["code"]) == (403, "origin_needed")
            evil = (("Origin", "http://127.0.0.1:1"), ("Sec-Fetch-Site", "same-site"))
            assert (await served.ask("POST", "/login", None, body, headers=evil)).status == 403
            good = (own_origin(served), ("Sec-Fetch-Site", "same-origin"))
            assert (await served.ask("POST", "/login", None, body, headers=good)).status == 200

    run(main)


# Keys, cursors and ids -----------------------------------------------------------------------------------------------


def test_a_key_belongs_to_whoever_used_it(serve):
    """The same key from another token, for another path or with another body never gives away an answer."""

    async def main():
        async with serve() as served:
            key = (("Idempotency-Key", "one"),)
            first = await served.ask("POST", "/api/v1/runs", Role.SUBMIT, COMMANDS, headers=key)
            again = await served.ask("POST", "/api/v1/runs", Role.SUBMIT, COMMANDS, headers=key)
            assert (first.status, again.status, first.value) == (201, 201, again.value)
            other = await served.ask("POST", "/api/v1/runs", Role.ADMIN, COMMANDS, headers=key)
            assert other.value["run_id"] != first.value["run_id"]
            path = f"{first.value['url']}/cancel"
            assert (await served.ask("POST", path, Role.VIEW, headers=key)).status == 403
            assert (await served.ask("POST", path, None, headers=key)).status == 401
            changed = await served.ask("POST", "/api/v1/runs", Role.SUBMIT, {**COMMANDS, "title": "x"}, headers=key)
            assert (changed.status, changed.value["code"]) == (422, "idempotency_key_reused")
            for bad in ("x" * 201, "a\tb"):
                given = (("Idempotency-Key", bad),)
                assert (await served.ask("POST", "/api/v1/runs", Role.SUBMIT, COMMANDS, headers=given)).status == 400
            assert len(served.shell.state.cluster.runs) == 2

    run(main)


CURSORS = [[10**30], [10**30, "x"], [-(10**30), "x"], [2**63, "x"], [2**64, 1], ["x", 10**30], ["\0", 1], ["x" * 2000, 1],
           [1e308, 1], [None, 1], [-5], [-1, -1], [], [[]], {}, "x", ["\ud800", 1], [True, False]]  # fmt: skip


def test_a_cursor_that_was_not_made_here_is_refused_or_harmless(serve):
    async def main():
        async with serve(history=True) as served:
            submitted = (await served.ask("POST", "/api/v1/runs", body=COMMANDS)).value["run_id"]
            assert (await served.ask("GET", "/api/v1/runs?state=finished")).status == 200  # Once the history is open.
            for route in served.site.routes:
                names = {"cursor", "after"} & set(getattr(route.query, "__struct_fields__", ()))
                for name in names:
                    for value in CURSORS:
                        text = json.dumps(value).encode()
                        cursor = base64.urlsafe_b64encode(text).decode().rstrip("=")
                        for sort in ("position", "-position", "duration", "task_id", "-task_id"):
                            query = f"{name}={cursor}" + (
                                f"&sort={sort}" if "sort" in route.query.__struct_fields__ else ""
                            )
                            for run_id in (submitted, "x"):
                                path = route.path.replace("{run}", run_id)
                                answer = await served.ask("GET", f"{path}?{query}")
                                assert answer.status in {200, 400, 404}, (path, value, sort, answer.body)
                            if "sort" not in route.query.__struct_fields__:
                                break

    run(main)


def test_nobody_ends_the_run_of_another_by_guessing_its_id(serve):
    async def main():
        async with serve() as served:
            other = TokenStore(served.data).create("other", Role.SUBMIT)
            served.api.context.credentials.refresh()
            url = (await served.ask("POST", "/api/v1/runs", Role.SUBMIT, COMMANDS)).value["url"]
            by_other = (("Authorization", f"Bearer {other}"),)
            answer = await served.ask("POST", f"{url}/cancel", None, headers=by_other)
            assert (answer.status, answer.value["code"]) == (403, "not_your_run")
            assert (await served.ask("POST", f"{url[:-1]}/cancel", Role.SUBMIT)).status == 404
            assert len(served.shell.state.cluster.runs) == 1

    run(main)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "PROPFIND", "QUERY"])
def test_other_methods_do_and_tell_nothing(serve, method):
    async def main():
        async with serve(history=True) as served:
            await served.ask("POST", "/api/v1/runs", body=COMMANDS)
            before = served.shell.state.snapshot()
            for route in served.site.routes:
                known = {each.method for each in served.site.routes if each.path == route.path}
                path = concrete(route.path)
                answer = await head(served, method, path) if method == "HEAD" else await served.ask(method, path)
                if method == "HEAD" and "GET" in known:
                    assert answer.status in {200, 404, 426}, path
                else:
                    assert answer.status == 405, (method, path)
                public = route.role is Public.PUBLIC
                without = await (head if method == "HEAD" else ask_as_nobody)(served, method, path, None)
                assert without.status in ({200, 405} if public else {401}), (method, path)
            assert served.shell.state.snapshot() == before

    run(main)


async def ask_as_nobody(served, method, path, role):
    return await served.ask(method, path, role)


async def head(served, method, path, role=Role.ADMIN):
    """An answer to HEAD has a length and no body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    bearer = f"Authorization: Bearer {served.tokens[role]}\r\n" if role is not None else ""
    writer.write(
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n{bearer}Connection: close\r\n\r\n".encode()
    )
    told, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert body == b""

    return SimpleNamespace(status=int(told.split()[1]))
