"""Alerts: raised once per worker and cause while it lasts, cleared when it is over, kept for a while afterwards."""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass
from enum import Enum

from fleetest.core.model import AlertId, Instant, WorkerId

COORDINATOR = WorkerId("")
"""In the place of a worker: the alert is about the coordinator itself."""


class Cause(str, Enum):
    """Why an alert was raised. The values are what people and programs read."""

    SUSPECT = "suspect"
    LOST = "lost"
    QUARANTINED = "quarantined"
    FLAPPING = "flapping"
    PROBE_FAILED = "probe failed"
    FAILS_WHAT_OTHERS_PASS = "fails what others pass"
    SLOWER_THAN_BEFORE = "slower than before"
    DISK_NEARLY_FULL = "disk nearly full"
    HISTORY_NOT_WRITTEN = "history not written"
    AUDIT_NOT_WRITTEN = "audit log not written"
    FLEET_NOT_KEPT = "fleet not kept"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Alert:
    """``cleared_at`` is None while it lasts. Instants are of the coordinator's monotonic clock."""

    alert_id: AlertId
    worker_id: WorkerId
    cause: str
    message: str
    raised_at: Instant
    acknowledged_by: str | None = None
    acknowledged_at: Instant | None = None
    cleared_at: Instant | None = None


class Alerts:
    """All alerts that last, and the latest ``kept_max`` of those that are over."""

    def __init__(self, epoch: int, kept_max: int) -> None:
        self._epoch, self._kept_max = epoch, kept_max
        self._count = 0
        self._lasting: dict[tuple[WorkerId, str], Alert] = {}
        self._by_id: dict[AlertId, Alert] = {}
        """In the order in which they were raised."""
        self._over: deque[AlertId] = deque()
        self._causes: dict[WorkerId, set[str]] = {}

    def add(self, worker_id: WorkerId, cause: str, message: str, now: Instant) -> Alert | None:
        """The new alert; None if this one lasts already: then it says this from now on."""
        cause = str(cause)
        lasting = self._lasting.get((worker_id, cause))
        if lasting is not None:
            if lasting.message != message:
                self._replace(dataclasses.replace(lasting, message=message))
            return None
        self._count += 1
        alert = Alert(AlertId(f"{self._epoch}-{self._count}"), worker_id, cause, message, now)
        self._replace(alert)
        self._causes.setdefault(worker_id, set()).add(cause)
        return alert

    def recall(self, alert: Alert) -> None:
        """One of an earlier epoch, as it was then; they come in the order in which they were raised."""
        self._replace(alert)
        if alert.cleared_at is None:
            self._causes.setdefault(alert.worker_id, set()).add(alert.cause)
        else:
            self._over.append(alert.alert_id)
            self._drop_oldest()

    def clear(self, worker_id: WorkerId, cause: str, now: Instant) -> Alert | None:
        """The alert that is over now; None if there was none."""
        cause = str(cause)
        alert = self._lasting.pop((worker_id, cause), None)
        if alert is None:
            return None
        causes = self._causes[worker_id]
        causes.discard(cause)
        if not causes:
            del self._causes[worker_id]
        alert = self._by_id[alert.alert_id] = dataclasses.replace(alert, cleared_at=now)
        self._over.append(alert.alert_id)
        self._drop_oldest()
        return alert

    def _drop_oldest(self) -> None:
        while len(self._over) > self._kept_max:
            del self._by_id[self._over.popleft()]

    def acknowledge(self, alert_id: AlertId, by: str, now: Instant) -> None:
        """Somebody has seen it; the first one counts. An unknown alert is nothing."""
        alert = self._by_id.get(alert_id)
        if alert is None or alert.acknowledged_by is not None:
            return
        self._replace(dataclasses.replace(alert, acknowledged_by=by, acknowledged_at=now))

    def _replace(self, alert: Alert) -> None:
        self._by_id[alert.alert_id] = alert
        if alert.cleared_at is None:
            self._lasting[alert.worker_id, alert.cause] = alert

    def causes(self, worker_id: WorkerId) -> tuple[str, ...]:
        """Of the alerts of this worker that last, sorted."""
        return tuple(sorted(self._causes.get(worker_id, ())))

    def all(self) -> tuple[Alert, ...]:
        """Every alert that is kept, oldest first."""
        return tuple(self._by_id.values())
