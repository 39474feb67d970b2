"""What happened: the only input of ``ClusterState.apply``. Nouns in the past; plain values; no behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fleetest.core.memory import ClusterMemory
from fleetest.core.model import AlertId, AttemptResult, Capabilities, LeaseId, RunId, TaskId, TaskSpec, WorkerId


@dataclass(frozen=True, slots=True)
class MemoryRecalled:
    """What an earlier coordinator knew: before anything else happens, or not at all. Its instants are of our clock."""

    memory: ClusterMemory


@dataclass(frozen=True, slots=True)
class SlownessRecalled:
    """What past runs say of the speed of workers, whether or not they are there: seconds for a typical second."""

    slowness: Mapping[WorkerId, float]


@dataclass(frozen=True, slots=True)
class RunSubmitted:
    """A client asked for a run. ``suites`` are names; each must be planned (or fail to be) before the run can end."""

    run_id: RunId
    suites: tuple[str, ...] = ("",)
    owner: str = ""
    """Fair share is between owners' runs."""
    priority: int = 0
    wait_for_workers_s: float | None = None
    """How long work that no known worker can do waits for one that can; None: for ever."""
    weight: float = 1.0
    """Its part of the fleet: a run of weight 3 gets three times what one of weight 1 gets. Above 0."""


@dataclass(frozen=True, slots=True)
class SuitePlanned:
    """It is known what a suite consists of: from now on these are its tasks, in this order."""

    run_id: RunId
    suite: str
    tasks: Sequence[TaskSpec]


@dataclass(frozen=True, slots=True)
class SuiteRefused:
    """A suite ended without a plan (collection error, usage error, ``pytest.exit``); the client knows the details."""

    run_id: RunId
    suite: str
    reason: str


@dataclass(frozen=True, slots=True)
class SuiteReady:
    """This worker can execute the suite's planned tasks, except ``missing`` ones, which it did not collect."""

    worker_id: WorkerId
    run_id: RunId
    suite: str
    missing: frozenset[TaskId] = frozenset()


@dataclass(frozen=True, slots=True)
class SuiteUnavailable:
    """This worker cannot execute the suite (path not there, interpreter without pytest); others may."""

    worker_id: WorkerId
    run_id: RunId
    suite: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """Hand out nothing more. ``kill`` ends running tests now.

    ``quiet`` is fail-fast: unstarted tasks end as not_run(reason), running ones finish. Otherwise the user wants out:
    unstarted tasks end as cancelled(reason), running ones may finish within ``cancel_grace_s``.
    """

    run_id: RunId
    reason: str
    kill: bool = False
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker said hello. ``held_leases`` are what it still executes from an earlier link of the same session."""

    worker_id: WorkerId
    session: str
    slots: int
    capabilities: Capabilities
    held_leases: tuple[LeaseId, ...] = ()
    has_probe: bool = False
    """A new session gets no work until ``WorkerProbed`` says that its probe passed."""
    address: str = ""
    """Host name or number under which other machines reach it."""


@dataclass(frozen=True, slots=True)
class WorkerHeartbeat:
    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerDraining:
    """It starts nothing new, finishes what runs, then leaves."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerDisconnected:
    """Its link is gone. ``said_goodbye``: it left by itself and will not come back with its leases.

    ``process_is_dead``: known for certain (a child process that was reaped), so no grace is given.
    """

    worker_id: WorkerId
    reason: str
    said_goodbye: bool = False
    process_is_dead: bool = False


@dataclass(frozen=True, slots=True)
class WorkerDrainRequested:
    """The operator wants this session of the worker to start nothing new; it stays until it is resumed or leaves."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerResumed:
    """The operator takes back the drain."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerQuarantined:
    """The operator does not trust a worker of this name, whatever its session, until it is released."""

    worker_id: WorkerId
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WorkerReleased:
    """The operator ends a quarantine, his own or an automatic one."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerProbed:
    """The worker's own probe ran. ``detail``: the last line that it printed, or why it could not run."""

    worker_id: WorkerId
    is_ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CoordinatorChecked:
    """The coordinator looked after itself. Without ``trouble``: of this cause there is none, or no more.

    While its disk is nearly full it grants no leases.
    """

    cause: str
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class AlertAcknowledged:
    """Somebody has seen the alert and takes care of it."""

    alert_id: AlertId
    by: str


@dataclass(frozen=True, slots=True)
class AttemptsStarted:
    worker_id: WorkerId
    lease_ids: Sequence[LeaseId]


@dataclass(frozen=True, slots=True)
class AttemptsFinished:
    """Results; for short tests the start is implied."""

    worker_id: WorkerId
    results: Sequence[AttemptResult]


@dataclass(frozen=True, slots=True)
class LeasesReturned:
    """Unstarted leases given back: revoked, or (``not_collectable``) this worker lacks the id."""

    worker_id: WorkerId
    lease_ids: Sequence[LeaseId]
    not_collectable: bool = False


@dataclass(frozen=True, slots=True)
class InfrastructureFailed:
    """The worker could not execute a lease through no fault of the test (cannot fork, no disk)."""

    worker_id: WorkerId
    lease_ids: Sequence[LeaseId]
    reason: str
    has_started: bool = False


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    """Time passed: run whatever is due at ``now``."""


Event: TypeAlias = (
    MemoryRecalled
    | SlownessRecalled
    | RunSubmitted
    | SuitePlanned
    | SuiteRefused
    | SuiteReady
    | SuiteUnavailable
    | RunCancelled
    | WorkerJoined
    | WorkerHeartbeat
    | WorkerDraining
    | WorkerDisconnected
    | WorkerDrainRequested
    | WorkerResumed
    | WorkerQuarantined
    | WorkerReleased
    | WorkerProbed
    | CoordinatorChecked
    | AlertAcknowledged
    | AttemptsStarted
    | AttemptsFinished
    | LeasesReturned
    | InfrastructureFailed
    | DeadlineReached
)
