"""What a hostile page, a stranger or a holder of the wrong token tries, on every route of the table."""

import asyncio
import json
import re
from urllib.parse import quote

import aiohttp
import pytest

from fleetest.api.route import Public
from fleetest.transport.identity import GRANTS, Role
from fleetest.transport.token_store import TokenStore
from fleetest.transport.websocket import CLIENT_PATH, WORKER_PATH

TIMEOUT_S = 120.0
UPGRADE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)
LINKS = (WORKER_PATH, CLIENT_PATH, "/api/v1/events")
EVIL_ORIGINS = (
    "http://evil.example.org",
    "null",
    "http://127.0.0.1:1",
    "http://127.0.0.1:{port}.evil.example.org",
    "http://127.0.0.1.evil.example.org:{port}",
    "https://127.0.0.1:{port}",
    "file://",
    "http://localhost:{port}@evil.example.org",
)
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


def concrete(path: str) -> str:
    """A path of the table with something in place of its names."""
    return re.sub(r"\{[^}]*\}", "x", path)


def with_role(served):
    return [route for route in served.site.routes if route.role is not Public.PUBLIC]


def test_without_a_token_everything_looks_alike(serve):
    """A01"""

    async def main():
        async with serve() as served:
            there = {(route.method, concrete(route.path)) for route in with_role(served)}
            asked = [*there, ("GET", "/nothing"), ("POST", "/api/v1/nothing"), ("DELETE", "/api/v1/runs/x"),
                     ("GET", "/api/v1/"), ("GET", "//"), ("GET", WORKER_PATH), ("OPTIONS", "/api/v1/runs")]  # fmt: skip
            bodies = set()
            for method, path in asked:
                answer = await served.ask(method, path, None)
                assert answer.status == 401, (method, path)
                assert answer.headers["www-authenticate"].startswith("Bearer")
                bodies.add(answer.body)
            assert len(bodies) == 1
            for path in LINKS:
                assert (await served.ask("GET", path, None, headers=UPGRADE)).status == 401

    run(main)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((("Authorization", "Bearer " + "x" * 43),), 401),
        ((("Authorization", "Bearer x"),), 401),
        ((("Authorization", "Bearer"),), 401),
        ((("Authorization", "Bearer "),), 401),
        ((("Authorization", "Basic YWRtaW46YWRtaW4="),), 401),
        ((("Authorization", "Bearer a"), ("Authorization", "Bearer b")), 400),
    ],
)
def test_a_wrong_token(serve, headers, status):
    """A02"""

    async def main():
        async with serve() as served:
            assert (await served.ask("GET", "/api/v1/status", None, headers=headers)).status == status
            twice = (("Authorization", f"Bearer {served.tokens[Role.ADMIN]}"),)
            assert (await served.ask("GET", "/api/v1/status", Role.ADMIN, headers=twice)).status == 400

    run(main)


def test_who_guesses_waits_and_who_knows_does_not(serve):
    async def main():
        async with serve() as served:
            wrong = (("Authorization", "Bearer " + "x" * 43),)
            statuses = [(await served.ask("GET", "/api/v1/status", None, headers=wrong)).status for _ in range(7)]
            assert statuses == [401] * 5 + [429] * 2
            limited = await served.ask("POST", "/login", None, {"token": "x" * 43})
            assert limited.status == 429
            assert int(limited.headers["retry-after"]) > 0
            assert (await served.ask("GET", "/api/v1/status")).status == 200

    run(main)


