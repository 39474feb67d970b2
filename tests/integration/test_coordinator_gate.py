"""Who passes the coordinator's one port, and who does not: over real sockets on loopback."""

import asyncio
import json
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress

import pytest

from fleetest.api.application import Api
from fleetest.coordinator import Coordinator
from fleetest.core.cluster_state import ClusterState
from fleetest.core.model import AttemptResult, Capabilities, LeaseId, Verdict
from fleetest.dashboard_server import DashboardServer
from fleetest.errors import ExitStatus, LinkClosed, UserError
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.task_scheduler import TaskScheduler
from fleetest.transport.identity import FixedCredentials, Role
from fleetest.transport.server import STRANGERS_MAX, NetworkServer
from fleetest.transport.websocket import Unreachable, check_url, connect_client, connect_worker
from fleetest.wire.messages import ClientHello, Outcome, TasksFinished, Welcome, WorkerHello

TOKEN = "the-token-of-this-test-0123456789"
CREDENTIALS = FixedCredentials({TOKEN: Role.ADMIN})
TIMEOUT_S = 60.0
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@asynccontextmanager
async def server(tls=None, **settings):
    state = ClusterState(TaskScheduler(), LoadBalancer(), HealthMonitor())
    shell = Coordinator(state, history=None)
    api = Api(shell, history=None, credentials=CREDENTIALS)
    network = NetworkServer(
        credentials=CREDENTIALS,
        serve_worker=shell.serve_worker,
        serve_client=shell.serve_client,
        site=DashboardServer(api),
        sessions=api.sessions,
        **settings,
    )
    port = await network.start("127.0.0.1", 0, tls)
    api.start(network.gate)
    try:
        yield port
    finally:
        await shell.close()
        await network.close()
        await api.close()


