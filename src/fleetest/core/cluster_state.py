"""The one writer of state: ``ClusterState.apply(event, now) -> commands``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleetest.core import events
from fleetest.core.attempt_handling import AttemptHandling
from fleetest.core.closed_fleet import ClosedFleet
from fleetest.core.cluster import DRAIN_DEADLINE, MISSING_WORKER_DEADLINE, Cluster
from fleetest.core.commands import Command
from fleetest.core.dispatch import Dispatch
from fleetest.core.entities import Run
from fleetest.core.explain import explain
from fleetest.core.lifecycle import WorkerState
from fleetest.core.memory import ClusterMemory
from fleetest.core.missing_workers import MissingWorkers
from fleetest.core.model import Instant, Limits, RunId, TaskId, WorkerId
from fleetest.core.policies import BalancingPolicy, HealthPolicy, SchedulingPolicy, Score
from fleetest.core.rebalancing import Rebalancing
from fleetest.core.remembering import recall, remember
from fleetest.core.run_handling import RunHandling
from fleetest.core.snapshot import ClusterSnapshot, take_snapshot
from fleetest.core.standing import Standing
from fleetest.core.task_handling import TaskHandling
from fleetest.core.worker_handling import WorkerHandling

GIVEN_UP_AT_ONCE = 64
"""Workers that are no longer waited for, in one event: a thousand lost at once must not keep the others waiting."""
STALL_S = 1.0
"""A deadline that is later than this (or a heartbeat interval, if that is shorter) says that we did not run."""
_SIGNS_OF_LIFE = (
    events.SuiteReady,
    events.SuiteUnavailable,
    events.WorkerDraining,
    events.WorkerProbed,
    events.AttemptsStarted,
    events.AttemptsFinished,
    events.LeasesReturned,
    events.InfrastructureFailed,
)
"""Messages of a worker besides its heartbeats."""


class ClusterState:
    """All runs, tasks, leases and workers of one coordinator.

    What a peer says is never an error here: what is stale or unknown is ignored or answered.
    """

    def __init__(
        self,
        scheduling: SchedulingPolicy,
        balancing: BalancingPolicy,
        health: HealthPolicy,
        limits: Limits | None = None,
        epoch: int = 1,
    ) -> None:
        cluster = self.cluster = Cluster(scheduling, balancing, health, limits or Limits(), epoch)
        self._tasks = tasks = TaskHandling(cluster, self._all_finished)
        attempts = AttemptHandling(cluster, tasks)
        self._closed_fleet = ClosedFleet(cluster, tasks)
        self._missing_workers = MissingWorkers(cluster, tasks)
        self._runs = runs = RunHandling(cluster, tasks, attempts)
        self._dispatch = Dispatch(cluster, attempts)
        self._assign = self._dispatch.run
        self._rebalancing = Rebalancing(cluster, attempts, self._dispatch)
        standing = Standing(cluster)
        self._workers = workers = WorkerHandling(cluster, tasks, attempts, runs, self._dispatch, standing)
        self._attempts = attempts
        self._stall_s = min(STALL_S, cluster.limits.heartbeat_interval_s)
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.MemoryRecalled: lambda event: recall(cluster, event.memory),
            events.SlownessRecalled: lambda event: cluster.balancing.recall(event.slowness),
            events.RunSubmitted: runs.submitted,
            events.SuitePlanned: runs.planned,
            events.SuiteRefused: runs.refused,
            events.RunCancelled: runs.cancelled,
            events.SuiteReady: workers.ready,
            events.SuiteUnavailable: workers.unavailable,
            events.WorkerJoined: workers.joined,
            events.WorkerHeartbeat: lambda event: workers.seen(event.worker_id, is_beat=True),
            events.WorkerDraining: workers.draining,
            events.WorkerDisconnected: workers.disconnected,
            events.WorkerDrainRequested: standing.drain_requested,
            events.WorkerResumed: standing.resumed,
            events.WorkerQuarantined: standing.quarantined,
            events.WorkerReleased: standing.released,
            events.WorkerProbed: standing.probed,
            events.CoordinatorChecked: standing.coordinator_checked,
            events.AlertAcknowledged: standing.acknowledged,
            events.AttemptsStarted: attempts.started,
            events.AttemptsFinished: attempts.finished,
            events.LeasesReturned: attempts.returned,
            events.InfrastructureFailed: workers.infrastructure_failed,
            events.DeadlineReached: lambda event: None,
        }

    def apply(self, event: events.Event, now: Instant) -> list[Command]:
        """Take in what happened and return what must be done, in order. ``now`` never goes backwards."""
        cluster = self.cluster
        if now > cluster.now + self._stall_s:
            self._excuse_stall(now)
        cluster.now = max(now, cluster.now)
        if isinstance(event, _SIGNS_OF_LIFE):
            self._workers.seen(event.worker_id, is_beat=False)
        self._handlers[type(event)](event)
        self._run_deadlines()
        self._closed_fleet.after(event)
        self._missing_workers.after_event()
        self._assign()
        # To ask leases back for the sake of balance would only make them wait.
        if not cluster.grants_nothing_because and self._rebalancing.after_event():
            self._assign()
        return cluster.outbox.take()

    def next_deadline(self) -> Instant | None:
        """When ``DeadlineReached`` must be applied at the latest; None if nothing is due ever."""
        due = [
            instant
            for instant in (self.cluster.deadlines.next(), self.cluster.health.next_deadline())
            if instant is not None
        ]
        return min(due, default=None)

    def snapshot(self) -> ClusterSnapshot:
        """Everything that people ask about, as values that no longer change."""
        return take_snapshot(self.cluster)

    def remember(self) -> ClusterMemory:
        """What the next coordinator should know too, see ``events.MemoryRecalled``."""
        return remember(self.cluster)

    def why(self, run_id: RunId, task_id: TaskId) -> str:
        """One honest sentence: why the task is where it is."""
        return explain(self.cluster, run_id, task_id)

    def story(self, run_id: RunId, task_id: TaskId) -> tuple[str, ...]:
        """What happened to the task so far, one line per change; empty if it is unknown."""
        run = self.cluster.runs.get(run_id) or self.cluster.finished_runs.get(run_id)
        task = run.tasks.get(task_id) if run is not None else None
        return task.story.lines() if task is not None else ()

    def _excuse_stall(self, now: Instant) -> None:
        """Whatever was due and did not come was late because this process did not run (stopped, starved, asleep).

        The time in which nobody listened is not held against the workers, and as much again, at most one heartbeat, is
        given to what they said meanwhile and waits to be read.
        """
        due, limits = self.next_deadline(), self.cluster.limits
        late_s = now - due if due is not None else 0.0
        if late_s <= self._stall_s:
            return
        grace_s = min(late_s, limits.heartbeat_interval_s)
        self.cluster.health.excuse(late_s + grace_s)
        for worker in self.cluster.workers.values():
            if worker.state is WorkerState.DISCONNECTED:
                self.cluster.deadlines.delay(("reconnect", worker.worker_id), late_s + grace_s)

    def scores(self, run_id: RunId, task_id: TaskId) -> dict[WorkerId, Score | None]:
        """How good a place each worker is for the task now, with the parts; None where it cannot run."""
        run = self.cluster.runs.get(run_id)
        task = run.tasks.get(task_id) if run is not None else None
        if task is None:
            return {}
        score = self.cluster.balancing.score
        return {worker_id: score(worker, task) for worker_id, worker in self.cluster.workers.items()}

    def _run_deadlines(self) -> None:
        cluster, given_up = self.cluster, 0
        self._workers.advance_health()
        while given_up < GIVEN_UP_AT_ONCE:
            key = cluster.deadlines.pop_due(cluster.now)
            if key is None:
                return
            assert isinstance(key, tuple)
            kind, *subject = key
            if kind == "reconnect":
                self._workers.gave_up_waiting(subject[0])
                given_up += 1
            elif kind == "lost alert":
                self._workers.stays_lost(subject[0])
            elif kind == "overrun":
                self._attempts.overrun(subject[0])
            elif kind == "retry":
                self._retry_is_due(*subject)
            elif kind == MISSING_WORKER_DEADLINE:
                self._missing_workers.due(subject[0], subject[1])
            elif kind == "balance":
                self._rebalancing.due()
            elif kind == "gangs":
                cluster.gangs.due()
            elif kind == DRAIN_DEADLINE:
                cluster.absent_drains.pop(subject[0], None)
            else:
                run = cluster.runs.get(subject[0])
                if run is not None and kind == "cancel":
                    assert run.cancellation is not None
                    self._runs.kill_all(run, run.cancellation.reason)
                elif run is not None and kind == "gang":
                    self._attempts.gang_deadline(run.tasks[subject[1]])
                elif run is not None:
                    self._runs.give_up_killed(run)

    def _retry_is_due(self, run_id: RunId, task_id: TaskId) -> None:
        run = self.cluster.runs.get(run_id)
        if run is not None:
            self._tasks.retry_is_due(run.tasks[task_id])

    def _all_finished(self, run: Run) -> None:
        self._runs.finish_if_done(run)
