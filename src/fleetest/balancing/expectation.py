"""What tasks are expected to take on a given worker, and how much longer a running one is expected to run."""

from __future__ import annotations

from collections.abc import Callable
from math import erfc, exp, log, sqrt

from fleetest.balancing.speeds import Kind, WorkerSpeeds
from fleetest.core.entities import LiveLease, Slot, Task, TaskClass, Worker
from fleetest.core.model import Instant

CORRECTION_MAX = 4.0
"""Expected durations are corrected by what the run has shown by at most this factor, either way."""
_DEVIATION_MIN = 0.1
_FAR_OUT = 5.0
"""Beyond so many deviations the distribution says nothing about how long a test will still run."""
_SHORT_S = 1e-6


class Expectation:
    """Durations as log-normal distributions: prediction x slowness of the worker x error of the kind of task."""

    def __init__(self, speeds: WorkerSpeeds, predict_s: Callable[[Task], float]) -> None:
        self._speeds, self._predict_s = speeds, predict_s

    def mean_s(self, worker: Worker, task: Task) -> float:
        """Seconds that the task is expected to take if this worker starts it."""
        kind = kind_of(task.task_class)
        return self._predict_s(task) * self._speeds.slowness(worker.worker_id, kind) * self._correction(kind)

    def rest_s(self, live: LiveLease, elapsed_s: float) -> float:
        """Seconds that a test which has run for so long is expected to run on.

        That is the mean of its distribution, given that it has lasted so long; and when it is late, at least as long
        as it is late: what nobody expected to last is not bounded by what was expected.
        """
        worker, task = live.slot.worker, live.task
        kind = kind_of(task.task_class)
        typical_s = max(_SHORT_S, self._predict_s(task) * self._speeds.slowness(worker.worker_id, kind))
        if elapsed_s <= 0.0:
            return typical_s * self._correction(kind)
        _, deviation = self._speeds.error(kind)
        deviation = max(_DEVIATION_MIN, deviation)
        mean_s = typical_s * self._correction(kind)
        median_log = log(mean_s) - deviation * deviation / 2
        beyond = (log(elapsed_s) - median_log) / deviation
        late_s = elapsed_s - mean_s
        if beyond > _FAR_OUT:
            return late_s
        # The mean of a log-normal variable above a bound.
        return max(mean_s * _normal(deviation - beyond) / _normal(-beyond) - elapsed_s, late_s)

    def head_rest_s(self, slot: Slot, now: Instant) -> float:
        """For how long the first task of the slot, which has one, is expected to run yet."""
        head, elapsed_s = slot.head(), now - slot.head_since
        assert head is not None
        if head.is_started:
            return self.rest_s(head, elapsed_s)
        return max(0.0, self.mean_s(slot.worker, head.task) - elapsed_s)

    def load_s(self, worker: Worker, now: Instant | None = None) -> float:
        """Expected remaining seconds per slot; without ``now``, of everything that it holds."""
        slots = worker.slots
        return sum(self.slot_s(slot, now) for slot in slots) / len(slots) if slots else 0.0

    def slot_s(self, slot: Slot, now: Instant | None = None) -> float:
        """Seconds until everything that the slot holds is expected to be done."""
        head = slot.head()
        if head is None:
            return 0.0
        if now is None:
            return slot.queued_s
        waiting_s = max(0.0, slot.queued_s - head.predicted_s)
        return waiting_s + (self.rest_s(head, now - slot.head_since) if head.is_started else head.predicted_s)

    def _correction(self, kind: Kind) -> float:
        centre, deviation = self._speeds.error(kind)
        if centre == 0.0:
            return 1.0
        return min(CORRECTION_MAX, max(1 / CORRECTION_MAX, exp(centre + deviation * deviation / 2)))


def kind_of(task_class: TaskClass) -> Kind:
    """Tasks of one suite with equal requirements are alike for a worker."""
    return task_class.suite.name, task_class.kind


def _normal(value: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * erfc(-value / sqrt(2.0))
