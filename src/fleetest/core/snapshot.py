"""The state as immutable values, for people and screens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleetest.core.alerts import Alert
from fleetest.core.cluster import Cluster
from fleetest.core.entities import Run, Worker
from fleetest.core.lifecycle import TaskState
from fleetest.core.model import Capabilities, Instant, RunId, TaskId, Verdict, WorkerId


@dataclass(frozen=True, slots=True)
class RunningTask:
    """The first lease of a slot: running, or about to."""

    run_id: RunId
    task_id: TaskId
    attempt: int
    slot: int
    is_started: bool
    since: Instant


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    worker_id: WorkerId
    state: str
    slots: int
    capabilities: Capabilities
    free: Mapping[str, float]
    """Countable resources that nothing holds."""
    running: tuple[RunningTask, ...]
    queued: int
    """Leases that wait behind the running ones."""
    queued_s: float
    """Predicted work of all its leases, seconds."""
    load_s: float
    """Expected remaining seconds per slot."""
    speed: float
    """1: as fast as the typical worker of the fleet; 2: twice as fast."""
    reliability: float
    """In (0, 1]; 1: no infrastructure failure lately."""
    last_seen: Instant
    alerts: tuple[str, ...]
    """Causes of the alerts that last."""
    story: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    run_id: RunId
    owner: str
    priority: int
    suites: Mapping[str, str]
    """Name to ``collecting``, ``planned`` or ``refused``."""
    tasks: int
    states: Mapping[str, int]
    """How many tasks are ``waiting`` (pending or queued), ``leased``, ``running`` and ``finished``."""
    counts: Mapping[Verdict, int]
    cancelled: str | None
    """The reason, if it was cancelled."""


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    now: Instant
    epoch: int
    workers: tuple[WorkerSnapshot, ...]
    runs: tuple[RunSnapshot, ...]
    alerts: tuple[Alert, ...] = ()
    """Those that last and the latest that are over, oldest first."""


def take_snapshot(cluster: Cluster) -> ClusterSnapshot:
    return ClusterSnapshot(
        now=cluster.now,
        epoch=cluster.epoch,
        workers=tuple(_worker(cluster, worker) for worker in cluster.workers.values()),
        runs=tuple(_run(run) for run in cluster.runs.values()),
        alerts=cluster.alerts.all(),
    )


def _worker(cluster: Cluster, worker: Worker) -> WorkerSnapshot:
    running = []
    for slot in worker.slots:
        head = slot.head()
        if head is not None:
            task = head.task
            running.append(
                RunningTask(task.run.run_id, task.task_id, head.attempt, slot.index, head.is_started, slot.head_since)
            )
    standing = cluster.balancing.standing(worker, cluster.now)
    return WorkerSnapshot(
        worker.worker_id,
        worker.state.value,
        len(worker.slots),
        worker.capabilities,
        dict(worker.free),
        tuple(running),
        worker.lease_count - len(running),
        sum(slot.queued_s for slot in worker.slots),
        standing.load_s,
        standing.speed,
        standing.reliability,
        worker.last_seen,
        cluster.alerts.causes(worker.worker_id),
        worker.story.lines(),
    )


def _run(run: Run) -> RunSnapshot:
    # Of several leases of one task the first stands for it.
    under_way = [lease.task for lease in run.leases.values() if lease.task.lease is lease]
    running = sum(task.state is TaskState.RUNNING for task in under_way)
    return RunSnapshot(
        run.run_id,
        run.owner,
        run.priority,
        {
            name: "planned" if suite.is_planned else "refused" if suite.is_refused else "collecting"
            for name, suite in run.suites.items()
        },
        len(run.tasks),
        {
            TaskState.FINISHED.value: len(run.tasks) - run.unfinished,
            TaskState.RUNNING.value: running,
            TaskState.LEASED.value: len(under_way) - running,
            "waiting": run.unfinished - len(under_way),
        },
        dict(run.counts),
        run.cancellation.reason if run.cancellation is not None else None,
    )
