"""What all handlers share: the records, the indexes, the policies, and the commands of the event being applied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fleetest.core.alerts import Alerts
from fleetest.core.backfill import Backfill
from fleetest.core.commands import (
    Command,
    GrantLeases,
    PublishOutcomes,
    PublishStarted,
    SlotIdle,
    TaskOutcome,
)
from fleetest.core.deadlines import Deadlines
from fleetest.core.entities import LiveLease, Run, Slot, Task, Worker
from fleetest.core.gangs import Gangs
from fleetest.core.model import Instant, Lease, LeaseId, Limits, RunId, TaskId, WorkerId
from fleetest.core.placement import Placement
from fleetest.core.policies import BalancingPolicy, HealthPolicy, SchedulingPolicy

HEARTBEATS_PER_S = 50.0
"""Of all workers together, at most."""
LEASES_PER_EPOCH = 2**32
FINISHED_RUNS_KEPT = 2
MISSING_WORKER_DEADLINE = "missing worker"
DRAIN_DEADLINE = "absent drain"
LONGEST_S = 1e8
"""No duration that a peer names is taken to be longer: three years."""


@dataclass(frozen=True, slots=True)
class VoidedLease:
    """A lease that ended without its worker's word; what it still says of it is evidence, never a verdict."""

    run_id: RunId
    task_id: TaskId
    attempt: int
    worker_id: WorkerId
    slot: int
    unsaid: str = ""
    """Why it ended, to be put on record at the end of the run if its worker says nothing of it until then."""


class Outbox:
    """Commands of one event. What belongs together leaves in one command; nothing is published after its run ended."""

    def __init__(self) -> None:
        self._first: list[Command] = []
        self._last: list[Command] = []
        self._grants: dict[Slot, list[Lease]] = {}
        self._idle: dict[Slot, None] = {}
        self._started: dict[RunId, list[tuple[TaskId, int, WorkerId, int]]] = {}
        self._outcomes: dict[RunId, list[TaskOutcome]] = {}

    def add(self, command: Command) -> None:
        self._first.append(command)

    def add_last(self, command: Command) -> None:
        """After everything that is published."""
        self._last.append(command)

    def grant(self, slot: Slot, lease: Lease) -> None:
        leases = self._grants.get(slot)
        if leases is None:
            self._grants[slot] = [lease]
        else:
            leases.append(lease)
        if self._idle:
            self._idle.pop(slot, None)

    def idle(self, slot: Slot) -> None:
        self._idle[slot] = None

    def started(self, run_id: RunId, start: tuple[TaskId, int, WorkerId, int]) -> None:
        self._started.setdefault(run_id, []).append(start)

    def outcome(self, run_id: RunId, outcome: TaskOutcome) -> None:
        self._outcomes.setdefault(run_id, []).append(outcome)

    def take(self) -> list[Command]:
        """Everything, in the order in which it is to be carried out; the outbox is empty then."""
        commands = self._first
        commands += [GrantLeases(slot.worker.worker_id, slot.index, leases) for slot, leases in self._grants.items()]
        commands += [SlotIdle(slot.worker.worker_id, slot.index) for slot in self._idle]
        commands += [PublishStarted(run_id, tasks) for run_id, tasks in self._started.items()]
        commands += [PublishOutcomes(run_id, outcomes) for run_id, outcomes in self._outcomes.items()]
        commands += self._last
        self._first, self._last = [], []
        self._grants, self._idle, self._started, self._outcomes = {}, {}, {}, {}
        return commands