@pytest.mark.parametrize("role", [Role.VIEW, Role.SUBMIT, Role.WORKER])
def test_a_token_does_what_its_role_is_for_and_nothing_else(serve, role):
    """A04: on every route, with every method, what the table does not grant has no effect."""

    async def main():
        async with serve() as served:
            before = served.shell.state.snapshot()
            for route in with_role(served):
                path = concrete(route.path)
                if route.path == "/api/v1/events":
                    continue
                if route.role not in GRANTS[role]:
                    answer = await served.ask(route.method, path, role, {} if route.body else None)
                    assert (answer.status, answer.value["code"]) == (403, "role_not_allowed"), (route.method, path)
                if role is Role.VIEW:
                    known = {each.method for each in served.site.routes if each.path == route.path}
                    for method in (*UNSAFE, "OPTIONS", "TRACE"):
                        answer = await served.ask(method, path, role)
                        allowed = method in known and route.path in {"/logout", "/api/v1/login-codes"}
                        assert answer.status in {403, 405} or allowed, (method, path)
                        if answer.status == 405:
                            assert answer.headers["allow"]
            assert served.shell.state.snapshot().workers == before.workers
            assert served.shell.state.snapshot().runs == ()

    run(main)


@pytest.mark.parametrize(
    ("role", "path", "status"),
    [
        (Role.VIEW, WORKER_PATH, 403),
        (Role.VIEW, CLIENT_PATH, 403),
        (Role.WORKER, CLIENT_PATH, 403),
        (Role.WORKER, "/api/v1/events", 403),
        (Role.SUBMIT, WORKER_PATH, 403),
        (Role.WORKER, WORKER_PATH, 101),
        (Role.SUBMIT, CLIENT_PATH, 101),
        (Role.ADMIN, WORKER_PATH, 101),
        (Role.ADMIN, CLIENT_PATH, 101),
        (Role.VIEW, "/api/v1/events", 101),
    ],
)
def test_links_need_their_role_before_the_upgrade(serve, role, path, status):
    """A05"""

    async def main():
        async with serve() as served:
            assert (await served.ask("GET", path, role, headers=UPGRADE)).status == status

    run(main)


@pytest.mark.parametrize(
    "host",
    ["evil.example.org", "127.0.0.1.evil.example.org:{port}", "localhost@evil", "127.0.0.1:1", "localhost", "[::1]", "",
     "127.0.0.1:{port}\r\nHost: evil.example.org"],
)  # fmt: skip
def test_a_foreign_name_is_refused_whatever_is_shown(serve, host):
    """A07: also with a good cookie, which is what a rebound name would send."""

    async def main():
        async with serve() as served:
            value = served.api.sessions.open(served.api.context.credentials.identify(served.tokens[Role.ADMIN]))
            cookie = (("Cookie", f"fleetest-{served.port}={value}"),)
            assert (await served.ask("GET", "/api/v1/status", None, headers=cookie)).status == 200
            given = host.format(port=served.port)
            for route in served.site.routes:
                path = concrete(route.path)
                assert (await served.ask(route.method, path, None, headers=cookie, host=given)).status in {400, 403}
            assert (await served.ask("GET", "/healthz", None, host=given)).status in {400, 403}
            assert (await served.ask("GET", "/api/v1/status", host=given)).status in {400, 403}

    run(main)


@pytest.mark.parametrize("origin", EVIL_ORIGINS)
def test_a_foreign_origin_is_refused_on_every_route_and_upgrade(serve, origin):
    """A10"""

    async def main():
        async with serve() as served:
            given = (("Origin", origin.format(port=served.port)),)
            for route in served.site.routes:
                answer = await served.ask(route.method, concrete(route.path), headers=given)
                assert (answer.status, answer.value["code"]) == (403, "origin_not_allowed")
                assert not any(name.startswith("access-control") for name in answer.headers)
            for path in LINKS:
                assert (await served.ask("GET", path, headers=(*UPGRADE, *given))).status == 403

    run(main)


