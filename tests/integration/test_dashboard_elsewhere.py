"""The dashboard besides the coordinator's own port: by link, through a proxy, and of an embedded run."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from fleetest.errors import ExitStatus

TIMEOUT_S = 60.0
LINK = re.compile(r"(http://127\.0\.0\.1:(\d+))/login#code=(\S+)")
GATED = """
import pathlib
import pytest

GATE = pathlib.Path(__file__).with_name("gate")

@pytest.mark.parametrize("number", range(3))
def test_one(number):
    assert number != 1, "broken on purpose"

def test_waits():
    GATE.open().close()  # A pipe: it waits for whoever opens the other end.
"""


class Browser:
    """Keeps the one cookie that it was given; sends its origin with whatever changes something."""

    def __init__(self, link: str) -> None:
        found = LINK.search(link)
        assert found is not None, link
        self.url, self.port, self.code = found[1], int(found[2]), found[3]
        self.cookie = ""

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        given = {"Accept": "application/json", "Cookie": self.cookie}
        if method != "GET":
            given |= {"Origin": self.url, "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), given | headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> object:
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def log_in(self) -> int:
        status, headers, _ = self.ask("POST", "/login", {"code": self.code})
        if status == 200:
            self.cookie = headers["Set-Cookie"].partition(";")[0]
        return status

    async def events(self, count: int, origin: str | None = None) -> list[dict[str, object]]:
        headers = {"Cookie": self.cookie, "Origin": origin or self.url}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/api/v1/events", headers=headers) as listening,
        ):
            return [await listening.receive_json(timeout=TIMEOUT_S) for _ in range(count)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def go(*args: str, directory: Path = tmp_path, data: Path = tmp_path / "data") -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FLEETEST_")}
        environment |= {"FLEETEST_DATA": str(data), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield go
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"never said {text!r}: {seen}")


def coordinator(start: Callable[..., subprocess.Popen[str]], port: int = 0) -> tuple[subprocess.Popen[str], str]:
    process = start("fleetest", "coordinator", "--port", str(port))
    return process, line_with(process, "listening on").split()[2]


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_link_logs_in_once(start: Callable[..., subprocess.Popen[str]]) -> None:
    _, url = coordinator(start)
    asked = start("fleetest", "dashboard", "--coordinator", url)
    line = line_with(asked, "dashboard:")
    assert re.search(r"\(opens once, until \d\d:\d\d:\d\d\)", line)
    browser = Browser(line)
    assert browser.url == url.replace("ws://", "http://")
    assert browser.log_in() == 200
    assert browser.get("/api/v1/status")["me"]["role"] == "admin"
    assert Browser(line).log_in() == 401


def test_requests_and_events_go_through_the_proxy(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process, url = coordinator(start)
    proxy = start("fleetest", "dashboard", "--coordinator", url, "--port", "0")
    browser = Browser(line_with(proxy, "dashboard of"))
    assert browser.port != int(url.rpartition(":")[2])
    assert browser.ask("GET", "/api/v1/status")[0] == 401
    assert browser.log_in() == 200
    token = (tmp_path / "data" / "token").read_text().strip()

    status, headers, page = browser.ask("GET", "/")
    assert (status, b"<html" in page) == (200, True)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    status, headers, body = browser.ask("GET", "/api/v1/workers?limit=5")
    assert (status, headers["Content-Type"], json.loads(body)["items"]) == (200, "application/json", [])
    assert headers["Set-Cookie"] is None
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert token.encode() not in body + page + str(headers).encode()
    assert browser.ask("GET", "/api")[1]["Content-Security-Policy"]
    # A problem of the coordinator is passed on as it is.
    status, headers, body = browser.ask("POST", "/api/v1/workers/nobody/drain", {})
    assert (status, headers["Content-Type"]) == (404, "application/problem+json")
    assert asyncio.run(browser.events(1))[0]["type"] == "snapshot"

    worker = start("fleetest", "worker", "--coordinator", url, "--name", "w1", "--slots", "1")
    line_with(worker, "connected to")
    assert [each["worker_id"] for each in browser.get("/api/v1/workers")["items"]] == ["w1"]
    assert browser.ask("POST", "/api/v1/workers/w1/drain", {})[0] == 202
    assert browser.get("/api/v1/workers/w1")["state"] == "draining"

    # The token makes new links, and opens no link of workers or clients.
    again = start("fleetest", "dashboard", "--coordinator", browser.url)
    assert Browser(line_with(again, "dashboard:")).log_in() == 200
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    for path in ("/v1/worker", "/v1/client"):
        assert browser.ask("GET", path, None, Authorization=f"Bearer {token}", **upgrade)[0] in (403, 404)

    # Gone: said as a problem, the login lasts, and all is well when it is back.
    process.terminate()
    process.wait(TIMEOUT_S)
    status, headers, body = browser.ask("GET", "/api/v1/status")
    assert (status, json.loads(body)["code"], headers["Retry-After"]) == (503, "coordinator_absent", "2")
    assert browser.ask("GET", "/")[0] == 200
    coordinator(start, int(url.rpartition(":")[2]))
    assert browser.get("/api/v1/status")["me"]["role"] == "admin"

    proxy.send_signal(signal.SIGINT)
    assert proxy.wait(TIMEOUT_S) == 0
    assert is_refused(browser.port)


def test_the_proxy_has_the_same_gate(start: Callable[..., subprocess.Popen[str]]) -> None:
    _, url = coordinator(start)
    proxy = start("fleetest", "dashboard", "--coordinator", url, "--port", "0")
    browser = Browser(line_with(proxy, "dashboard of"))
    assert browser.log_in() == 200
    assert browser.ask("GET", "/api/v1/status", Host="evil.example")[0] == 403
    assert browser.ask("GET", "/api/v1/status", Origin="http://evil.example")[0] == 403
    assert browser.ask("POST", "/api/v1/login-codes", {}, Origin="http://evil.example")[0] == 403
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        asyncio.run(browser.events(1, origin="http://evil.example"))
    assert browser.ask("GET", "http://evil.example/api/v1/status")[0] in (400, 403, 404)
    # Another's cookie, and none.
    browser.cookie = browser.cookie[:-4] + "xxxx"
    assert browser.ask("GET", "/api/v1/status")[0] == 401
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        asyncio.run(browser.events(1))


def test_who_logs_out_of_the_proxy_hears_no_more(start: Callable[..., subprocess.Popen[str]]) -> None:
    _, url = coordinator(start)
    proxy = start("fleetest", "dashboard", "--coordinator", url, "--port", "0")
    browser = Browser(line_with(proxy, "dashboard of"))
    assert browser.log_in() == 200

    async def main() -> None:
        headers = {"Cookie": browser.cookie, "Origin": browser.url}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{browser.url}/api/v1/events", headers=headers) as listening,
        ):
            assert (await listening.receive_json())["type"] == "snapshot"
            assert (await asyncio.to_thread(browser.ask, "POST", "/logout", {}))[0] == 200
            while (await listening.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            assert listening.close_code == 1008

    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))
    assert browser.ask("GET", "/api/v1/status")[0] == 401


def test_a_token_that_is_refused_is_one_line(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    _, url = coordinator(start)
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-token-of-this-coordinator\n")
    wrong.chmod(0o600)
    proxy = start("fleetest", "dashboard", "--coordinator", url, "--port", "0", "--token-file", str(wrong))
    output, _ = proxy.communicate(timeout=TIMEOUT_S)
    assert "refused the token" in output
    assert "Traceback" not in output
    assert proxy.returncode == ExitStatus.REFUSED


def embedded_run(start: Callable[..., subprocess.Popen[str]], suite: Path, *args: str) -> subprocess.Popen[str]:
    suite.mkdir(exist_ok=True)
    (suite / "test_gated.py").write_text(GATED)
    os.mkfifo(suite / "gate")
    return start("pytest", "-p", "no:cacheprovider", "--fleet", "2", "--fleet-dashboard", *args, directory=suite)


@contextmanager
def opened_gate(suite: Path) -> Iterator[None]:
    """Meanwhile nothing waits at the gate, whenever it comes there."""
    gate = os.open(suite / "gate", os.O_RDWR)  # For both directions: this never waits itself.
    try:
        yield
    finally:
        os.close(gate)


def test_an_embedded_run_is_followed_while_it_runs(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    run = embedded_run(start, suite, "-rN")
    browser = Browser(line_with(run, "dashboard:"))
    assert browser.ask("GET", "/api/v1/status")[0] == 401
    assert browser.log_in() == 200

    async def follow() -> str:
        """Until three tests have their verdicts; the id of the run."""
        headers = {"Cookie": browser.cookie, "Origin": browser.url}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{browser.url}/api/v1/events", headers=headers) as listening,
        ):
            while True:
                frame = await listening.receive_json(timeout=TIMEOUT_S)
                for each in frame["runs"]:
                    if sum(each["counts"].values()) == 3:
                        return str(each["run_id"])

    run_id = asyncio.run(follow())
    tasks = {each["task_id"]: each for each in browser.get(f"/api/v1/runs/{run_id}/tasks")["items"]}
    verdicts = [tasks[name]["verdict"] for name in sorted(tasks)]
    assert verdicts == ["passed", "failed", "passed", None]
    failed = sorted(tasks)[1]
    detail = browser.get(f"/api/v1/runs/{run_id}/tasks/{failed.replace('/', '%2F').replace('[', '%5B')}")
    assert "broken on purpose" in detail["attempt_list"][0]["traceback"]

    # Another run of the project meanwhile: neither waits for nor breaks the other.
    other = start("pytest", "-p", "no:cacheprovider", "--fleet", "1", "-k", "test_one", directory=suite)
    output, _ = other.communicate(timeout=TIMEOUT_S)
    assert (other.returncode, "2 passed" in output) == (1, True), output

    with opened_gate(suite):
        rest, _ = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 1
    assert "1 failed, 3 passed" in rest
    assert "the dashboard is closed with the run: its link is dead (what was recorded: fleetest history)" in rest
    assert is_refused(browser.port)

    import duckdb

    last = start("pytest", "-p", "no:cacheprovider", "--fleet", "1", "-k", "test_one", directory=suite)
    last.communicate(timeout=TIMEOUT_S)
    with duckdb.connect(str(suite / ".fleetest" / "history.duckdb"), read_only=True) as history:
        assert history.execute("SELECT count(*) FROM runs WHERE outcome = 'finished'").fetchone() == (3,)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_dashboard_whose_run_is_ended(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    run = embedded_run(start, tmp_path / "suite")
    browser = Browser(line_with(run, "dashboard:"))
    assert browser.log_in() == 200
    line_with(run, "collected")
    with opened_gate(tmp_path / "suite"):
        run.send_signal(number)
        run.communicate(timeout=TIMEOUT_S)
    assert is_refused(browser.port)


def test_a_port_in_use_is_one_line(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = embedded_run(start, tmp_path / "suite", f"--fleet-dashboard={taken.getsockname()[1]}")
        output, _ = run.communicate(timeout=TIMEOUT_S)
    assert "is in use" in output
    assert "Traceback" not in output
    assert run.returncode == ExitStatus.PORT_IN_USE


def test_a_path_is_not_taken_for_a_port(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    output, _ = embedded_run(start, tmp_path / "suite", "test_gated.py").communicate(timeout=TIMEOUT_S)
    assert "--fleet-dashboard takes a port, not 'test_gated.py'" in output


def test_at_a_coordinator_its_own_link_is_printed(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    _, url = coordinator(start)
    line_with(start("fleetest", "worker", "--coordinator", url, "--slots", "1"), "connected to")
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "test_ok.py").write_text("def test_ok(): pass\n")
    run = start("pytest", "-p", "no:cacheprovider", "--fleet", url, "--fleet-dashboard", directory=suite)
    browser = Browser(line_with(run, "dashboard:"))
    assert browser.url == url.replace("ws://", "http://")
    assert browser.log_in() == 200
    output, _ = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 0
    assert "link is dead" not in output


def test_a_suite_file_has_its_dashboard_too(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text('[[command]]\nname = "ok"\nargv = ["true"]\n')
    run = start("fleetest", "run", "--dashboard", "suite.toml", "--fleet", "1")
    line = line_with(run, "dashboard:")
    output, _ = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 0, output
    assert "its link is dead" in output
    assert "history:" in output
    assert is_refused(Browser(line).port)


def test_without_it_no_server_is_loaded(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    (tmp_path / "test_ok.py").write_text("def test_ok(): pass\n")
    (tmp_path / "conftest.py").write_text(
        "import sys\n"
        "def pytest_unconfigure(config):\n"
        "    if not hasattr(config, 'workerinput'):\n"
        "        names = ('aiohttp', 'prometheus_client', 'fleetest.api', 'fleetest.dashboard_of_run')\n"
        "        print('LOADED', [name for name in names if name in sys.modules])\n"
    )
    output, _ = start("pytest", "-p", "no:cacheprovider", "--fleet", "1").communicate(timeout=TIMEOUT_S)
    assert "LOADED []" in output, output