class Cluster:
    """All records. Handlers change them while one event is applied; nobody else does."""

    def __init__(
        self,
        scheduling: SchedulingPolicy,
        balancing: BalancingPolicy,
        health: HealthPolicy,
        limits: Limits,
        epoch: int,
    ) -> None:
        self.scheduling, self.balancing, self.health = scheduling, balancing, health
        self.limits, self.epoch = limits, epoch
        self.now: Instant = 0.0
        self.runs: dict[RunId, Run] = {}
        self.finished_runs: dict[RunId, Run] = {}
        """The latest few, for questions."""
        self.workers: dict[WorkerId, Worker] = {}
        self.known_kinds: dict[int, int] = {}
        """Number of workers by capability kind, also of those that may still come back."""
        self.fleet_changes = 0
        """Counts workers that came and went."""
        self.to_review: dict[Run, None] = {}
        """Runs of which known workers may not be able to do all any more, or can do more than before."""
        self.slot_count = 0
        """Of all workers together."""
        self.leases: dict[LeaseId, LiveLease] = {}
        self.voided: dict[LeaseId, VoidedLease] = {}
        self.deadlines = Deadlines()
        self.placement = Placement(self.workers, balancing.slowest)
        self.outbox = Outbox()
        self.gangs = Gangs(self)
        self.backfill = Backfill(self)
        self.asking: dict[Slot, None] = {}
        """Slots that changed during this event and may have room."""
        self.released_locks: set[str] = set()
        self.priorities: dict[int, int] = {}
        """Those of all tasks of live runs: in how many runs each occurs."""
        self.busy: dict[Slot, None] = {}
        """Slots with leases."""
        self.asked_back: dict[LiveLease, Instant] = {}
        """Leases that were asked back, and when: until their workers have answered and the slots were looked at."""
        self.alerts = Alerts(epoch, limits.alerts_kept_max)
        """They outlive the worker's session."""
        self.held_back: dict[WorkerId, str] = {}
        """Workers that the operator quarantined, with the reason, whether they are there or not."""
        self.grants_nothing_because = ""
        """Why no lease at all is granted at the moment; empty if they are."""
        self.absent_drains: dict[str, WorkerId] = {}
        """Sessions that the operator drained and that are not here, with their workers: they were lost, or the
        coordinator is a new one."""
        health.bind(limits)
        self._count = 0
        self._lease_count = 0
        scheduling.bind(self.placement, self.predict_s, limits)
        balancing.bind(self.placement, self.predict_s, limits)

    def add_worker(self, worker: Worker) -> None:
        self.workers[worker.worker_id] = worker
        self.slot_count += len(worker.slots)
        self.known_kinds[worker.capability_kind] = self.known_kinds.get(worker.capability_kind, 0) + 1
        self.fleet_changes += 1

    def remove_worker(self, worker: Worker) -> None:
        del self.workers[worker.worker_id]
        self.slot_count -= len(worker.slots)
        kind = worker.capability_kind
        self.known_kinds[kind] -= 1
        if not self.known_kinds[kind]:
            del self.known_kinds[kind]
        self.fleet_changes += 1

    def keep_drain(self, session: str, worker_id: WorkerId) -> None:
        """For the case that the session comes back; after ``lost_alert_s`` nobody waits for it any more."""
        self.absent_drains[session] = worker_id
        self.deadlines.set((DRAIN_DEADLINE, session), self.now + self.limits.lost_alert_s)

    def take_drain(self, session: str) -> bool:
        """True if the session, which is back, was drained."""
        was_drained = session in self.absent_drains
        self.absent_drains.pop(session, None)
        self.deadlines.cancel((DRAIN_DEADLINE, session))
        return was_drained

    def count_priorities(self, priorities: Iterable[int], by: int) -> None:
        """Tasks of a run have these: count the run in (1) or out (-1)."""
        for priority in priorities:
            self.priorities[priority] = self.priorities.get(priority, 0) + by
            if not self.priorities[priority]:
                del self.priorities[priority]

    @property
    def has_priorities(self) -> bool:
        """True if some tasks are more urgent than others."""
        return len(self.priorities) > 1

    def next_order(self) -> int:
        self._count += 1
        return self._count

    def next_lease_id(self) -> LeaseId:
        """Unique over epochs too, so that a lease of an earlier coordinator is never taken for one of ours."""
        self._lease_count += 1
        return LeaseId(self.epoch * LEASES_PER_EPOCH + self._lease_count)

    def predict_s(self, task: Task) -> float:
        """Expected duration: history, else what its group took in this run, else the run, else a guess."""
        if task.known_s >= 0.0:
            return task.known_s
        durations = task.group.durations
        if durations.count >= 3:
            return durations.total_s / durations.count
        durations = task.suite.run.durations
        if durations.count:
            return durations.total_s / durations.count
        return self.limits.unknown_task_s

    def enqueue(self, tasks: Sequence[Task]) -> None:
        """Queue them where they belong: gangs wait apart, the policy never sees them."""
        single = [task for task in tasks if task.requirements.workers == 1]
        if len(single) != len(tasks):
            self.gangs.add(task for task in tasks if task.requirements.workers > 1)
        if single:
            self.scheduling.add_tasks(single, self.now)
            self.backfill.add(single)

    def dequeue(self, tasks: Sequence[Task]) -> None:
        """They are no longer queued (or are about to be queued again under another class)."""
        single = [task for task in tasks if task.requirements.workers == 1]
        if len(single) != len(tasks):
            self.gangs.discard(task for task in tasks if task.requirements.workers > 1)
        if single:
            self.scheduling.discard_tasks(single)

    def ask(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            self.asking[slot] = None

    def heartbeat_interval_s(self) -> float:
        """What workers are told: slower in a large fleet, so that heartbeats alone never keep the coordinator busy."""
        return max(self.limits.heartbeat_interval_s, len(self.workers) / HEARTBEATS_PER_S)