def test_a_cookie_changes_nothing_without_our_own_origin(serve):
    async def main():
        async with serve() as served:
            value = served.api.sessions.open(served.api.context.credentials.identify(served.tokens[Role.ADMIN]))
            cookie = ("Cookie", f"fleetest-{served.port}={value}")
            own = ("Origin", f"http://127.0.0.1:{served.port}")
            for route in with_role(served):
                if route.method != "GET" and route.path != "/logout":
                    answer = await served.ask(route.method, concrete(route.path), None, headers=(cookie,))
                    assert (answer.status, answer.value["code"]) == (403, "origin_needed")
                    assert (
                        await served.ask(route.method, concrete(route.path), None, headers=(cookie, own))
                    ).status != 403
            for path in LINKS:
                assert (await served.ask("GET", path, None, headers=(cookie, *UPGRADE))).status == 403
                assert (await served.ask("GET", path, None, headers=(cookie, own, *UPGRADE))).status == 101

    run(main)


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/json",
     "application/json; charset=utf-16", "text/plain; application/json"],
)  # fmt: skip
def test_only_json_is_taken_as_json(serve, content_type):
    """A12"""

    async def main():
        async with serve() as served:
            for route in served.site.routes:
                if route.method == "POST":
                    answer = await served.ask(
                        "POST", concrete(route.path), body=b"{}", headers=(("Content-Type", content_type),)
                    )
                    assert (answer.status, answer.value["code"]) == (415, "json_needed"), route.path

    run(main)


def test_every_answer_carries_the_headers_that_browsers_obey(serve):
    async def main():
        async with serve() as served:
            for method, path, role in [("GET", "/", Role.VIEW), ("GET", "/login", None), ("GET", "/nothing", Role.VIEW),
                                       ("GET", "/", None), ("POST", "/api/v1/runs", Role.ADMIN)]:  # fmt: skip
                headers = (await served.ask(method, path, role)).headers
                assert "default-src 'none'" in headers["content-security-policy"]
                assert "unsafe" not in headers["content-security-policy"]
                assert "frame-ancestors 'none'" in headers["content-security-policy"]
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["referrer-policy"] == "no-referrer"
                assert headers["cross-origin-resource-policy"] == "same-origin"
                assert headers["cross-origin-opener-policy"] == "same-origin"
                assert headers["cache-control"] == "no-store"
                assert headers["server"] == "fleetest"

    run(main)


