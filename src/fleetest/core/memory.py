"""What a coordinator knows that outlives it: plain values, to be written down and given to the next one.

Everything belongs to the name of a worker, but a drain, which belongs to a session. Instants are of the clock of the
coordinator that holds the value: whoever writes them down keeps them as times of day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from fleetest.core.alerts import Alert
from fleetest.core.model import Instant, Trust, WorkerId


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """What the health policy holds against a worker of this name."""

    worker_id: WorkerId
    trust: Trust = Trust.FULL
    reason: str = ""
    failures: int = 0
    """Infrastructure failures in a row."""
    openings: int = 0
    """Quarantines without a long time of trust in between."""
    proofs: int = 0
    """Tests that ran well on this probation."""
    trusted_since: Instant | None = None
    """When it was trusted again after its last quarantine; None if it never was in one."""
    quarantined_until: Instant | None = None
    """Set while ``trust`` is none."""
    losses: tuple[Instant, ...] = ()
    """Its latest lost links."""
    changed_at: Instant | None = None
    """When something was last held against it, or taken back."""
    usual_slowness: float | None = None
    """Logarithm of how slow it was against the fleet before it became slower, if it is now."""


@dataclass(frozen=True, slots=True)
class ClusterMemory:
    """Of one coordinator, at one moment."""

    held_back: Mapping[WorkerId, str] = field(default_factory=dict)
    """Workers that the operator quarantined, with the reason."""
    drains: Mapping[str, WorkerId] = field(default_factory=dict)
    """Sessions that the operator drained, with their workers."""
    alerts: tuple[Alert, ...] = ()
    """In the order in which they were raised."""
    records: tuple[WorkerRecord, ...] = ()

    def at_other_times(self, when: Callable[[Instant], Instant]) -> ClusterMemory:
        """The same with every instant replaced: read from another clock."""
        return replace(
            self,
            alerts=tuple(
                replace(
                    alert,
                    raised_at=when(alert.raised_at),
                    acknowledged_at=_maybe(when, alert.acknowledged_at),
                    cleared_at=_maybe(when, alert.cleared_at),
                )
                for alert in self.alerts
            ),
            records=tuple(
                replace(
                    record,
                    trusted_since=_maybe(when, record.trusted_since),
                    quarantined_until=_maybe(when, record.quarantined_until),
                    losses=tuple(map(when, record.losses)),
                    changed_at=_maybe(when, record.changed_at),
                )
                for record in self.records
            ),
        )


def _maybe(when: Callable[[Instant], Instant], instant: Instant | None) -> Instant | None:
    return None if instant is None else when(instant)
