"""A coordinator and workers as separate processes on loopback, for measurements and comparisons."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class LocalFleet:
    url: str
    token_file: Path
    coordinator: subprocess.Popen[bytes]
    workers: Sequence[subprocess.Popen[bytes]]
    log: Path

    @property
    def pids(self) -> list[int]:
        return [self.coordinator.pid, *(worker.pid for worker in self.workers)]

    @property
    def client_args(self) -> list[str]:
        # With "=": pytest takes a path that stands alone for a test path while it looks for the root directory.
        return [f"--fleet={self.url}", f"--fleet-token-file={self.token_file}"]

    @property
    def suite_args(self) -> list[str]:
        """The same for ``fleetest run`` with a suite file."""
        return ["--fleet", self.url, "--token-file", str(self.token_file)]


@contextlib.contextmanager
def local_fleet(
    folder: Path,
    *,
    workers: int,
    slots: int = 1,
    python_path: Path | None = None,
    way: Callable[[int], contextlib.AbstractContextManager[int]] = contextlib.nullcontext,
    coordinator_args: Sequence[str] = (),
) -> Iterator[LocalFleet]:
    """Start, wait until the coordinator answers, and end everything afterwards.

    ``folder`` keeps its data and log; ``python_path`` is where the processes find further modules. ``way`` gets the
    coordinator's port and gives the one that the workers connect to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, log = folder / "data", folder / "fleet.log"
    port = _free_port()
    url = f"ws://127.0.0.1:{port}"
    fleetest = [sys.executable, "-m", "fleetest"]
    environment = user_environment()
    if python_path is not None:
        environment["PYTHONPATH"] = str(python_path)
    with contextlib.ExitStack() as stack, log.open("ab") as output:
        worker_port = stack.enter_context(way(port))
        listen = ["--port", str(port), "--data", str(data), "--public-host", f"127.0.0.1:{worker_port}"]
        coordinator = stack.enter_context(
            _process([*fleetest, "coordinator", *listen, *coordinator_args], folder, environment, output)
        )
        _wait_until_listening(port, data / "token", coordinator, log)
        dial_in = [
            "--coordinator",
            f"ws://127.0.0.1:{worker_port}",
            "--token-file",
            str(data / "token"),
            "--slots",
            str(slots),
        ]
        started = [
            stack.enter_context(
                _process([*fleetest, "worker", *dial_in, "--name", f"local{number}"], folder, environment, output)
            )
            for number in range(workers)
        ]
        yield LocalFleet(url, data / "token", coordinator, started, log)


def user_environment() -> dict[str, str]:
    """Ours, with compiled modules kept as an installation has them."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@contextlib.contextmanager
def _process(
    command: list[str], folder: Path, environment: dict[str, str], output: BinaryIO
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_until_listening(port: int, token: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the coordinator ended with status {process.returncode}: see {log}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            if token.exists():
                return
        time.sleep(0.05)
    raise SystemExit(f"the coordinator did not listen within {START_TIMEOUT_S:.0f} s: see {log}")
