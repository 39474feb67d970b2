"""Drives one worker with real templates, runners and commands: the test plays the coordinator, over an in-memory link."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fleetest.core.model import AttemptResult, Capabilities, Lease, LeaseId, RunId, TaskId
from fleetest.processes.launch import PrestartedTemplate
from fleetest.transport.memory import memory_link_pair
from fleetest.wire import messages as wire
from fleetest.worker import Worker, WorkerSettings

# Far more than anything here takes: a test that waits for what never comes fails by it.
PATIENCE_S = 60.0


class Conductor:
    """Plays the coordinator for one worker: sends what the test says and keeps everything that comes back."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.messages: list[wire.WorkerMessage] = []
        self.results: dict[int, AttemptResult] = {}
        self.run_id = RunId(uuid.uuid4().hex)
        self.epoch = 1
        self._leases = 0

    async def connect(self) -> wire.WorkerHello:
        self.link, worker_end = memory_link_pair()
        self.serving = asyncio.ensure_future(self.worker.serve(worker_end))
        hello = await self.expect(wire.WorkerHello)
        self.send(wire.Welcome(version=wire.PROTOCOL_VERSION, epoch=self.epoch, heartbeat_interval_s=3600.0))
        return hello

    def send(self, *messages: wire.CoordinatorMessage) -> None:
        for message in messages:
            self.link.send(message)

    async def until(self, is_there: Callable[[], Any]) -> None:
        """Receive until the condition holds."""
        async with asyncio.timeout(PATIENCE_S) if sys.version_info >= (3, 11) else _no_timeout():
            while not is_there():
                for message in await self.link.receive():
                    self.messages.append(message)
                    if isinstance(message, wire.AttemptsFinished):
                        self.results.update({result.lease_id: result for result in message.results})

    def all_of(self, kind: type) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    async def expect(self, kind: type) -> Any:
        """The first message of this kind, waited for."""
        await self.until(lambda: self.all_of(kind))
        return self.all_of(kind)[0]

    def prepare(self, *suites: wire.Suite, run_id: RunId | None = None) -> None:
        run_id = run_id or self.run_id
        self.send(wire.PrepareRun(run_id=run_id, suites=suites, first_runner=0, runner_count=1))

    async def plan(self, suite: wire.Suite, run_id: RunId | None = None) -> wire.SuitePlan:
        """Prepare a run of one suite and get its plan."""
        run_id = run_id or self.run_id
        self.prepare(suite, run_id=run_id)
        await self.until(lambda: any(m.run_id == run_id for m in self.all_of(wire.SuiteCollected)))
        self.send(wire.SendPlan(run_id=run_id, suite=suite.name))
        await self.until(lambda: any(m.run_id == run_id for m in self.all_of(wire.SuitePlan)))
        return next(m for m in self.all_of(wire.SuitePlan) if m.run_id == run_id)

    def lease(
        self, task_id: str, suite: str = "", timeout_s: float | None = None, run_id: RunId | None = None
    ) -> Lease:
        self._leases += 1
        run = run_id or self.run_id
        return Lease(LeaseId(self._leases), run, TaskId(task_id), suite, 1, timeout_s)

    def grant(self, leases: list[Lease], slot: int = 0, more_follow: bool = False) -> None:
        self.send(wire.GrantLeases(slot=slot, leases=tuple(leases)))
        if not more_follow:
            self.send(wire.SlotIdle(slot=slot))

    async def run(self, suite: wire.Suite, timeout_s: float | None = None) -> dict[str, AttemptResult]:
        """Execute everything in slot 0; results by the last part of the id."""
        plan = await self.plan(suite)
        leases = [self.lease(task.task_id, suite.name, timeout_s) for task in plan.tasks]
        self.grant(leases)
        await self.until(lambda: len(self.results) == len(leases))
        return {lease.task_id.rpartition("::")[2]: self.results[lease.lease_id] for lease in leases}


@asynccontextmanager
async def _no_timeout() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def conducted(adopt: PrestartedTemplate | None = None, **settings: Any) -> AsyncIterator[Conductor]:
    fields = {"name": "box", "slots": 1, "term_grace_s": 2.0, **settings}
    worker = Worker(WorkerSettings(**fields), capabilities=Capabilities(), adopt=adopt)
    conductor = Conductor(worker)
    await conductor.connect()
    try:
        yield conductor
    finally:
        await worker.close()
        # A failure of serve is a failure of the test.
        await asyncio.gather(conductor.serving)


def drive(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


async def read_fifo(path: Path) -> str:
    """All that is written to it until its writer closes it. Whoever should write may have died: then it fails."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, readable.set)
    text = b""
    try:
        while True:
            await asyncio.wait_for(readable.wait(), PATIENCE_S)
            readable.clear()
            with contextlib.suppress(BlockingIOError):
                part = os.read(descriptor, 65536)
                if not part:
                    return text.decode()
                text += part
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def write_fifo(path: Path, text: str = "go") -> None:
    await asyncio.to_thread(path.write_text, text)


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


async def until_gone(pid: int) -> None:
    """Wait on the process itself (which is no child of ours)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), PATIENCE_S)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