async def ask(
    port: int, path: str, headers: str = "", *, host: str | None = None, method: str = "GET"
) -> tuple[int, str]:
    """Status and the whole answer of one raw request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    host_line = f"Host: {f'127.0.0.1:{port}' if host is None else host}\r\n" if host != "" else ""
    writer.write(f"{method} {path} HTTP/1.1\r\n{host_line}Connection: close\r\n{headers}\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1]), answer


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


BEARER = f"Authorization: Bearer {TOKEN}\r\n"


@pytest.mark.parametrize(
    ("path", "headers", "host", "method", "status"),
    [
        ("/healthz", "", None, "GET", 200),
        ("/api/v1/status", BEARER, None, "GET", 200),
        ("/api/v1/status", BEARER, "localhost:{port}", "GET", 200),
        ("/api/v1/status", BEARER, "LOCALHOST:{port}", "GET", 200),
        ("/api/v1/status", BEARER, "[::1]:{port}", "GET", 200),
        ("/api/v1/status", BEARER, "tests.example.org", "GET", 200),
        ("/api/v1/status", BEARER + "Origin: http://localhost:{port}\r\n", None, "GET", 200),
        ("/v1/worker", BEARER, None, "GET", 426),
        ("/nothing", BEARER, None, "GET", 404),
        ("/api/v1/status", BEARER, None, "DELETE", 405),
        ("/healthz", "", None, "POST", 405),
        ("/", "", None, "GET", 401),
        ("/nothing", "", None, "GET", 401),
        ("/api/v1/status", "", None, "GET", 401),
        ("/v1/worker", UPGRADE, None, "GET", 401),
        ("/v1/client", UPGRADE, None, "GET", 401),
        ("/v1/client", UPGRADE + "Authorization: Bearer wrong\r\n", None, "GET", 401),
        ("/v1/client", UPGRADE + f"Authorization: Basic {TOKEN}\r\n", None, "GET", 401),
        (f"/v1/client?token={TOKEN}", UPGRADE, None, "GET", 401),
        ("/api/v1/status", BEARER + BEARER, None, "GET", 400),
        ("/healthz", "", "evil.example.org", "GET", 403),
        ("/healthz", "", "127.0.0.1:1", "GET", 403),
        ("/api/v1/status", BEARER, "evil.example.org:{port}", "GET", 403),
        ("/v1/client", UPGRADE + BEARER + "Origin: http://evil.example.org\r\n", None, "GET", 403),
        ("/v1/client", UPGRADE + BEARER + "Origin: null\r\n", None, "GET", 403),
        ("/v1/client", UPGRADE + BEARER + "Origin: http://127.0.0.1:1\r\n", None, "GET", 403),
    ],
)
def test_every_request_passes_the_same_gate(path, headers, host, method, status):
    async def main() -> None:
        async with server(public_hosts=["tests.example.org"]) as port:
            given = host.format(port=port) if host else host
            got, answer = await ask(port, path, headers.replace("{port}", str(port)), host=given, method=method)
            assert got == status
            assert ("WWW-Authenticate: Bearer" in answer) == (status == 401)
            assert "application/problem+json" in answer or status == 200
            assert TOKEN not in answer
            assert "aiohttp" not in answer

    run(main)


def test_no_host_at_all_is_refused():
    async def main() -> None:
        async with server() as port:
            status, _ = await ask(port, "/healthz", host="")
            assert status in {400, 403}

    run(main)


def test_the_api_tells_the_state():
    async def main() -> None:
        async with server() as port:
            link = await connect_worker(f"ws://127.0.0.1:{port}", TOKEN)
            link.send(WorkerHello(version=1, name="w1", session="s", slots=3, capabilities=Capabilities()))
            await link.receive()
            _, answer = await ask(port, "/api/v1/workers", BEARER)
            [worker] = json.loads(answer.partition("\r\n\r\n")[2])["items"]
            assert (worker["worker_id"], worker["slots"], worker["state"]) == ("w1", 3, "healthy")
            await link.close()

    run(main)


def test_a_connection_that_says_nothing_is_closed():
    async def main() -> None:
        async with server(handshake_timeout_s=0.0) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\n")
            try:
                answer = await reader.read()
            except ConnectionError:
                answer = b""
            assert answer == b""
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    run(main)


def test_strangers_do_not_crowd_out_those_who_have_the_token():
    async def main() -> None:
        async with server() as port:
            url = f"ws://127.0.0.1:{port}"
            known = await connect_client(url, TOKEN)
            strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(STRANGERS_MAX)]
            late = await connect_client(url, TOKEN)
            assert await strangers[0][0].read() == b""  # The oldest had to go.
            await late.close()
            for _, writer in strangers:
                writer.close()
                await writer.wait_closed()
            known.send(ClientHello(version=1))
            assert isinstance((await known.receive())[0], Welcome)
            await known.close()

    run(main)


def test_a_wrong_token_is_one_line_with_what_to_do():
    async def main() -> None:
        async with server() as port:
            with pytest.raises(UserError, match="--token-file") as caught:
                await connect_worker(f"ws://127.0.0.1:{port}", "another-token")
            assert caught.value.exit_status is ExitStatus.REFUSED

    run(main)


def test_nobody_there_is_unreachable():
    async def main() -> None:
        async with server() as port:
            pass
        with pytest.raises(Unreachable, match="is it running there") as caught:
            await connect_client(f"ws://127.0.0.1:{port}", TOKEN)
        assert caught.value.exit_status is ExitStatus.UNREACHABLE

    run(main)


def test_a_used_port_is_one_line():
    async def main() -> None:
        async with server() as port:
            network = NetworkServer(credentials=CREDENTIALS, serve_worker=None, serve_client=None)
            with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 is in use") as caught:
                await network.start("127.0.0.1", port)
            assert caught.value.exit_status is ExitStatus.PORT_IN_USE
            await network.close()

    run(main)


def test_what_is_no_message_closes_that_link_only():
    async def main() -> None:
        async with server() as port:
            bad = await connect_client(f"ws://127.0.0.1:{port}", TOKEN)
            good = await connect_client(f"ws://127.0.0.1:{port}", TOKEN)
            await bad._socket.send_bytes(b"\xc1nonsense")
            with pytest.raises(LinkClosed) as caught:
                await bad.receive()
            assert caught.value.code == 1002
            good.send(ClientHello(version=1))
            assert isinstance((await good.receive())[0], Welcome)
            await bad.close()
            await good.close()

    run(main)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "ws://",
        "127.0.0.1:8765",
        "ws://host:port",
        "ws://u:p@host:1",
        "ws://host/path",
        "ws://host:0",
    ],
)
def test_an_address_that_is_none_is_one_line(url):
    with pytest.raises(UserError, match="it looks like ws://"):
        check_url(url)


def test_a_good_address_loses_its_slash():
    assert check_url("wss://[::1]:8765/") == "wss://[::1]:8765"


def test_a_client_that_does_not_read_is_cut_off_and_nobody_waits_for_it(monkeypatch):
    monkeypatch.setattr("fleetest.transport.server.BACKLOG_BYTES_MAX", 1024 * 1024)

    async def main() -> None:
        accepted = asyncio.get_running_loop().create_future()
        over = asyncio.Event()

        async def serve_client(link):
            accepted.set_result(link)
            with suppress(LinkClosed):
                await link.receive()
            over.set()

        network = NetworkServer(credentials=CREDENTIALS, serve_worker=serve_client, serve_client=serve_client)
        port = await network.start("127.0.0.1", 0)
        client = await connect_client(f"ws://127.0.0.1:{port}", TOKEN)
        near = await accepted
        result = AttemptResult(LeaseId(1), Verdict.FAILED, output="x" * 500_000)
        outcome = Outcome(task_id="t", attempt=1, verdict=Verdict.FAILED, is_final=True, result=result)
        sent = 200
        for _ in range(sent):
            near.send(TasksFinished(run_id="r", outcomes=[outcome]))
            await asyncio.sleep(0)
        await over.wait()
        received = 0
        with suppress(LinkClosed):
            while True:
                received += len(await client.receive())
        assert received < sent // 2, "kept far more than the limit"
        await client.close()
        await network.close()

    run(main)


def test_a_run_over_tls(tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip

    async def main() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        async with server(tls=context) as port:
            url = f"wss://127.0.0.1:{port}"
            link = await connect_client(url, TOKEN, tls_ca=certificate)
            link.send(ClientHello(version=1))
            assert isinstance((await link.receive())[0], Welcome)
            await link.close()
            with pytest.raises(UserError, match=r"is not trusted here .*--tls-ca") as caught:
                await connect_client(url, TOKEN)
            assert caught.value.exit_status is ExitStatus.REFUSED
            with pytest.raises(Unreachable):
                await connect_client(f"ws://127.0.0.1:{port}", TOKEN)

    run(main)


def test_an_unreadable_authority_is_one_line(tmp_path):
    async def main() -> None:
        with pytest.raises(UserError, match="cannot read the certificates"):
            await connect_client("wss://127.0.0.1:1", TOKEN, tls_ca=tmp_path / "none.pem")

    run(main)
