"""The words of Fleetest as values: ids, tasks, requirements, capabilities, verdicts, results, limits.

Every value here is plain data. Times are seconds; ``Instant`` is a reading of the monotonic clock of the process that
decides, ``started_at`` of a result is wall time (a label, never used to decide). Memory is bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, NewType, TypeAlias

RunId = NewType("RunId", str)
TaskId = NewType("TaskId", str)
"""Unique in its run: the pytest node id or the command's name, prefixed with ``suite::`` if the suite has a name."""
WorkerId = NewType("WorkerId", str)
LeaseId = NewType("LeaseId", int)
"""Unique within one epoch of the coordinator."""
AlertId = NewType("AlertId", str)
"""Unique over epochs: ``epoch-number``."""
TaskKey: TypeAlias = tuple[RunId, TaskId]
VARIANT_VARIABLE = "FLEETEST_VARIANT"
"""Environment variable in which a command finds the value that its variant is for: ``browser=firefox``."""
VARIANT_SIGN = " @ "
"""Between the id of a test and the value that a variant of it is for: ``test_a.py::test_x @ python=3.12.1``."""
Instant: TypeAlias = float


WEIGHT_MIN, WEIGHT_MAX = 0.001, 1000.0
"""Of a run, for fair share."""


class Verdict(str, Enum):
    """The one final outcome of a task."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    OOM = "oom"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"
    NOT_RUN = "not_run"

    @property
    def is_success(self) -> bool:
        """True if a run with only such verdicts ends with exit status 0 and dependants may start."""
        return self in _SUCCESS

    @property
    def may_be_retried(self) -> bool:
        """True for outcomes of a real execution that the user's ``retries`` apply to."""
        return self in _RETRIED


_SUCCESS = frozenset({Verdict.PASSED, Verdict.SKIPPED, Verdict.XFAILED, Verdict.XPASSED})
_RETRIED = frozenset({Verdict.FAILED, Verdict.ERROR, Verdict.TIMEOUT, Verdict.CRASHED, Verdict.OOM})


class Trust(Enum):
    """How far a worker is trusted with work, by its record."""

    FULL = "full"
    PROBATION = "probation"
    """One task at a time."""
    NONE = "none"


class Operator(str, Enum):
    """Comparison in one constraint."""

    EQ = "="
    NE = "!="
    GE = ">="
    GT = ">"
    LE = "<="
    LT = "<"
    IS = "==="
    """The very same text, without case: no versions, no units."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """``name operator value``, matched against the worker's attributes or resource totals; nothing is consumed."""

    name: str
    operator: Operator
    value: str


class AnyOf(NamedTuple):
    """Holds if one of its constraints does. At least two of them, in the order in which they were written."""

    alternatives: tuple[Constraint, ...]


Condition: TypeAlias = Constraint | AnyOf


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a task needs. Hashable: tasks are indexed by distinct requirements, never compared one by one.

    ``resources`` are reserved while the task runs (``("gpus", 1.0)``, ``("memory", 8589934592.0)``), sorted by name.
    ``constraints`` must all hold together on one worker. ``locks`` are names held exclusively across the whole fleet.
    ``alone`` means that nothing else may run on that worker meanwhile. ``prefers`` are wishes: a worker that satisfies
    more of them is better, and none is refused for them. ``workers`` is the number of workers that the task needs at
    the same time, each with all the rest.
    """

    resources: tuple[tuple[str, float], ...] = ()
    constraints: tuple[Condition, ...] = ()
    locks: tuple[str, ...] = ()
    alone: bool = False
    prefers: tuple[Condition, ...] = ()
    workers: int = 1

    @property
    def is_plain(self) -> bool:
        """True if a free slot on any worker will do: such tasks may be queued ahead in a slot."""
        return not (self.constraints or self.reserves)

    @property
    def reserves(self) -> bool:
        """True if running it holds something besides its slot: such tasks are leased only to an empty slot."""
        return bool(self.resources or self.locks or self.alone or self.workers > 1)


NO_REQUIREMENTS = Requirements()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a worker has.

    ``attributes`` are matched: ``{"os": ("linux",), "python": ("3.11.7", "3.12.1"), "browser": ("chrome",)}``; a
    constraint holds if any one value satisfies it. ``resources`` are countable totals: ``{"cpus": 16.0,
    "memory": 6.7e10, "gpus": 1.0, "licence": 2.0}``; they are consumed by ``Requirements.resources`` and their
    totals can be matched by constraints too. Names are lower case, dotted (``gpu.memory``, ``gpu.model``).
    """

    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One schedulable test as planned: what the core and the policies need to know, nothing of its execution."""

    task_id: TaskId
    suite: str = ""
    """Name of the suite (pytest target or list of commands) inside the run that executes it."""
    group: str = ""
    """Tasks of one group should share a runner: the file of a pytest item, or its group mark."""
    keep_together: bool = False
    """The group is a user's mark: it must never be split over runners."""
    requirements: Requirements = NO_REQUIREMENTS
    priority: int = 0
    """Higher starts first."""
    timeout_s: float | None = None
    retries: int = 0
    """How many further attempts a failing task gets before its verdict stands."""
    backoff_s: float = 0.0
    """How long the first retry waits; each further one twice as long as the one before."""
    depends_on: tuple[TaskId, ...] = ()
    expected_s: float | None = None
    """Expected duration from history; None if never run."""
    hedge: bool = True
    """While it runs, a second attempt may be started on another worker; the first verdict counts."""
    each: str = ""
    """Name of a capability: the task is to run once on every distinct value of it. Empty for any other task, and for
    the variants that such a task was expanded into."""
    variant: str = ""
    """``name=value`` of the value that this variant is for; its id is that of the test, then `` @ ``, then this."""


