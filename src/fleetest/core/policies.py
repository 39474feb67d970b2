"""The seams of the policies. They propose; the core decides and refuses what is stale. All are pure.

Policies see the records of the state and never change them, except ``Task.place``, which belongs to the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias

from fleetest.core.entities import LiveLease, Run, Slot, Task, TaskClass, Worker
from fleetest.core.memory import WorkerRecord
from fleetest.core.model import Instant, Limits, Trust, Verdict, WorkerId

if TYPE_CHECKING:
    from fleetest.core.placement import Placement


@dataclass(frozen=True, slots=True)
class Choice:
    """What a slot should get. ``hold``: nothing yet, so that it (or its whole worker) runs dry for this class."""

    tasks: Sequence[Task] = ()
    hold: TaskClass | None = None


@dataclass(slots=True)
class Wakes:
    """Who can use what has just been queued: any worker that fits these classes, and these slots and workers."""

    classes: dict[TaskClass, None] = field(default_factory=dict)
    slots: dict[Slot, None] = field(default_factory=dict)
    workers: dict[Worker, None] = field(default_factory=dict)
    locks: dict[str, None] = field(default_factory=dict)
    """Names that are no longer kept for somebody."""


NOTHING_CHOSEN = Choice()
NOTHING_WOKEN = Wakes()
"""To be read only."""


class SchedulingPolicy(Protocol):
    """Keeps every queued task and decides which one a slot gets next."""

    def bind(self, placement: Placement, predict_s: Callable[[Task], float], limits: Limits) -> None:
        """Called once, before anything else: what it may ask about the fleet."""

    def add_run(self, run: Run) -> None: ...

    def drop_run(self, run: Run) -> None:
        """Forget the run and all of its queued tasks."""

    def add_tasks(self, tasks: Sequence[Task], now: Instant) -> None:
        """These are queued now, in this order."""

    def discard_tasks(self, tasks: Iterable[Task]) -> None:
        """These are no longer queued (or are about to be added again under another class)."""

    def choose(self, slot: Slot, room_s: float, room_tasks: int, now: Instant) -> Choice:
        """Tasks for this slot, removed from the queues, at least one if there is any that fits.

        ``room_s`` is predicted work and may be exceeded by the last task. A task that reserves something comes alone,
        and only if the slot is empty and everything is free.
        """

    def forget_slots(self, slots: Iterable[Slot]) -> None:
        """These slots get nothing more: groups that belonged to them are anybody's."""

    def charge(self, run: Run, seconds: float) -> None:
        """Predicted or measured work that the run has used up (negative: given back), for fair share."""

    def wakes(self) -> Wakes:
        """Who may use what was queued or released since the last call."""

    def waiting(self, task_class: TaskClass) -> int:
        """How many tasks of the class are queued."""

    def waiting_classes(self) -> Iterable[TaskClass]:
        """Every class with queued tasks."""

    def top_priority(self, task_class: TaskClass) -> int:
        """The highest priority of the queued tasks of the class; that of its run if nothing is queued."""

    def waiting_at(self, task_class: TaskClass, priority: int) -> int:
        """How many queued tasks of the class have this priority."""

    def has_work(self, worker: Worker) -> bool:
        """True if anything is queued that could run on this worker if everything were free."""

    def why(self, task: Task) -> str:
        """Why this queued task, which could run on a free slot, is kept from those that are; empty: for no reason."""


@dataclass(frozen=True, slots=True)
class Move:
    """Take these unstarted leases from their slot, so that the other one can have them."""

    leases: Sequence[LiveLease]
    donor: Slot
    receiver: Slot
    closes_donor: bool = False
    """Nothing is put behind its running test any more."""


@dataclass(frozen=True, slots=True)
class TakeBack:
    """What is to go from busy slots, to whichever has room next: more urgent work comes first there, or others serve it
    sooner.
    """

    leases: Sequence[LiveLease] = ()
    """To be taken from their slots before they start."""
    closes: Sequence[Slot] = ()
    """Nothing is put behind the running tests of these slots any more."""
    is_stuck: bool = False
    """Urgent leases wait on for long, because nothing can be done for them now: soon something may."""


@dataclass(frozen=True, slots=True)
class Hedge:
    """Start a second attempt of the task that runs under this lease in a slot of another worker.

    If that slot has work, the attempt comes after all of it.
    """

    lease: LiveLease
    receiver: Slot


@dataclass(frozen=True, slots=True)
class Score:
    """How good a place one worker is for one task, with its parts. All are in (0, 1], larger is better."""

    fit: float
    """1: nothing special of the worker would lie idle under this task."""
    free: float
    """1: it would start at once and nothing else runs there."""
    speed: float
    """1: the fastest worker of the fleet."""
    reliability: float
    """1: no infrastructure failure lately."""
    locality: float
    """1: the task's group is there, or nowhere yet."""
    preference: float = 1.0
    """1: everything that the task prefers."""

    @property
    def total(self) -> float:
        """The product of the parts."""
        return self.fit * self.free * self.speed * self.reliability * self.locality * self.preference


@dataclass(frozen=True, slots=True)
class Standing:
    """What the balancing policy thinks of a worker, for people."""

    speed: float
    """1: as fast as the typical worker of the fleet; 2: twice as fast."""
    reliability: float
    """In (0, 1]; 1: no infrastructure failure lately."""
    load_s: float
    """Expected remaining seconds per slot."""
    prefetch_s: float
    """Seconds of work that may wait in a slot's queue."""


