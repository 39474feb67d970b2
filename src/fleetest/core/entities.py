"""The records that make up the state. Only the handlers behind ``ClusterState.apply`` change them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Any

from fleetest.core.lifecycle import Story, TaskState, WorkerState
from fleetest.core.model import (
    AttemptResult,
    Capabilities,
    GangPlace,
    Instant,
    LeaseId,
    Requirements,
    RunId,
    TaskId,
    TaskSpec,
    Trust,
    Verdict,
    WorkerId,
)

_DOUBTS_MAX = 2


@dataclass(slots=True, eq=False, repr=False)
class Durations:
    """Running mean of what executions took, seconds."""

    count: int = 0
    total_s: float = 0.0

    def add(self, duration_s: float) -> None:
        self.count += 1
        self.total_s += duration_s

    @property
    def mean_s(self) -> float:
        return self.total_s / self.count


@dataclass(slots=True, eq=False, repr=False)
class WorkLeft:
    """Unfinished tasks, and what they are expected to take."""

    count: int = 0
    known_s: float = 0.0
    """Sum of their expected durations, where there is one."""
    unknown: int = 0
    """Those without an expected duration."""

    def add(self, expected_s: float | None, by: int) -> None:
        """Count one task in (1) or out (-1)."""
        self.count += by
        if expected_s is None:
            self.unknown += by
        else:
            # Sums of fractions drift; nothing is nothing.
            self.known_s = self.known_s + by * expected_s if self.count else 0.0


class Readiness(Enum):
    """Of one worker for one suite."""

    PREPARING = "preparing"
    READY = "ready"
    UNAVAILABLE = "unavailable"


@dataclass(slots=True, eq=False, repr=False)
class SuiteReadiness:
    state: Readiness = Readiness.PREPARING
    missing: frozenset[TaskId] = frozenset()
    reason: str = ""


@dataclass(slots=True, eq=False, repr=False)
class Suite:
    """One suite of one run."""

    run: Run
    name: str
    is_planned: bool = False
    is_refused: bool = False
    tasks: list[Task] = field(default_factory=list)
    """In planned order."""
    lacked: dict[Task, None] = field(default_factory=dict)
    """Unfinished tasks that some worker did not collect."""
    workers: dict[WorkerId, SuiteReadiness] = field(default_factory=dict)
    """Of every worker that is to prepare it and has not gone."""
    unable: dict[int, int] = field(default_factory=dict)
    """Number of those that said that they cannot execute it, by capability kind."""
    classes: dict[TaskClass, None] = field(default_factory=dict)
    """Of its unfinished tasks, those with nothing to avoid."""
    former: dict[tuple[WorkerId, str], SuiteReadiness] = field(default_factory=dict)
    """Of sessions that were lost: one that comes back is as ready as it was."""
    ready_slots: dict[int, int] = field(default_factory=dict)
    """Slots of healthy, ready workers by capability kind."""
    ready_total: int = 0
    """All of them."""
    ready_version: int = 0
    """Counts their changes."""
    fitting_slots: dict[RequirementKind, int] = field(default_factory=dict)
    """Those that could run tasks with these requirements."""

    @property
    def is_settled(self) -> bool:
        return self.is_planned or self.is_refused

    def answered(self, worker: Worker, readiness: SuiteReadiness, state: Readiness) -> bool:
        """What the worker says of it now; True if that changes whether it can execute it."""
        was_able, is_able = readiness.state is not Readiness.UNAVAILABLE, state is not Readiness.UNAVAILABLE
        readiness.state = state
        if was_able != is_able:
            self.count_unable(worker.capability_kind, -1 if is_able else 1)
        return was_able != is_able

    def count_left(self, task: Task, by: int) -> bool:
        """Count an unfinished task in (1) or out (-1) of its class. True if it was the last one of a class."""
        base = task.task_class.base
        base.left.add(task.spec.expected_s, by)
        if not base.left.count:
            del self.classes[base]
            return True
        if by > 0 and base.left.count == 1:
            self.classes[base] = None
        return False

    def count_unable(self, capability_kind: int, change: int) -> None:
        self.unable[capability_kind] = self.unable.get(capability_kind, 0) + change


@dataclass(slots=True, eq=False, repr=False)
class Cancellation:
    reason: str
    is_quiet: bool
    kill_reason: str = ""
    """Set once running tests have been told to end."""


@dataclass(slots=True, eq=False, repr=False)
class Run:
    """One submitted run."""

    run_id: RunId
    order: int
    owner: str
    priority: int
    weight: float = 1.0
    suites: dict[str, Suite] = field(default_factory=dict)
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    priorities: set[int] = field(default_factory=set)
    """Those of its tasks."""
    left: WorkLeft = field(default_factory=WorkLeft)
    counts: dict[Verdict, int] = field(default_factory=dict)
    cancellation: Cancellation | None = None
    runners_named: int = 0
    first_runner: dict[tuple[WorkerId, str], int] = field(default_factory=dict)
    """By worker and session: the number of the first of its runners."""
    durations: Durations = field(default_factory=Durations)
    dependants: dict[TaskId, list[Task]] = field(default_factory=dict)
    leases: dict[LeaseId, LiveLease] = field(default_factory=dict)
    """Its live leases."""
    classes: dict[object, TaskClass] = field(default_factory=dict)
    unserved: dict[TaskClass, None] = field(default_factory=dict)
    """Those with nothing to avoid that no known worker can run."""
    prepared: dict[WorkerId, None] = field(default_factory=dict)
    """Workers that were told of it."""
    is_finished: bool = False
    wait_for_workers_s: float | None = None
    """How long work that no known worker can do waits for one; None: for ever."""
    missing: dict[tuple[str, Requirements] | None, None] = field(default_factory=dict)
    """The suites and requirements that wait for such a worker; None: everything waits for any worker at all."""

    @property
    def unfinished(self) -> int:
        return self.left.count

    @property
    def left_s(self) -> float:
        """Predicted work of its unfinished tasks on one typical worker; infinite if nobody can know.

        Without those that no known worker can run: nobody is busy with them, nor will be soon.
        """
        known_s, unknown = self.left.known_s, self.left.unknown
        for task_class in self.unserved:
            known_s -= task_class.left.known_s
            unknown -= task_class.left.unknown
        if not unknown:
            return max(0.0, known_s)
        return known_s + unknown * self.durations.mean_s if self.durations.count else inf

    def dissolve(self) -> None:
        """Nobody asks for it any more: its records let go of each other, so that they are freed without a collector."""
        for suite in self.suites.values():
            suite.tasks.clear()
            suite.lacked.clear()
            suite.classes.clear()
        for records in (self.suites, self.tasks, self.classes, self.unserved, self.dependants):
            records.clear()

    def __str__(self) -> str:
        return f"run {self.run_id}"


@dataclass(slots=True, eq=False, repr=False)
class TaskGroup:
    """Tasks of one suite that should share a runner."""

    name: str
    keep_together: bool = False
    durations: Durations = field(default_factory=Durations)
    set_ups: Durations = field(default_factory=Durations)
    longest_set_up_s: float = 0.0

    @property
    def set_up_s(self) -> float:
        """What it costs to go on with the group elsewhere: the set-up of the fixtures that its tests share.

        The test that is first in a runner pays for them, so that is how much the longest set-up exceeds the mean.
        """
        set_ups = self.set_ups
        return self.longest_set_up_s - set_ups.mean_s if set_ups.count > 1 else self.longest_set_up_s


@dataclass(slots=True, eq=False, repr=False)
class RequirementKind:
    """One distinct value of Requirements, with the memory of which capability kinds match it, and how well."""

    requirements: Requirements
    fits: dict[int, bool] = field(default_factory=dict)
    preferences: dict[int, float] = field(default_factory=dict)
    is_plain: bool = field(init=False)
    reserves: bool = field(init=False)
    alone: bool = field(init=False)
    has_preferences: bool = field(init=False)

    def __post_init__(self) -> None:
        requirements = self.requirements
        self.is_plain, self.reserves = requirements.is_plain, requirements.reserves
        self.alone, self.has_preferences = requirements.alone, bool(requirements.prefers)


@dataclass(slots=True, eq=False, repr=False)
class TaskClass:
    """Tasks of one suite that any worker can run equally well or not at all: the unit of the scheduler's index."""

    suite: Suite
    kind: RequirementKind
    lacking: frozenset[WorkerId] = frozenset()
    """Workers that did not collect these tasks."""
    avoid: tuple[WorkerId, ...] = ()
    """Workers where an attempt failed or was lost, the latest last: others are preferred."""
    unavoiding: TaskClass | None = None
    """The same without anything to avoid; None if that is this one."""
    run: Run = field(init=False)
    requirements: Requirements = field(init=False)
    reserves: bool = field(init=False)
    left: WorkLeft = field(default_factory=WorkLeft)
    """Of its tasks and of those that differ only by what they avoid; counted in the one that avoids nothing."""
    known_slots: tuple[int, int, int] = (-1, 0, 0)
    """Version of the suite's ready slots; of those the eligible ones, and those of workers not to avoid."""

    def __post_init__(self) -> None:
        self.run = self.suite.run
        self.requirements, self.reserves = self.kind.requirements, self.kind.reserves

    @property
    def base(self) -> TaskClass:
        """The same without anything to avoid; itself if it avoids nothing."""
        return self if self.unavoiding is None else self.unavoiding


