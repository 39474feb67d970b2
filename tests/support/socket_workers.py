"""Workers that speak the real protocol over real sockets and execute nothing: every task passes at once.

For loads that would need hundreds of processes. They live on an event loop of their own, in a thread.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

from support.tables import Samples

from fleetest.core.model import AttemptResult, Capabilities, LeaseId, Verdict
from fleetest.core.suite_planning import fingerprint_of
from fleetest.errors import LinkClosed
from fleetest.transport.websocket import connect_worker
from fleetest.wire import messages as wire

TIMEOUT_S = 120.0


class SocketWorkers:
    """Any number of them; ``close`` ends all."""

    def __init__(self, url: str, token: str, beat_every_s: float | None = None) -> None:
        self._url, self._token, self._beat_every_s = url, token, beat_every_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="socket workers", daemon=True)
        self._thread.start()
        self._serving: list[asyncio.Task[None]] = []
        self.executed: dict[str, int] = {}
        """How often each task was executed."""
        self.beats = 0

    def join(self, names: Sequence[str], samples: Samples) -> None:
        """Connect and register them one after the other; one sample is one registration, TCP included."""

        async def join_all() -> None:
            for name in names:
                started = time.perf_counter()
                link = await connect_worker(self._url, self._token)
                link.send(
                    wire.WorkerHello(
                        version=wire.PROTOCOL_VERSION,
                        name=name,
                        session=f"session of {name}",
                        slots=1,
                        capabilities=Capabilities({"os": ("linux",)}, {"cpus": 4.0}),
                        host="localhost",
                    )
                )
                first, *others = await link.receive()
                assert isinstance(first, wire.Welcome), first
                samples.seconds.append(time.perf_counter() - started)
                self._serving.append(asyncio.ensure_future(self._serve(link, others)))

        asyncio.run_coroutine_threadsafe(join_all(), self._loop).result(TIMEOUT_S)

    async def _serve(self, link, early: Sequence[wire.CoordinatorMessage]) -> None:  # type: ignore[no-untyped-def]
        beating = asyncio.ensure_future(self._beat(link)) if self._beat_every_s is not None else None
        try:
            batch: Sequence[wire.CoordinatorMessage] = early
            while True:
                for message in batch:
                    self._answer(link, message)
                batch = await link.receive()
        except LinkClosed:
            return
        finally:
            if beating is not None:
                beating.cancel()
            await link.close()

    async def _beat(self, link) -> None:  # type: ignore[no-untyped-def]
        assert self._beat_every_s is not None
        while True:
            link.send(wire.Heartbeat())
            self.beats += 1
            await asyncio.sleep(self._beat_every_s)

    def _answer(self, link, message: wire.CoordinatorMessage) -> None:  # type: ignore[no-untyped-def]
        if isinstance(message, wire.PrepareRun):
            for suite in message.suites:
                assert isinstance(suite, wire.CommandSuite)
                fingerprint = fingerprint_of(task.task_id for task in suite.tasks)
                count = len(suite.tasks)
                link.send(
                    wire.SuiteCollected(run_id=message.run_id, suite=suite.name, fingerprint=fingerprint, count=count)
                )
        elif isinstance(message, wire.GrantLeases):
            for lease in message.leases:
                key = f"{lease.run_id}/{lease.task_id}"
                self.executed[key] = self.executed.get(key, 0) + 1
            results = [
                AttemptResult(LeaseId(lease.lease_id), Verdict.PASSED, started_at=time.time(), duration_s=0.001)
                for lease in message.leases
            ]
            link.send(wire.AttemptsFinished(results=results))

    def close(self) -> None:
        """Say nothing more, close every link, end the loop."""

        async def end() -> None:
            for serving in self._serving:
                serving.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
