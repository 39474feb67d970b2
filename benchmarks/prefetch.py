"""Do runners wait for the network? A real fleet on loopback whose workers connect through a proxy that delays.

    python benchmarks/prefetch.py [--tests N] [--latency-ms MS ...]

Two workers with one slot each run tests that sleep for 10 ms. Each test notes when it began and ended; the number is
the share of the time, from a runner's first test to its last, in which it executed tests. ``fixed`` is the same policy
with the prefetch that is right for a local network.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from local_fleet import local_fleet

SLEEP_S = 0.01
_FIXED = """
from fleetest.load_balancer import LoadBalancer

class Fixed(LoadBalancer):
    def prefetch_s(self, worker):
        return 0.4
"""
_SUITE = """
import os, time
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_number(number):
    began = time.time()
    time.sleep({sleep_s})
    with open(f"{notes}/{{os.getpid()}}", "a") as file:
        file.write(f"{{began}} {{time.time()}}\\n")
"""


@contextlib.contextmanager
def delaying_proxy(port: int, latency_s: float) -> Iterator[int]:
    """Listens on a free port and passes everything on to ``port``, later by ``latency_s`` each way."""
    ready: list[int] = []
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_copy(reader, upstream_writer, latency_s), _copy(upstream_reader, writer, latency_s))

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        ready.append(server.sockets[0].getsockname()[1])
        started.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    started.wait()
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency_s: float) -> None:
    loop = asyncio.get_running_loop()

    def write(data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data) if data else writer.close()

    data = b"-"
    while data:
        try:
            data = await reader.read(65536)
        except OSError:
            data = b""
        loop.call_later(latency_s, write, data)


def working_share(notes: Path) -> float:
    """Over all runners, executing time over the time between first start and last end."""
    busy_s = whole_s = 0.0
    for file in notes.iterdir():
        spans = [tuple(map(float, line.split())) for line in file.read_text().splitlines()]
        busy_s += sum(end - began for began, end in spans)
        whole_s += spans[-1][1] - spans[0][0]
    return busy_s / whole_s


def measure(tests: int, latency_s: float, balancing: str) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suite, notes = folder / "suite", folder / "notes"
        suite.mkdir()
        notes.mkdir()
        (suite / "test_sleeping.py").write_text(_SUITE.format(tests=tests, sleep_s=SLEEP_S, notes=notes))
        (folder / "fixed_prefetch.py").write_text(_FIXED)
        (suite / "pytest.ini").write_text("[pytest]\n")

        def way(port: int) -> contextlib.AbstractContextManager[int]:
            return delaying_proxy(port, latency_s)

        arguments = ["--balancing", balancing]
        with local_fleet(folder / "fleet", workers=2, way=way, python_path=folder, coordinator_args=arguments) as fleet:
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *fleet.client_args]
            finished = subprocess.run(command, cwd=suite, capture_output=True, text=True, check=False)
            assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr
            assert f"{tests} passed" in finished.stdout
        return working_share(notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--latency-ms", type=float, nargs="*", default=[0.0, 50.0, 150.0, 400.0])
    arguments = parser.parse_args()
    print(f"{'latency each way':<20}{'adaptive':>10}{'fixed':>10}")
    for latency_ms in arguments.latency_ms:
        shares = [
            measure(arguments.tests, latency_ms / 1000, balancing) for balancing in ("adaptive", "fixed_prefetch:Fixed")
        ]
        print(f"{latency_ms:>13.0f} ms    " + "".join(f"{share:>10.2f}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
