"""Workers that stop, die, fail their probe: what the coordinator makes of it, heard through a webhook as anybody would."""

from __future__ import annotations

import hmac
import http.server
import json
import os
import queue
import re
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetest.errors import ExitStatus
from fleetest.transport.webhooks import sign

TIMEOUT_S = 90.0
SECRET = "0123456789abcdef0123"


class Receiver:
    """A webhook's server. ``next`` gives the alerts in the order in which they came, each once."""

    def __init__(self) -> None:
        self.failures = 0
        """So many deliveries are refused at first."""
        self.refused = 0
        self._alerts: queue.Queue[dict[str, Any]] = queue.Queue()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                expected = sign(SECRET.encode(), self.headers["Fleetest-Timestamp"], body)
                status = 500 if receiver.refused < receiver.failures else 204
                receiver.refused += status == 500
                if not hmac.compare_digest(expected, self.headers["Fleetest-Signature"]):
                    status = 403
                if status == 204:
                    receiver._alerts.put(json.loads(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/alerts"

    def next(self) -> tuple[str, str, str, str]:
        """(event, worker, cause, message)"""
        alert = self._alerts.get(timeout=TIMEOUT_S)
        return alert["event"], alert["worker"], alert["cause"], alert["message"]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def has_ended(pid: int) -> bool:
    """True as soon as the process has, whether or not somebody has reaped it."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], TIMEOUT_S)[0])
    finally:
        os.close(descriptor)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.close()


@pytest.fixture
def watched(tmp_path: Path, receiver: Receiver, make_fleet: Any) -> Any:
    """A fleet whose alerts are posted to the receiver."""
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text(SECRET + "\n")

    def start(*options: str) -> Any:
        return make_fleet("--alert-webhook", receiver.url, "--alert-secret-file", str(secret), *options)

    return start


def test_a_stopped_worker_is_suspect_then_well_and_lost_if_it_stays_stopped(watched, receiver):
    fleet = watched("--heartbeat-interval-s", "0.8")
    worker = fleet.worker("w")
    worker.send_signal(signal.SIGSTOP)
    assert receiver.next()[:3] == ("raised", "w", "suspect")
    worker.send_signal(signal.SIGCONT)
    assert receiver.next()[:3] == ("cleared", "w", "suspect")
    worker.send_signal(signal.SIGSTOP)
    assert receiver.next()[:3] == ("raised", "w", "suspect")
    assert receiver.next()[:3] == ("cleared", "w", "suspect")
    event, name, cause, message = receiver.next()
    assert (event, name, cause) == ("raised", "w", "lost")
    assert message.startswith("silent for ")
    worker.send_signal(signal.SIGCONT)
    assert receiver.next()[:3] == ("cleared", "w", "lost")
    (fleet.suite / "test_it.py").write_text("def test_it(): pass\n")
    status, output, _ = fleet.run()
    assert status == ExitStatus.OK, output


def test_a_coordinator_that_was_stopped_blames_nobody(watched, receiver):
    fleet = watched("--heartbeat-interval-s", "0.2")
    workers = [fleet.worker(f"w{number}") for number in range(2)]
    fleet.coordinator.send_signal(signal.SIGSTOP)
    # Long enough for both to be taken for lost: they are stopped and go on in between, so there is no need to guess.
    stopped = threading.Event()
    threading.Timer(2.5, stopped.set).start()
    assert stopped.wait(TIMEOUT_S)
    fleet.coordinator.send_signal(signal.SIGCONT)
    workers[0].send_signal(signal.SIGSTOP)
    assert receiver.next()[:3] == ("raised", "w0", "suspect"), (
        "the first that is heard is the one that really is silent"
    )
    workers[0].kill()


def test_a_killed_worker_is_noticed_at_once_on_the_same_machine(watched, receiver):
    """With an hour of grace the run would not end if anybody waited for it."""
    fleet = watched("--reconnect-grace-s", "3600")
    (fleet.suite / "test_it.py").write_text(
        """
def test_kills_its_worker_once():
    import os, pathlib, signal, threading
    if pathlib.Path("killed").exists():
        return
    pathlib.Path("killed").touch()
    with open(f"/proc/{os.getppid()}/stat") as file:
        worker = int(file.read().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    threading.Event().wait()
"""
    )
    fleet.worker("w1")
    fleet.worker("w2")
    status, output, names = fleet.run()
    assert status == ExitStatus.OK, output
    assert names == ["test_kills_its_worker_once"]
    event, name, cause, message = receiver.next()
    assert (event, name in ("w1", "w2"), cause) == ("raised", True, "lost")
    # It dies so fast that nobody may have heard yet that its test began.
    assert re.fullmatch(r"its process died \(1 (running|not begun): 1 queued again\)", message)


def test_a_probe_that_fails_keeps_work_away_until_it_passes(watched, receiver, tmp_path):
    receiver.failures = 2
    fleet = watched()
    ready = tmp_path / "ready"
    token = "; test -z \"$FLEETEST_TOKEN_FILE$FLEETEST_TOKEN\" || echo 'a secret leaked'"
    worker = fleet.worker(
        "w", "--probe", f"echo one; echo no disk >&2{token}; test -e {ready}", "--probe-interval-s", "0.1"
    )
    assert receiver.next() == ("raised", "w", "probe failed", "no disk")
    assert receiver.refused == 2, "it was tried again"
    (fleet.suite / "test_it.py").write_text("def test_it(): pass\n")
    client = fleet.client()
    ready.touch()
    assert receiver.next()[:3] == ("cleared", "w", "probe failed")
    output, _ = client.communicate(timeout=TIMEOUT_S)
    assert client.returncode == ExitStatus.OK, output
    ready.unlink()
    assert receiver.next() == ("raised", "w", "probe failed", "no disk")
    worker.terminate()
    worker.communicate(timeout=TIMEOUT_S)
    assert receiver.next()[:3] == ("cleared", "w", "probe failed"), "it has left"


def test_a_probe_that_hangs_is_killed_with_everything_it_started(watched, receiver, tmp_path):
    fleet = watched()
    pid_file = tmp_path / "child"
    os.mkfifo(pid_file)
    fleet.worker(
        "w",
        "--probe",
        f"sleep 1000 & echo mounting; echo $! > {pid_file}; wait",
        "--probe-interval-s",
        "3600",
        "--probe-timeout-s",
        "1",
    )
    child = int(pid_file.read_text())
    assert receiver.next() == (
        "raised",
        "w",
        "probe failed",
        "it took longer than 1 s; the last that it printed: mounting",
    )
    assert has_ended(child)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--alert-webhook", "ftp://x"], "it must be an http:// or https:// URL"),
        (["--alert-secret-file", "nowhere"], "there is no such file"),
        (["--heartbeat-interval-s", "0"], "--heartbeat-interval-s must be at least"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_in_one_line(tmp_path, options, complaint):
    import subprocess
    import sys

    finished = subprocess.run(
        [sys.executable, "-m", "fleetest", "coordinator", "--port", "0", "--data", str(tmp_path / "data"), *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=tmp_path,
        check=False,
    )
    assert finished.returncode == ExitStatus.USAGE_ERROR
    assert complaint in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