@dataclass(slots=True)
class AttemptResult:
    """What a worker says of one attempt. The core reads ``lease_id``, ``verdict`` and ``duration_s`` only."""

    lease_id: LeaseId
    verdict: Verdict
    started_at: float = 0.0
    """Wall time, seconds since the epoch."""
    duration_s: float = 0.0
    setup_s: float = 0.0
    call_s: float = 0.0
    teardown_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    reports: bytes | None = None
    """pytest's serialised reports of this attempt as a JSON array (see the runner protocol), opaque on the way.

    None for the common compact case: setup, call and teardown passed and printed nothing.
    """
    output: str = ""
    """Captured output, bounded; for commands, crashes and timeouts (pytest's reports carry their own sections)."""
    evidence: str = ""
    """Why the verdict is what it is, if no report says so: signal, exit status, stack dump, missing id."""
    artifacts: tuple[str, ...] = ()
    """Paths of kept artifacts."""


@dataclass(frozen=True, slots=True)
class GangPlace:
    """The place of one member in a gang: workers that execute one task together. Both lists are in order of rank."""

    gang_id: str
    """Unique within one epoch; another attempt is another gang."""
    rank: int
    """From 0."""
    size: int
    hosts: tuple[str, ...]
    """Addresses under which the members reach each other."""
    workers: tuple[WorkerId, ...]


@dataclass(slots=True, unsafe_hash=True)
class Lease:
    """The right to execute one attempt on one slot of one worker.

    Never changed; not declared frozen, as one is made per attempt.
    """

    lease_id: LeaseId
    run_id: RunId
    task_id: TaskId
    suite: str
    attempt: int
    """Counts from 1."""
    timeout_s: float | None = None
    variant: str = ""
    """That of the task: the worker knows the test by its id without it."""
    gang: GangPlace | None = None
    """Set if others execute this attempt together with this worker."""

    @property
    def base_id(self) -> TaskId:
        """The id under which the worker collected the test."""
        return base_id(self.task_id, self.variant)


def base_id(task_id: TaskId, variant: str) -> TaskId:
    """The id under which a test was collected: that of its variant without what follows ``VARIANT_SIGN``."""
    place = task_id.rfind(VARIANT_SIGN + variant) if variant else -1
    return task_id if place < 0 else TaskId(task_id[:place])


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and intervals that the core obeys, in one value."""

    tasks_per_run: int = 1_000_000
    attempts_lost_max: int = 3
    """A task whose worker was lost under it this often is quarantined."""
    prefetch_s: float = 0.4
    """Predicted work that may wait in one slot's queue; more of it where the network is slow."""
    prefetch_tasks_max: int = 500
    """Tasks that may wait in one slot's queue; more of them where more work may wait."""
    unknown_task_s: float = 0.1
    """Prediction for a task when neither history nor the running run knows better."""
    heartbeat_interval_s: float = 5.0
    reconnect_grace_s: float = 15.0
    """After a link closes without goodbye its leases wait this long for the worker to come back."""
    lease_overrun_s: float = 60.0
    """A running lease is declared lost this long after its timeout if the worker has not said so itself."""
    cancel_grace_s: float = 5.0
    """Running tests of a cancelled run may finish for this long before they are killed."""
    kill_answer_s: float = 5.0
    """A lease that was told to end and has not answered for this long is taken as ended."""
    infrastructure_failures_max: int = 5
    """A worker with this many consecutive infrastructure failures is quarantined."""
    ageing_s: float = 300.0
    """Queued work that was passed over by higher priorities for so long gets one turn of a slot that fits."""
    revoke_answer_s: float = 2.0
    """A worker that was asked for unstarted leases and has not answered for this long gets hedges of them."""
    quarantine_s: float = 60.0
    """How long at first; twice as long each further time. Then the worker is on probation."""
    quarantine_max_s: float = 3600.0
    """No longer than this; and a worker that was trusted for so long begins with ``quarantine_s`` again."""
    probation_successes: int = 3
    """So many tests, one at a time, must run to their end before a worker on probation is trusted."""
    flapping_losses: int = 5
    """So many links lost within ``flapping_window_s`` put a worker on probation."""
    flapping_window_s: float = 600.0
    lost_alert_s: float = 3600.0
    """The alert of a lost worker that does not come back is cleared after so long."""
    moves_max: int = 3
    """A task is taken from a slot for the sake of balance at most this often."""
    announced: tuple[Capabilities, ...] = ()
    """Workers that will come some time: what one of them could do waits for it without a limit."""
    workers_may_join: bool = True
    """False for a fleet that stays as it is: what nobody there can run ends not_run instead of waiting."""
    alerts_kept_max: int = 1000
    """So many alerts that are over are kept for questions."""
