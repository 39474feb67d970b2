"""What must be done: the only output of ``ClusterState.apply``. Shells translate each into frames and effects.

Nobody changes a command once it was made. Those of which there are several for every test are not declared frozen, as
that makes each field of a new one cost three times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from fleetest.core.model import AlertId, AttemptResult, Lease, LeaseId, RunId, TaskId, Verdict, WorkerId


@dataclass(frozen=True, slots=True)
class PrepareRun:
    """Tell the worker of the run, so that it collects its suites.

    Its runners are called ``gw{first_runner}``, ``gw{first_runner + 1}``, ... one per slot: unique within the run
    across machines. ``runner_count`` is the number of slots in the fleet at this moment.
    """

    worker_id: WorkerId
    run_id: RunId
    first_runner: int
    runner_count: int


@dataclass(slots=True, unsafe_hash=True)
class GrantLeases:
    """Append these leases, in this order, to the queue of one slot."""

    worker_id: WorkerId
    slot: int
    leases: Sequence[Lease]


@dataclass(slots=True, unsafe_hash=True)
class SlotIdle:
    """Nothing follows for this slot at the moment: its runner may tear down everything after its last lease."""

    worker_id: WorkerId
    slot: int


@dataclass(frozen=True, slots=True)
class RevokeLeases:
    """Give back those of these leases that have not started; answered by LeasesReturned (or by their results)."""

    worker_id: WorkerId
    lease_ids: Sequence[LeaseId]


@dataclass(frozen=True, slots=True)
class KillLeases:
    """End these attempts now; their results are no longer wanted (``reason`` says why)."""

    worker_id: WorkerId
    lease_ids: Sequence[LeaseId]
    reason: str


@dataclass(frozen=True, slots=True)
class EndRun:
    """The run is over for this worker: finish its sessions, forget it."""

    worker_id: WorkerId
    run_id: RunId


@dataclass(frozen=True, slots=True)
class SetHeartbeat:
    """Beat at this interval from now on: the fleet has grown or shrunk."""

    worker_id: WorkerId
    interval_s: float


@dataclass(frozen=True, slots=True)
class DisconnectWorker:
    """Close the worker's link with this reason (replaced by a new session, declared lost)."""

    worker_id: WorkerId
    reason: str


@dataclass(slots=True, unsafe_hash=True)
class PublishStarted:
    """``tasks``: (task, attempt, worker, slot) that began to run."""

    run_id: RunId
    tasks: Sequence[tuple[TaskId, int, WorkerId, int]]


@dataclass(slots=True, unsafe_hash=True)
class TaskOutcome:
    """One finished attempt, or a verdict without one (not_run, cancelled, quarantined).

    ``is_final``: this is the task's one verdict; otherwise another attempt follows. ``result`` is None if nothing was
    executed. ``superseded`` results (stale lease) are published as evidence and never final.
    """

    task_id: TaskId
    attempt: int
    verdict: Verdict
    is_final: bool
    worker_id: WorkerId | None = None
    slot: int | None = None
    result: AttemptResult | None = None
    reason: str = ""
    is_superseded: bool = False
    members: tuple[TaskOutcome, ...] = ()
    """Of a gang: what each member said, in order of rank; ``result`` is then that of the one that decided."""


@dataclass(slots=True, unsafe_hash=True)
class PublishOutcomes:
    run_id: RunId
    outcomes: Sequence[TaskOutcome]


@dataclass(frozen=True, slots=True)
class ReportStrayResults:
    """A worker told results under leases that are not its own, are no more, or were answered: they changed nothing."""

    worker_id: WorkerId
    lease_ids: Sequence[LeaseId]


@dataclass(frozen=True, slots=True)
class PublishNotice:
    """One line for whoever waits for the run, to be read now."""

    run_id: RunId
    text: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """Every planned task has exactly one verdict. ``counts`` by verdict."""

    run_id: RunId
    counts: dict[Verdict, int]


@dataclass(frozen=True, slots=True)
class RaiseAlert:
    """Once per worker and cause, until cleared."""

    worker_id: WorkerId
    cause: str
    message: str
    alert_id: AlertId = field(default=AlertId(""), compare=False)


@dataclass(frozen=True, slots=True)
class ClearAlert:
    worker_id: WorkerId
    cause: str
    alert_id: AlertId = field(default=AlertId(""), compare=False)


Command: TypeAlias = (
    PrepareRun
    | GrantLeases
    | SlotIdle
    | RevokeLeases
    | KillLeases
    | EndRun
    | SetHeartbeat
    | DisconnectWorker
    | PublishStarted
    | PublishOutcomes
    | ReportStrayResults
    | PublishNotice
    | RunFinished
    | RaiseAlert
    | ClearAlert
)
