"""What the fleet did in the last half hour, sampled at regular times: for the first picture that a page draws."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from fleetest.api import answers
from fleetest.api.answers import utc
from fleetest.api.describe import task_counts
from fleetest.api.fleet import Fleet, WorkerFacts
from fleetest.api.live_index import LiveIndex
from fleetest.core.lifecycle import WorkerState
from fleetest.core.model import Verdict, WorkerId

INTERVAL_S = 2.0
SAMPLES_MAX = 900
WORKER_EVERY = 5
"""Workers are sampled at every so many samples of the fleet."""
WORKER_SAMPLES_MAX = 180
FLEET_NAMES = ("finished", "passed", "failed", "waiting", "running", "leased", "workers", "slots_used", "slots")
WORKER_NAMES = ("load_average", "memory_available_bytes", "slots_used", "waiting")
_RATE_SAMPLES = 30


class FleetSeries:
    """``finished``, ``passed`` and ``failed`` are totals since the start; the rest are values at that moment."""

    def __init__(self, fleet: Fleet, index: LiveIndex, wall: Callable[[], float]) -> None:
        self._fleet = fleet
        self._index = index
        self._wall = wall
        self._samples: deque[tuple[float, tuple[float, ...]]] = deque(maxlen=SAMPLES_MAX)
        self._workers: dict[WorkerId, deque[tuple[float, tuple[float | None, ...]]]] = {}
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.sample()
        self._task = asyncio.get_running_loop().create_task(self._keep_sampling())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def sample(self) -> None:
        """Take one sample now."""
        cluster = self._fleet.state.cluster
        passed = self._index.verdicts_total[Verdict.PASSED]
        failed = sum(count for verdict, count in self._index.verdicts_total.items() if not verdict.is_success)
        counts = task_counts(cluster.runs.values())
        taking = [worker for worker in cluster.workers.values() if worker.state is WorkerState.HEALTHY]
        now = self._wall()
        self._samples.append(
            (
                now,
                (
                    self._index.finished_total,
                    passed,
                    failed,
                    counts.waiting,
                    counts.running,
                    counts.leased,
                    len(taking),
                    len(cluster.busy),
                    sum(len(worker.slots) for worker in taking),
                ),
            )
        )
        if self._count % WORKER_EVERY == 0:
            self._sample_workers(now)
        self._count += 1

    def finished_per_s(self) -> float:
        """Mean of the last minute."""
        if len(self._samples) < 2:
            return 0.0
        first_at, first = self._samples[max(0, len(self._samples) - _RATE_SAMPLES)]
        elapsed_s = self._wall() - first_at
        return max(0.0, self._index.finished_total - first[0]) / elapsed_s if elapsed_s > 0 else 0.0

    def of_fleet(self) -> answers.Series:
        return _series(INTERVAL_S, FLEET_NAMES, list(self._samples))

    def of_worker(self, worker_id: WorkerId) -> answers.Series:
        return _series(INTERVAL_S * WORKER_EVERY, WORKER_NAMES, list(self._workers.get(worker_id, ())))

    async def _keep_sampling(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            self.sample()

    def _sample_workers(self, now: float) -> None:
        cluster = self._fleet.state.cluster
        for gone in [worker_id for worker_id in self._workers if worker_id not in cluster.workers]:
            del self._workers[gone]
        for worker_id, worker in cluster.workers.items():
            facts = told_facts(self._fleet, worker_id)
            used = sum(bool(slot.leases) for slot in worker.slots)
            sample = (
                facts.load_average if facts is not None else None,
                float(facts.memory_available_bytes) if facts is not None else None,
                float(used),
                float(worker.lease_count - used),
            )
            known = self._workers.setdefault(worker_id, deque(maxlen=WORKER_SAMPLES_MAX))
            known.append((now, sample))


def told_facts(fleet: Fleet, worker_id: WorkerId) -> WorkerFacts | None:
    """Load and memory as its last heartbeat told them; None before the first one: no machine has no memory at all."""
    facts = fleet.worker_facts.get(worker_id)
    return facts if facts is not None and facts.memory_available_bytes else None


def _series(
    interval_s: float,
    names: tuple[str, ...],
    samples: list[tuple[float, tuple[float, ...]]] | list[tuple[float, tuple[float | None, ...]]],
) -> answers.Series:
    times = [time for time in (utc(at) for at, _ in samples) if time is not None]
    values = {name: [sample[position] for _, sample in samples] for position, name in enumerate(names)}
    return answers.Series(interval_s=interval_s, at=times, values=values)