@dataclass(slots=True, eq=False, repr=False)
class Task:
    """One task and all that is known of it."""

    spec: TaskSpec
    suite: Suite
    position: int
    """In the run: order of submission."""
    requirements: Requirements
    """Those of its whole group if the group is kept together."""
    priority: int
    group: TaskGroup
    task_class: TaskClass
    state: TaskState = TaskState.PENDING
    entries: tuple[Any, ...] = ()
    """Of its story."""
    waits_for: frozenset[TaskId] = frozenset()
    lacking: frozenset[WorkerId] = frozenset()
    avoid: tuple[WorkerId, ...] = ()
    """Workers where it failed or was lost, the latest last."""
    attempts: int = 0
    """Executions that began (or may have begun)."""
    retries_used: int = 0
    losses: int = 0
    near_losses: int = 0
    """Times it was next on a worker that was lost: it may have been the cause, unseen."""
    doubts: int = 0
    """Times it waited behind that: what was before it may have ended, and its result been lost with the worker."""
    infrastructure_failures: int = 0
    moves: int = 0
    """Times its lease was asked back for the sake of balance."""
    lease: LiveLease | None = None
    """The first of its live leases."""
    gang: Gang | None = None
    """Who executes it together, if it is under way and needs several workers."""
    extra_leases: tuple[LiveLease, ...] = ()
    """Its further live leases: those of the other members of a gang, or of a hedge."""
    verdict: Verdict | None = None
    reason: str = ""
    place: object | None = None
    """Where the scheduling policy keeps it while it is queued."""
    known_s: float = field(init=False)
    """Its expected duration, beside all else that is looked at when it is moved or leased; negative: not known."""

    def __post_init__(self) -> None:
        expected_s = self.spec.expected_s
        self.known_s = -1.0 if expected_s is None else expected_s

    @property
    def run(self) -> Run:
        return self.suite.run

    @property
    def story(self) -> Story:
        return Story(self)

    @property
    def live_leases(self) -> tuple[LiveLease, ...]:
        """All of them, the first one first."""
        return () if self.lease is None else (self.lease, *self.extra_leases)

    @property
    def is_suspect(self) -> bool:
        """A worker was lost with it: it gets a slot to itself, one such task at a time on a worker.

        So that the next loss is certainly its own. To have waited on a lost worker once is common; twice is not.
        """
        return bool(self.losses or self.near_losses or self.doubts >= _DOUBTS_MAX)

    @property
    def task_id(self) -> TaskId:
        return self.spec.task_id

    def seen_from(self, run: Run) -> str:
        """Its name for who asks about ``run``."""
        return f"{self}" if self.run is run else f"{self} of run {self.run.run_id[:12]}"

    def __str__(self) -> str:
        return f"task {self.spec.task_id!r}"


