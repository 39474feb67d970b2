"""Many workers in one process: each has a real link and speaks the protocol; its tests only take time.

    python benchmarks/simulated_workers.py URL TOKEN_FILE --workers 1000 --tests 100000 --mean-s 0.5

Every run that it is asked for is the same suite, and takes the same times. One test in 200 fails, with a traceback of
one of five kinds.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import time
import uuid
from collections import deque
from pathlib import Path

import uvloop

from fleetest.core.model import AttemptResult, Capabilities, Lease, TaskId, TaskSpec, Verdict
from fleetest.core.suite_planning import fingerprint_of
from fleetest.transport.websocket import connect_worker
from fleetest.wire import messages as wire

TESTS_PER_FILE = 50
CONNECTING_AT_ONCE = 50


def tests(count: int) -> list[TaskSpec]:
    files = [f"tests/area_{number // 40:03}/test_part_{number:04}.py" for number in range(-(-count // TESTS_PER_FILE))]
    return [
        TaskSpec(
            TaskId(f"{files[number // TESTS_PER_FILE]}::test_case[{number % TESTS_PER_FILE}]"),
            group=files[number // TESTS_PER_FILE],
        )
        for number in range(count)
    ]


class SimulatedWorker:
    """One slot. ``mean_s``: how long a test takes on average."""

    def __init__(self, number: int, plan: list[TaskSpec], fingerprint: str, mean_s: float) -> None:
        self._number = number
        self._name = f"sim{number:04}"
        self._plan = plan
        self._fingerprint = fingerprint
        self._mean_s = mean_s
        self._random = random.Random(number)
        self._leases: deque[Lease] = deque()
        self._running: Lease | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._interval_s = 5.0

    async def serve(self, url: str, token: str, gate: asyncio.Semaphore) -> None:
        async with gate:
            self._link = await connect_worker(url, token)
            self._link.send(self._hello())
            first = await self._link.receive()
        beating = asyncio.create_task(self._beat())
        try:
            messages = first
            while True:
                for message in messages:
                    self._take(message)
                messages = await self._link.receive()
        finally:
            beating.cancel()

    def _hello(self) -> wire.WorkerHello:
        capabilities = Capabilities({"os": ("linux",), "rack": (f"r{self._random.randrange(8)}",)}, {"cpus": 1.0})
        return wire.WorkerHello(
            version=wire.PROTOCOL_VERSION,
            name=self._name,
            session=uuid.uuid4().hex,
            slots=1,
            capabilities=capabilities,
            host="simulated",
        )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            held = [lease.lease_id for lease in self._leases]
            if self._running is not None:
                held.append(self._running.lease_id)
            load = self._random.uniform(0.2, 1.4)
            self._link.send(
                wire.Heartbeat(held_leases=tuple(held), load_average=load, memory_available_bytes=int(8e9 - load * 2e9))
            )

    def _take(self, message: wire.CoordinatorMessage) -> None:
        if isinstance(message, wire.Welcome | wire.SetHeartbeat):
            is_welcome = isinstance(message, wire.Welcome)
            self._interval_s = message.heartbeat_interval_s if is_welcome else message.interval_s
        elif isinstance(message, wire.PrepareRun):
            self._random = random.Random(self._number)
            for suite in message.suites:
                self._link.send(
                    wire.SuiteCollected(
                        run_id=message.run_id, suite=suite.name, fingerprint=self._fingerprint, count=len(self._plan)
                    )
                )
        elif isinstance(message, wire.SendPlan):
            self._send_plan(message)
        elif isinstance(message, wire.GrantLeases):
            self._leases.extend(message.leases)
            self._go_on()
        elif isinstance(message, wire.RevokeLeases):
            self._give_back(set(message.lease_ids))
        elif isinstance(message, wire.KillLeases):
            self._give_back(set(message.lease_ids))
            if self._running is not None and self._running.lease_id in message.lease_ids and self._ending is not None:
                self._ending.cancel()
                self._end(self._running, time.time(), 0.0, Verdict.CANCELLED)
        elif isinstance(message, wire.Refused):
            raise SystemExit(f"{self._name} was refused: {message.reason}")

    def _send_plan(self, message: wire.SendPlan) -> None:
        items = [
            wire.ItemInfo(task.task_id, task.group, number % TESTS_PER_FILE, task.task_id.rpartition("::")[2], ())
            for number, task in enumerate(self._plan)
        ]
        self._link.send(
            wire.SuitePlan(
                run_id=message.run_id, suite=message.suite, fingerprint=self._fingerprint, tasks=self._plan, items=items
            )
        )

    def _give_back(self, wanted: set[str]) -> None:
        returned = tuple(lease.lease_id for lease in self._leases if lease.lease_id in wanted)
        self._leases = deque(lease for lease in self._leases if lease.lease_id not in wanted)
        if returned:
            self._link.send(wire.LeasesReturned(lease_ids=returned))

    def _go_on(self) -> None:
        if self._running is not None or not self._leases:
            return
        lease = self._running = self._leases.popleft()
        started_at = time.time()
        duration_s = self._mean_s * self._random.uniform(0.5, 1.5)
        verdict = Verdict.FAILED if self._random.random() < 0.005 else Verdict.PASSED
        self._link.send(wire.AttemptsStarted(leases=((lease.lease_id, started_at),)))
        self._ending = asyncio.get_running_loop().call_later(
            duration_s, self._end, lease, started_at, duration_s, verdict
        )

    def _end(self, lease: Lease, started_at: float, duration_s: float, verdict: Verdict) -> None:
        self._running = self._ending = None
        kind = self._random.randrange(5)
        evidence = "" if verdict is not Verdict.FAILED else f"E   AssertionError: kind {'abcde'[kind]} went wrong\n"
        result = AttemptResult(
            lease.lease_id, verdict, started_at, duration_s, call_s=duration_s, cpu_s=duration_s / 2, evidence=evidence
        )
        self._link.send(wire.AttemptsFinished(results=[result]))
        self._go_on()


async def serve_all(given: argparse.Namespace) -> None:
    plan = tests(given.tests)
    fingerprint = fingerprint_of(task.task_id for task in plan)
    gate = asyncio.Semaphore(CONNECTING_AT_ONCE)
    token = given.token_file.read_text().strip()
    await asyncio.gather(
        *(
            SimulatedWorker(number, plan, fingerprint, given.mean_s).serve(given.url, token, gate)
            for number in range(given.workers)
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("token_file", type=Path)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--tests", type=int, default=100_000)
    parser.add_argument("--mean-s", type=float, default=0.5)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(serve_all(parser.parse_args()))


if __name__ == "__main__":
    main()