class BalancingPolicy(Protocol):
    """Knows the speed of workers, moves waiting work from overloaded to idle slots, hedges what runs too long."""

    def bind(self, placement: Placement, predict_s: Callable[[Task], float], limits: Limits) -> None:
        """Called once, before anything else. ``predict_s`` is for a worker of typical speed."""

    def finished(
        self,
        worker: Worker,
        predicted_s: float,
        duration_s: float,
        is_success: bool,
        task_class: TaskClass | None = None,
    ) -> None:
        """One execution ended on this worker. ``predicted_s`` is for a worker of typical speed."""

    def failed(self, worker: Worker) -> None:
        """An infrastructure failure of this worker."""

    def answered(self, worker: Worker, turnaround_s: float) -> None:
        """So long after a grant to an empty slot of this worker its test was seen to run, less the test itself."""

    def forget(self, worker_id: WorkerId) -> None: ...

    def recall(self, slowness: Mapping[WorkerId, float]) -> None:
        """What past runs say of the speed of workers, whether or not they are there; all are above 0."""

    def slowness(self, worker: Worker, task_class: TaskClass) -> float:
        """Seconds that the worker needs for a second of predicted work of this class; 1 is typical. Never 0."""

    def slowest(self, worker: Worker, task_class: TaskClass) -> float:
        """The slowness that it hardly exceeds, as far as is known: more than ``slowness`` while little is."""

    def order(self, worker: Worker) -> float:
        """Among empty slots of equally special workers those of the smallest are asked first."""

    def prefetch_s(self, worker: Worker) -> float:
        """Seconds of work that may wait in a slot's queue on this worker."""

    def score(self, worker: Worker, task: Task) -> Score | None:
        """How good a place the worker is for the task now; None if it cannot run it."""

    def standing(self, worker: Worker, now: Instant) -> Standing: ...

    def propose(self, idle: Collection[Slot], busy: Iterable[Slot], now: Instant) -> Sequence[Move | Hedge]:
        """Moves from busy to idle slots, at most one per slot on either side; and hedges, one per idle slot."""

    def inversions(self, busy: Iterable[Slot], now: Instant, queued: Mapping[TaskClass, tuple[int, int]]) -> TakeBack:
        """Asked, also while no slot is idle, when there is work of several priorities.

        ``queued``: of each class with queued tasks the highest priority, and how many have it.
        """

    def early_moves(self, busy: Iterable[Slot], now: Instant) -> TakeBack:
        """What would begin long after everything else has ended. Asked also while no slot is idle."""

    def early_hedges(self, busy: Iterable[Slot], now: Instant) -> Sequence[Hedge]:
        """Of tests that would end long after everything else. Asked also while no slot is idle."""


class Health(Enum):
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class HealthChange:
    worker_id: WorkerId
    health: Health
    reason: str


@dataclass(frozen=True, slots=True)
class TrustChange:
    worker_id: WorkerId
    trust: Trust
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a worker that people should know; without a message: it is over."""

    worker_id: WorkerId
    cause: str
    message: str = ""


Judgement: TypeAlias = HealthChange | TrustChange | Finding


class HealthPolicy(Protocol):
    """Judges workers: by the age of their last sign of life, by their record, by what stands out in their results."""

    def bind(self, limits: Limits) -> None:
        """Called once, before anything else."""

    def watch(self, worker_id: WorkerId, now: Instant, interval_s: float) -> None:
        """From now on a beat is due every ``interval_s``; infinite: never judged by silence."""

    def set_interval(self, worker_id: WorkerId, interval_s: float) -> None:
        """The watched worker was told to beat at another interval."""

    def forget(self, worker_id: WorkerId) -> None:
        """It has no link now: silence means nothing. Its record stays."""

    def excuse(self, unheard_s: float) -> None:
        """For so long the coordinator did not run: nobody could be heard."""

    def beat(self, worker_id: WorkerId, now: Instant) -> HealthChange | None:
        """A heartbeat came; a change if the worker was suspect."""

    def seen(self, worker_id: WorkerId, now: Instant) -> HealthChange | None:
        """Some other message came: a sign of life that says nothing about the rhythm of heartbeats."""

    def link_lost(self, worker_id: WorkerId, now: Instant) -> None:
        """The worker's link broke without goodbye, or it is lost by silence."""

    def infrastructure_failed(self, worker_id: WorkerId, reason: str, now: Instant) -> None:
        """The worker could not execute something, through no fault of a test."""

    def finished(self, lease: LiveLease, verdict: Verdict, duration_s: float, now: Instant, *, is_final: bool) -> None:
        """An attempt ended on the lease's worker; another one follows unless ``is_final``."""

    def trust(self, worker_id: WorkerId) -> tuple[Trust, str]:
        """How far a worker that joins is trusted, and why no further."""

    def release(self, worker_id: WorkerId, now: Instant) -> None:
        """The operator says that it is well: its record is clean from now on."""

    def gone(self, worker_id: WorkerId) -> None:
        """It left, or was lost long ago: what stood out in its results is over."""

    def records(self) -> Sequence[WorkerRecord]:
        """What is held against workers and should outlive this coordinator; in one order while nothing changes."""

    def recall(self, records: Sequence[WorkerRecord], findings: Sequence[Finding], now: Instant) -> None:
        """What an earlier coordinator held against workers, and what it had found and not taken back."""

    def advance(self, now: Instant) -> Sequence[Judgement]:
        """What changed until ``now``, by time and by what was told since the last call."""

    def next_deadline(self) -> Instant | None: ...