@dataclass(slots=True, eq=False, repr=False)
class Gang:
    """One attempt of a task that several workers execute together."""

    members: tuple[LiveLease, ...]
    """In order of rank; those that ended are not live any more."""
    started_at: Instant
    """When all of them were granted."""
    results: dict[LeaseId, AttemptResult] = field(default_factory=dict)
    lost_because: str = ""
    """Set if a member is missing without whom there can be no verdict."""
    ending_because: str = ""
    """Set once the others are to end soon."""


@dataclass(slots=True, eq=False, repr=False)
class Gathering:
    """Slots of distinct workers that run dry for a waiting gang: all of them, or the gang gathers nothing."""

    task: Task
    slots: list[Slot]


@dataclass(slots=True, eq=False, repr=False)
class LiveLease:
    """A granted lease that has not ended: what is kept of it once its worker has been told."""

    lease_id: LeaseId
    attempt: int
    """Counts from 1."""
    task: Task
    slot: Slot
    predicted_s: float
    """On this worker."""
    typical_s: float
    """Predicted for a worker of typical speed."""
    place: GangPlace | None = None
    """In the gang that it is of."""
    is_started: bool = False
    is_revoked: bool = False
    """It has been asked back."""
    is_backfill: bool = False
    """It makes use of a slot that is kept for a gang."""
    kill_reason: str = ""
    """Why it has been told to end."""

    def __str__(self) -> str:
        return f"lease {self.lease_id}, attempt {self.attempt} on {self.slot.name}"