HOSTILE = ["<img src=x onerror=alert(1)>", '"};alert(1)//', "javascript:alert(1)", "{{7*7}}", "\u202eabc", "' OR 1=1--",
           "; ATTACH 'x'", "read_csv('/etc/passwd')", "%00", "..%2f..%2fetc", "\ud800"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_is_looked_for_as_it_is_and_answered_as_json(serve, text):
    """A33 and A36: no answer is markup, no word becomes a question of its own."""

    async def main():
        encoded = quote(text, safe="", errors="surrogatepass")
        async with serve(history=True) as served:
            for route in served.site.routes:
                if route.method != "GET" or route.role is Public.PUBLIC or route.path == "/api/v1/events":
                    continue
                fields = [name for name in ("text", "run", "worker") if name in route.query.__struct_fields__]
                for query in ["", *(f"?{name}={encoded}" for name in fields)]:
                    path = re.sub(r"\{[^}]*\}", lambda _: encoded, route.path)
                    answer = await served.ask("GET", path + query)
                    assert answer.status in {200, 400, 404}, (path, query, answer.body)
                    if route.path not in {"/", "/api", "/metrics"}:
                        assert answer.headers["content-type"].startswith(
                            ("application/json", "application/problem+json")
                        )
                        json.loads(answer.body)

    run(main)


@pytest.mark.parametrize(
    "query",
    ["sort=id;DROP", "sort=task_id%20DESC", "limit=-1", "limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "cursor=x",
     "cursor=WzEsMl0", "unknown=1", "state=nonsense", "verdict=passed;", "text=" + "x" * 257],
)  # fmt: skip
def test_parameters_come_from_lists(serve, query):
    """A36"""

    async def main():
        async with serve(history=True) as served:
            accepted = await served.ask(
                "POST",
                "/api/v1/runs",
                body={"suites": [{"kind": "commands", "commands": [{"name": "a", "argv": ["true"]}]}]},
            )
            run_id = accepted.value["run_id"]
            answer = await served.ask("GET", f"/api/v1/runs/{run_id}/tasks?{query}")
            expected = 200 if query == "cursor=WzEsMl0" else 400
            assert answer.status == expected, answer.body

    run(main)


def test_a_revoked_token_loses_what_it_had_opened(serve):
    async def main():
        async with serve() as served:
            store = TokenStore(served.data)
            secret = store.create("screen", Role.VIEW)
            served.api.context.credentials.refresh()
            headers = {"Authorization": f"Bearer {secret}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                socket = await session.ws_connect(served.url + "/api/v1/events")
                assert json.loads((await socket.receive()).data)["type"] == "snapshot"
                store.revoke("screen")
                while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
                assert message.type is aiohttp.WSMsgType.CLOSE
                assert socket.close_code == 1008
                async with session.get(served.url + "/api/v1/status") as answer:
                    assert answer.status == 401

    run(main)


def test_a_revoked_worker_is_closed_too(serve):
    async def main():
        async with serve() as served:
            store = TokenStore(served.data)
            headers = {"Authorization": f"Bearer {served.tokens[Role.WORKER]}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                socket = await session.ws_connect(served.url + WORKER_PATH)
                store.revoke("worker")
                assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
                assert socket.close_code == 1008
            assert not (served.data / "worker.token").exists()

    run(main)


def test_a_body_that_is_too_big_or_packed_is_refused(serve):
    async def main():
        async with serve() as served:
            big = await served.ask("POST", "/login", None, b'{"token": "' + b"x" * 70_000 + b'"}')
            assert big.status == 413
            packed = await served.ask("POST", "/api/v1/runs", body=b"{}", headers=(("Content-Encoding", "gzip"),))
            assert packed.status == 415
            surprise = await served.ask("POST", "/api/v1/workers/x/drain", body={"x": 1})
            assert surprise.status == 400

    run(main)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"BREW /api/v1/runs HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: 1\r\n" % number for number in range(100)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
    ],
    ids=["method", "line", "field", "fields", "tls", "lengths", "length"],
)
def test_what_is_no_request_gets_a_problem_and_no_line_in_the_log(serve, request_bytes, caplog):
    async def main():
        async with serve() as served:
            answer = await served.send(request_bytes)
            assert answer.status in {400, 403}
            assert answer.value["code"] in {"bad_request", "host_not_allowed"}
            assert answer.headers["server"] == "fleetest"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert (await served.ask("GET", "/healthz", None)).status == 200

    run(main)
    assert not caplog.records


def test_the_audit_log_says_who_did_what_and_no_secret(serve):
    async def main():
        async with serve() as served:
            await served.ask("POST", "/api/v1/workers/w/drain", Role.VIEW)
            await served.ask("POST", "/api/v1/workers/w/drain")
            await served.ask(
                "GET", "/api/v1/status?token=" + "s" * 40, None, headers=(("Authorization", "Bearer wrong-one"),)
            )
            await served.ask("POST", "/login", None, {"token": served.tokens[Role.VIEW]})
            await served.ask("GET", WORKER_PATH, Role.WORKER, headers=UPGRADE)
            text = (served.data / "audit.jsonl").read_text()
            told = [json.loads(line) for line in text.splitlines()]
            assert [(line["token"], line["action"], line["target"], line["status"]) for line in told] == [
                ("view", "POST", "/api/v1/workers/w/drain", 403),
                ("admin", "POST", "/api/v1/workers/w/drain", 404),
                (None, "GET", "/api/v1/status", 401),
                (None, "POST", "/login", 200),
                ("worker", "link opened", "/v1/worker", 101),
            ]
            assert all(line["from"] == "127.0.0.1" for line in told)
            assert "wrong-one" not in text
            assert "s" * 40 not in text
            assert not any(secret in text for secret in served.tokens.values())
            assert (served.data / "audit.jsonl").stat().st_mode & 0o077 == 0

    run(main)
