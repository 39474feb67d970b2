"""Prometheus metrics: counted in plain numbers as events pass, put into words only when somebody asks.

Base units, ``_total`` for what only grows, and no label that names a test, a run or a worker. Every series exists from
the start, at 0: whoever scales by them must not see them vanish.
"""

from __future__ import annotations

import asyncio
import bisect
import gc
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fleetest import __version__
from fleetest.api.context import Context
from fleetest.api.describe import live_state, task_counts
from fleetest.core import commands, events
from fleetest.core.alerts import Cause
from fleetest.core.lifecycle import WorkerState
from fleetest.core.model import Instant, RunId, TaskId, Verdict, WorkerId
from fleetest.storage.slow_disk import DiskQuestion
from fleetest.transport.identity import Role

SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
ATTEMPT_REASONS = ("first", "user_retry", "worker_lost")
RUN_STATES = ("collecting", "running", "cancelling")
REFUSALS = ("token_needed", "wrong_token", "wrong_code", "too_many_failures", "host_not_allowed", "origin_not_allowed")
LAG_EVERY_S = 1.0
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts by bucket; bounds are inclusive."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        found, count = [], 0
        for bound, own in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            count += own
            found.append((bound, float(count)))
        return found


class FleetMetrics:
    """Follows a fleet. ``data_directory``: whose disk is watched."""

    def __init__(self, context: Context, data_directory: Path | None) -> None:
        self._context = context
        self._disk = DiskQuestion(lambda: shutil.disk_usage(data_directory)) if data_directory is not None else None
        self._free_bytes: int | None = None
        """Where the data directory is; None: nobody can tell."""
        self.verdicts: Counter[Verdict] = Counter()
        self.attempts: Counter[str] = Counter()
        self.crashes: Counter[Verdict] = Counter()
        self.alerts: Counter[str] = Counter()
        self.reconnects: Counter[str] = Counter()
        self.stale_results = 0
        self.queue_wait = Histogram(SECONDS)
        self.durations = Histogram(SECONDS)
        self.heartbeat_lag = Histogram(LAG_SECONDS)
        self.loop_lag = Histogram(LAG_SECONDS)
        self.gc_s = 0.0
        self._gc_began = 0.0
        self._planned_at: dict[RunId, Instant] = {}
        self._again: dict[tuple[RunId, TaskId], str] = {}
        """Why the next attempt of a task is made."""
        self._last_beat: dict[WorkerId, Instant] = {}
        self._sessions: dict[str, None] = {}
        self._measuring: asyncio.Task[None] | None = None
        context.fleet.observe(self._observe)

    def start(self) -> None:
        gc.callbacks.append(self._on_gc)
        self._measuring = asyncio.get_running_loop().create_task(self._measure_lag())

    async def close(self) -> None:
        if self._measuring is not None:
            gc.callbacks.remove(self._on_gc)
            self._measuring.cancel()
            with suppress(asyncio.CancelledError):
                await self._measuring

    async def text(self) -> bytes:
        """In Prometheus' text format."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        self._free_bytes = None
        if self._disk is not None:
            with suppress(OSError, asyncio.TimeoutError):
                self._free_bytes = (await self._disk.ask()).free
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self)  # type: ignore[arg-type, unused-ignore]
        return bytes(generate_latest(registry))

    # Counting --------------------------------------------------------------------------------------------------

    def _observe(self, event: events.Event, commanded: Sequence[commands.Command]) -> None:
        kind: type = type(event)
        now = self._context.fleet.now()
        if kind is events.WorkerHeartbeat:
            self._beat(event.worker_id, now)  # type: ignore[union-attr]
        elif kind is events.SuitePlanned:
            self._planned_at[event.run_id] = now  # type: ignore[union-attr]
        elif kind is events.WorkerJoined:
            self._joined(event.session)  # type: ignore[union-attr]
        elif kind is events.WorkerDisconnected:
            self._last_beat.pop(event.worker_id, None)  # type: ignore[union-attr]
        for command in commanded:
            kind = type(command)
            if kind is commands.GrantLeases:
                for lease in command.leases:  # type: ignore[union-attr]
                    if lease.attempt == 1:
                        self.queue_wait.add(now - self._planned_at.get(lease.run_id, now))
            elif kind is commands.PublishStarted:
                self._started(command)  # type: ignore[arg-type]
            elif kind is commands.PublishOutcomes:
                self._ended(command)  # type: ignore[arg-type]
            elif kind is commands.RaiseAlert:
                self.alerts[command.cause] += 1  # type: ignore[union-attr]
            elif kind is commands.RunFinished:
                self._forget(command.run_id)  # type: ignore[union-attr]

    def _beat(self, worker_id: WorkerId, now: Instant) -> None:
        last = self._last_beat.get(worker_id)
        self._last_beat[worker_id] = now
        interval_s = self._context.fleet.state.cluster.limits.heartbeat_interval_s
        if last is not None:
            self.heartbeat_lag.add(max(0.0, now - last - interval_s))

    def _joined(self, session: str) -> None:
        self.reconnects["same_session" if session in self._sessions else "new"] += 1
        self._sessions[session] = None
        while len(self._sessions) > 10_000:
            del self._sessions[next(iter(self._sessions))]

    def _started(self, command: commands.PublishStarted) -> None:
        for task_id, attempt, *_ in command.tasks:
            reason = "first" if attempt == 1 else self._again.pop((command.run_id, task_id), "worker_lost")
            self.attempts[reason] += 1

    def _ended(self, command: commands.PublishOutcomes) -> None:
        for outcome in command.outcomes:
            if outcome.is_superseded:
                self.stale_results += 1
                continue
            result = outcome.result
            if result is not None:
                self.durations.add(result.duration_s)
                if outcome.verdict in _CRASHES:
                    self.crashes[outcome.verdict] += 1
            if outcome.is_final:
                self.verdicts[outcome.verdict] += 1
            else:
                self._again[command.run_id, outcome.task_id] = "user_retry" if result is not None else "worker_lost"

    def _forget(self, run_id: RunId) -> None:
        self._planned_at.pop(run_id, None)
        for key in [key for key in self._again if key[0] == run_id]:
            del self._again[key]

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self.loop_lag.add(max(0.0, loop.time() - due))

    def _on_gc(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._gc_began = time.perf_counter()
        else:
            self.gc_s += time.perf_counter() - self._gc_began

    # Telling ---------------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Any]:
        """As a collector of prometheus_client."""
        yield from self._of_tests()
        yield from self._of_workers()
        yield from self._of_server()

    def _of_tests(self) -> Iterator[Any]:
        cluster = self._context.fleet.state.cluster
        counts = task_counts(cluster.runs.values())
        states = {name: getattr(counts, name) for name in ("waiting", "leased", "running", "finished")}
        yield _gauge("tests", "Tests of live runs by state.", "state", states)
        yield _gauge("runs", "Live runs by state.", "state", self._run_states())
        verdicts = {verdict.value: self.verdicts[verdict] for verdict in Verdict}
        yield _counter("test_results", "Final verdicts.", "status", verdicts)
        yield _counter(
            "attempts",
            "Executions that began, by why.",
            "reason",
            {reason: self.attempts[reason] for reason in ATTEMPT_REASONS},
        )
        yield _counter(
            "crashes",
            "Executions that ended without a result of their own.",
            "kind",
            {kind.value: self.crashes[kind] for kind in _CRASHES},
        )
        yield _counter("stale_results", "Results under a lease that no longer counted.", "", {"": self.stale_results})
        yield _histogram("queue_wait_seconds", "From the plan to the first lease.", self.queue_wait)
        yield _histogram("test_duration_seconds", "Of executions.", self.durations)

    def _run_states(self) -> dict[str, int]:
        found = dict.fromkeys(RUN_STATES, 0)
        for run in self._context.fleet.state.cluster.runs.values():
            found[live_state(run)] += 1
        return found

    def _of_workers(self) -> Iterator[Any]:
        cluster = self._context.fleet.state.cluster
        states = {state.value: 0 for state in WorkerState if not state.is_gone}
        slots = {"used": 0, "free": 0}
        for worker in cluster.workers.values():
            states[worker.state.value] = states.get(worker.state.value, 0) + 1
            used = sum(bool(slot.leases) for slot in worker.slots)
            slots["used"] += used
            slots["free"] += len(worker.slots) - used if worker.accepts else 0
        yield _gauge("workers", "Workers by state.", "state", states)
        yield _gauge("worker_slots", "Slots; free ones only of workers that take work.", "state", slots)
        yield _counter("workers_lost", "Workers that were declared lost.", "", {"": self.alerts[Cause.LOST.value]})
        yield _counter("alerts", "Alerts raised.", "cause", {cause.value: self.alerts[cause.value] for cause in Cause})
        outcomes = {name: self.reconnects[name] for name in ("new", "same_session")}
        yield _counter("worker_joins", "Links of workers, by whether their session was known.", "session", outcomes)
        yield _histogram("heartbeat_lag_seconds", "How much later than expected a heartbeat came.", self.heartbeat_lag)

    def _of_server(self) -> Iterator[Any]:
        context = self._context
        gate = context.gate
        refused = gate.refused if gate is not None else Counter[str]()
        denied = gate.denied if gate is not None else Counter[Role]()
        yield _counter(
            "auth_failures", "Refused before any route.", "reason", {code: refused[code] for code in REFUSALS}
        )
        yield _counter("authz_denied", "Refused for the role.", "role", {role.value: denied[role] for role in Role})
        listeners = {"client": context.fleet.client_count, "worker": len(context.fleet.worker_facts)}
        yield _gauge("ws_connections", "Open links.", "role", listeners)
        yield _histogram("event_loop_lag_seconds", "How late the event loop is.", self.loop_lag)
        yield _counter("gc_seconds", "Time in garbage collection.", "", {"": self.gc_s})
        yield _gauge("history_usable", "1 if the history can be asked.", "", {"": int(not context.past.trouble)})
        yield _gauge("coordinator_epoch", "Grows with every start.", "", {"": context.fleet.state.cluster.epoch})
        if self._free_bytes is not None:
            yield _gauge("disk_free_bytes", "Where the data directory is.", "", {"": self._free_bytes})
        yield _build_info()


_CRASHES = (Verdict.CRASHED, Verdict.OOM, Verdict.TIMEOUT)


def _gauge(name: str, about: str, label: str, values: dict[str, Any]) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"fleetest_{name}", about, labels=[label] if label else []), label, values)


def _counter(name: str, about: str, label: str, values: dict[str, Any]) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(f"fleetest_{name}", about, labels=[label] if label else []), label, values)


def _filled(family: Any, label: str, values: dict[str, Any]) -> Any:
    for value, count in values.items():
        family.add_metric([value] if label else [], count)
    return family


def _histogram(name: str, about: str, histogram: Histogram) -> Any:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(f"fleetest_{name}", about, labels=[])
    family.add_metric([], histogram.buckets(), histogram.total)
    return family


def _build_info() -> Any:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily("fleetest_build_info", "Versions.", labels=["version", "python"])
    family.add_metric([__version__, platform.python_version()], 1)
    return family
