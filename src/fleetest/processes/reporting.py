"""What the executing side of a worker tells its shell, and the lease as the slots keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fleetest.core.model import AttemptResult, Lease, LeaseId, Verdict
from fleetest.wire.messages import WorkerMessage


@dataclass(slots=True)
class HeldLease:
    """A granted lease on its way through a slot."""

    lease: Lease
    position: int = -1
    """Where the runner's collection has it; -1 until written to the runner."""
    started_at: float | None = None
    """Wall time, seconds since the epoch."""
    is_announced: bool = False
    """AttemptsStarted was sent for it."""

    def result(self, verdict: Verdict, *, evidence: str = "", output: str = "", ended_at: float = 0.0) -> AttemptResult:
        """A result without reports, for an attempt that did not end by itself; ``ended_at`` is wall time."""
        started_at = self.started_at or 0.0
        duration_s = max(0.0, ended_at - started_at) if started_at and ended_at else 0.0
        return AttemptResult(
            self.lease.lease_id,
            verdict,
            started_at=started_at,
            duration_s=duration_s,
            call_s=duration_s,
            output=output,
            evidence=evidence,
        )


class Reporter(Protocol):
    """Takes what is to be told to the coordinator; everything leaves together soon after ``wake``."""

    def finished(self, result: AttemptResult) -> None: ...

    def returned(self, lease_ids: Sequence[LeaseId], *, not_collectable: bool = False) -> None: ...

    def infrastructure_failed(
        self, lease_ids: Sequence[LeaseId], reason: str, *, has_started: bool = False
    ) -> None: ...

    def tell(self, message: WorkerMessage) -> None: ...

    def wake(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """Bounds that every slot obeys."""

    term_grace_s: float = 5.0
    """Between SIGTERM and SIGKILL of a process group."""
    output_limit_bytes: int = 1024 * 1024
    """Captured output kept per attempt."""
    finish_timeout_s: float = 10.0
    """For runners to finish their sessions at the end of a run."""


class Seat(Protocol):
    """Executes the leases of one suite of one run in one slot, in the order given."""

    @property
    def is_empty(self) -> bool:
        """True if it holds no lease."""

    @property
    def current(self) -> HeldLease | None:
        """The lease that is executing."""

    def held(self) -> list[LeaseId]: ...

    def capacity(self) -> int:
        """How many more leases it takes now."""

    def give(self, leases: Sequence[HeldLease]) -> None: ...

    def advance(self) -> None:
        """Go on with what it holds, after something that it waited for has come."""

    def nothing_follows(self) -> None:
        """After its last lease it may tear down everything."""

    def take_back(self, lease_ids: set[LeaseId] | None) -> list[HeldLease]:
        """Remove those of these leases (None: of all) that have not started."""

    def kill(self, lease_ids: set[LeaseId], reason: str) -> None:
        """End those of these attempts that it holds; each gets a result ``cancelled``."""

    async def finish(self) -> None:
        """The run is over: end the runner in good order, within bounds."""

    def close(self) -> None:
        """Kill at once whatever it runs."""