class Room(Enum):
    """What a slot could take."""

    EMPTY = "empty"
    WANTING = "wanting"
    """Little waits behind its first lease."""
    FULL = "full"
    BLOCKED = "blocked"
    """Nothing may follow what it has, however much waits."""


@dataclass(slots=True, eq=False, repr=False)
class Slot:
    """Room for one task on a worker, with the queue of its leases: the first runs or is next."""

    worker: Worker
    index: int
    leases: dict[LeaseId, LiveLease] = field(default_factory=dict)
    queued_s: float = 0.0
    """Sum of the predictions of its leases."""
    is_told_idle: bool = False
    head_since: Instant = 0.0
    """When the first lease became the first, as far as the coordinator knows."""
    unanswered_since: Instant | None = None
    """When it was granted something while it was empty; None once its worker has said anything of that."""
    closed_by: LiveLease | None = None
    """Nothing is put behind what the slot has until this lease of it has ended: a test that runs far longer than
    predicted or before which others serve what waits sooner, or one that may have ended a worker."""
    is_held: bool = False
    """It runs dry for a gang and gets nothing else."""
    dry_for: TaskClass | None = None
    """When it was last offered work, the scheduler kept it, or its whole worker, for a waiting task of this class."""
    listed_as: Room | None = None
    """With what room it is among the hungry ones."""
    predicted_at_s: float | None = None
    """The mean of the run's durations when ``queued_s`` was last summed up."""
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"{self.worker.worker_id}/{self.index}"

    def head(self) -> LiveLease | None:
        return next(iter(self.leases.values()), None)

    def __str__(self) -> str:
        return self.name


@dataclass(slots=True, eq=False, repr=False)
class Worker:
    """One session of one worker."""

    worker_id: WorkerId
    session: str
    order: int
    capabilities: Capabilities
    capability_kind: int
    entries: tuple[Any, ...] = ()
    """Of its story."""
    slots: list[Slot] = field(default_factory=list)
    state: WorkerState = WorkerState.HEALTHY
    is_draining: bool = False
    """It said so itself and will leave."""
    is_drain_requested: bool = False
    """The operator said so."""
    is_silent: bool = False
    held_back_because: str = ""
    """The operator quarantined it."""
    trust: Trust = Trust.FULL
    trust_reason: str = ""
    probe_failure: str = ""
    """Why its probe does not let it have work; empty if it passed or there is none."""
    free: dict[str, float] = field(default_factory=dict)
    """Countable resources that nothing holds now."""
    lease_count: int = 0
    alone: LiveLease | None = None
    """The lease that has this worker for itself."""
    holding: Slot | None = None
    """The slot that runs dry for a waiting task which needs an empty one."""
    ready_suites: set[Suite] = field(default_factory=set)
    counted_in: set[Suite] = field(default_factory=set)
    """Suites whose ``ready_slots`` count this worker."""
    is_counted: bool = False
    heartbeat_interval_s: float = 0.0
    """What it was told."""
    address: str = ""
    """Under which other machines reach it."""
    gathering: Gathering | None = None
    """The waiting gang that it is kept for."""
    rests_until: Instant = 0.0
    """Until then other runs' work goes before the next gang."""
    gangs_s: float = 0.0
    """How long gangs have had it since single tests were seen on it."""
    last_seen: Instant = 0.0

    @property
    def story(self) -> Story:
        return Story(self)

    @property
    def accepts(self) -> bool:
        """True if it may be granted leases."""
        return self.state in (WorkerState.HEALTHY, WorkerState.PROBATION)

    @property
    def is_on_probation(self) -> bool:
        """It gets one task at a time until it has proved itself."""
        return self.state is WorkerState.PROBATION

    @property
    def has_suspect(self) -> bool:
        """A suspect task runs there or is next."""
        heads = [slot.head() for slot in self.slots]
        return any(head is not None and head.task.is_suspect for head in heads)

    @property
    def quarantined_because(self) -> str:
        """Why it gets no work although it is there: the operator's word, its record, its probe; empty if none."""
        if self.held_back_because:
            return f"by the operator: {self.held_back_because}"
        if self.trust is Trust.NONE:
            return self.trust_reason
        return self.probe_failure

    @property
    def is_linked(self) -> bool:
        """True if commands can reach it."""
        return self.state is not WorkerState.DISCONNECTED and not self.state.is_gone

    def dissolve(self) -> None:
        """It is gone: it and its slots let go of each other, so that they are freed without a collector."""
        self.slots.clear()
        self.ready_suites.clear()

    def __str__(self) -> str:
        return f"worker {self.worker_id!r}"
