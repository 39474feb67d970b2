"""A thousand workers lost at once beside a run of 100,000 tests, and back at once: does the coordinator answer?

A real coordinator; the workers are links that speak the protocol (``simulated_workers.py``). Their process is killed,
so that all links break in one moment, then started anew: other sessions under the same names, which take the place of
the lost ones. Meanwhile ``/healthz`` is asked all the time.

    python benchmarks/lost_workers.py [--tests 100000] [--workers 1000] [--rate 1500] [--away-s 0] [--quick]

``--away-s``: so long they stay away; beyond 15 s the coordinator gives them up first. ``--quick``: 10,000 tests on 200.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from local_fleet import local_fleet
from simulated_fleet import TIMEOUT_S, Coordinator, Helper

PROBE_EVERY_S = 0.02
STEADY_S = 5.0


@contextlib.contextmanager
def probing(coordinator: Coordinator) -> Iterator[list[float]]:
    """The seconds that each answer took, while this goes on."""
    took_s: list[float] = []
    ending = threading.Event()

    def probe() -> None:
        while not ending.wait(PROBE_EVERY_S):
            began = time.monotonic()
            urllib.request.urlopen(f"{coordinator.http}/healthz", timeout=TIMEOUT_S).read()
            took_s.append(time.monotonic() - began)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield took_s
    finally:
        ending.set()
        thread.join()


@contextlib.contextmanager
def phase(coordinator: Coordinator, name: str) -> Iterator[None]:
    """Prints a row about what happens in it."""
    began, cpu_s = time.monotonic(), coordinator.cpu_s
    with probing(coordinator) as took_s:
        yield
        wall_s, cpu_s = time.monotonic() - began, coordinator.cpu_s - cpu_s
    took_s.sort()
    p99_ms, longest_ms = took_s[int(0.99 * len(took_s))] * 1e3, took_s[-1] * 1e3
    print(f"{name:22} {wall_s:6.1f} s {cpu_s:10.1f} s {p99_ms:9.0f} ms {longest_ms:9.0f} ms", flush=True)


def wait_until(coordinator: Coordinator, state: str, count: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while coordinator.ask("/status")["workers"][state] != count:
        if time.monotonic() > deadline:
            raise SystemExit(f"not {count} workers {state}: see {coordinator.fleet.log}")
        time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=1500.0)
    parser.add_argument("--away-s", type=float, default=0.0)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.tests, given.workers, given.rate = 10_000, 200, 500.0
    with (
        tempfile.TemporaryDirectory(prefix="fleetest-lost-") as name,
        local_fleet(Path(name), workers=0) as fleet,
    ):
        coordinator = Coordinator(fleet)
        counts = ("--workers", str(given.workers), "--tests", str(given.tests))
        simulated = ("simulated_workers.py", fleet.url, str(fleet.token_file), *counts)
        simulated = (*simulated, "--mean-s", str(given.workers / given.rate))
        print(f"{'':22} {'took':>8} {'coordinator':>12} {'answer p99':>12} {'longest':>12}")
        with Helper(*simulated) as workers:
            coordinator.wait_for_workers(given.workers)
            run_id = coordinator.submit()
            coordinator.wait(run_id, given.tests // 20)
            with phase(coordinator, "before"):
                time.sleep(STEADY_S)
            with phase(coordinator, "all lost"):
                workers.kill()
                wait_until(coordinator, "disconnected", given.workers)
                time.sleep(given.away_s)
        with Helper(*simulated):
            with phase(coordinator, "all back"):
                wait_until(coordinator, "healthy", given.workers)
            with phase(coordinator, "afterwards"):
                time.sleep(STEADY_S)
            run = coordinator.wait(run_id)
    print(f"every test has its verdict: {run['states']['finished'] == given.tests}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
