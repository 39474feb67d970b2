"""The failure detector: judges workers by the age of their last sign of life.

A worker is suspect after three expected intervals of silence and lost after six. The expected interval adapts to the
measured jitter of its heartbeats, between the agreed one and ``ADAPTED_MAX`` times it: mean and mean deviation are
smoothed as TCP does for its retransmission timer (Jacobson 1988).

Silence counts only while somebody listens. Time in which this process did not run is left out (``excuse``): after
a stop of the coordinator everybody was silent and nobody is to blame.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fleetest.core.model import Instant, WorkerId
from fleetest.core.policies import Health, HealthChange

SUSPECT_INTERVALS = 3.0
LOST_INTERVALS = 6.0
ADAPTED_MAX = 2.0
_SMOOTHING = 0.125


@dataclass(slots=True, eq=False)
class _Watched:
    worker_id: WorkerId
    interval_s: float
    last_seen: Instant
    last_beat: Instant
    health: Health = Health.HEALTHY
    mean_s: float = 0.0
    deviation_s: float = 0.0
    due: Instant = math.inf

    @property
    def expected_s(self) -> float:
        """Interval at which a beat of this worker can be expected, between the two bounds."""
        adapted_s = self.mean_s + 2 * self.deviation_s
        return min(max(adapted_s, self.interval_s), ADAPTED_MAX * self.interval_s)


class Heartbeats:
    """Time is always given; a beat costs no search, a check one step in a heap."""

    def __init__(self) -> None:
        self._watched: dict[WorkerId, _Watched] = {}
        self._checks: list[tuple[Instant, int, _Watched]] = []
        self._count = 0
        self._deaf_s = 0.0
        """What is to be left out of all time so far. Every instant in here is less by that much."""

    def __len__(self) -> int:
        return len(self._watched)

    def excuse(self, unheard_s: float) -> None:
        """For so long nobody could have been heard."""
        self._deaf_s += unheard_s

    def watch(self, worker_id: WorkerId, now: Instant, interval_s: float) -> None:
        now -= self._deaf_s
        watched = _Watched(worker_id, interval_s, now, now, mean_s=interval_s if math.isfinite(interval_s) else 0.0)
        self._watched[worker_id] = watched
        if math.isfinite(interval_s):
            self._check_at(watched, now + SUSPECT_INTERVALS * watched.expected_s)

    def set_interval(self, worker_id: WorkerId, interval_s: float) -> None:
        """From its next beat on the worker is expected at another interval."""
        watched = self._watched.get(worker_id)
        if watched is not None and math.isfinite(interval_s):
            watched.mean_s *= interval_s / watched.interval_s
            watched.deviation_s *= interval_s / watched.interval_s
            watched.interval_s = interval_s
            if watched.health is Health.HEALTHY and watched.last_seen + SUSPECT_INTERVALS * interval_s < watched.due:
                self._check_at(watched, watched.last_seen + SUSPECT_INTERVALS * interval_s)

    def forget(self, worker_id: WorkerId) -> None:
        self._watched.pop(worker_id, None)

    def health(self, worker_id: WorkerId) -> Health | None:
        """What was last said of the worker; None if it is not watched."""
        watched = self._watched.get(worker_id)
        return watched.health if watched is not None else None

    def beat(self, worker_id: WorkerId, now: Instant) -> HealthChange | None:
        watched = self._watched.get(worker_id)
        if watched is None:
            return None
        heard_at = now - self._deaf_s
        gap_s = max(0.0, heard_at - watched.last_beat)
        watched.last_beat = heard_at
        if watched.health is not Health.HEALTHY:
            return self.seen(worker_id, now)  # An outage is no jitter: nothing is learned from it.
        watched.deviation_s += _SMOOTHING * (abs(gap_s - watched.mean_s) - watched.deviation_s)
        watched.mean_s += _SMOOTHING * (gap_s - watched.mean_s)
        return self.seen(worker_id, now)

    def seen(self, worker_id: WorkerId, now: Instant) -> HealthChange | None:
        watched = self._watched.get(worker_id)
        if watched is None:
            return None
        now -= self._deaf_s
        silence_s = max(0.0, now - watched.last_seen)
        watched.last_seen = now
        if watched.health is not Health.SUSPECT:
            return None
        watched.health = Health.HEALTHY
        self._check_at(watched, now + SUSPECT_INTERVALS * watched.expected_s)
        return HealthChange(worker_id, Health.HEALTHY, f"heard again after {silence_s:.1f} s")

    def advance(self, now: Instant) -> Sequence[HealthChange]:
        changes: list[HealthChange] = []
        now -= self._deaf_s
        while self._checks and self._checks[0][0] <= now:
            due, _, watched = heapq.heappop(self._checks)
            if self._watched.get(watched.worker_id) is not watched or watched.due != due:
                continue
            watched.due = math.inf
            change = self._judge(watched, now)
            if change is not None:
                changes.append(change)
        return changes

    def next_deadline(self) -> Instant | None:
        while self._checks:
            due, _, watched = self._checks[0]
            if self._watched.get(watched.worker_id) is watched and watched.due == due:
                return due + self._deaf_s
            heapq.heappop(self._checks)
        return None

    def _judge(self, watched: _Watched, now: Instant) -> HealthChange | None:
        silence_s = now - watched.last_seen
        suspect_at = watched.last_seen + SUSPECT_INTERVALS * watched.expected_s
        lost_at = watched.last_seen + LOST_INTERVALS * watched.expected_s
        if now >= lost_at:
            watched.health = Health.LOST
            return HealthChange(watched.worker_id, Health.LOST, f"silent for {silence_s:.1f} s")
        if now < suspect_at:
            self._check_at(watched, suspect_at)
            return None
        self._check_at(watched, lost_at)
        if watched.health is Health.SUSPECT:
            return None
        watched.health = Health.SUSPECT
        return HealthChange(watched.worker_id, Health.SUSPECT, f"silent for {silence_s:.1f} s")

    def _check_at(self, watched: _Watched, due: Instant) -> None:
        watched.due = due
        self._count += 1
        heapq.heappush(self._checks, (due, self._count, watched))
