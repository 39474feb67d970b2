"""Scores workers for a task, finds overloaded and underutilised ones, and moves waiting work to idle slots."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from fleetest.core.classes import WORTH_DIVIDING_S, is_same_class
from fleetest.core.entities import LiveLease, Slot, Task, TaskClass, Worker
from fleetest.core.model import Instant, Limits, WorkerId
from fleetest.core.placement import Placement
from fleetest.core.policies import Hedge, Move

WORTH_MOVING_S = 0.05
"""Less predicted work than this is done sooner where it is than it could be moved."""
STUCK_FACTOR = 3.0
STUCK_MIN_S = 0.25
"""A test is stuck if it runs longer than its prediction times the factor, and this."""
_SMOOTHING = 0.1
_IMBALANCE = 1.25


@dataclass(slots=True)
class _Record:
    """What this worker has shown so far."""

    slowness: float = 1.0
    """Measured duration over prediction, smoothed: above 1 it is slower than predicted."""
    reliability: float = 1.0


class LoadBalancer:
    """The balancing policy."""

    def __init__(self) -> None:
        self._records: dict[WorkerId, _Record] = {}

    def bind(self, placement: Placement, predict_s: Callable[[Task], float], limits: Limits) -> None:
        self._placement, self._predict_s, self._limits = placement, predict_s, limits

    # What is known of workers ------------------------------------------------------------------------------------

    def finished(
        self,
        worker: Worker,
        predicted_s: float,
        duration_s: float,
        is_success: bool,
        task_class: TaskClass | None = None,
    ) -> None:
        record = self._records.get(worker.worker_id)
        if record is None:
            record = self._records[worker.worker_id] = _Record()
        # Tests of microseconds say nothing about the speed of a machine.
        if predicted_s >= 0.001 and is_success:
            ratio = min(10.0, max(0.1, duration_s / predicted_s))
            record.slowness += _SMOOTHING * (ratio - record.slowness)
        record.reliability += _SMOOTHING * (1.0 - record.reliability)

    def failed(self, worker: Worker) -> None:
        record = self._records.setdefault(worker.worker_id, _Record())
        record.reliability *= 0.5

    def answered(self, worker: Worker, turnaround_s: float) -> None:
        pass

    def forget(self, worker_id: WorkerId) -> None:
        self._records.pop(worker_id, None)

    def slowness(self, worker: Worker, task_class: TaskClass) -> float:
        return 1.0

    def order(self, worker: Worker) -> float:
        return 1.0

    def prefetch_s(self, worker: Worker) -> float:
        return self._limits.prefetch_s

    def score(self, worker: Worker, task: Task) -> float | None:
        """How good a place the worker is for the task, in (0, 1]; None if it cannot run it.

        Fast, reliable, little loaded and unspecial workers score higher.
        """
        placement = self._placement
        if not worker.slots or not placement.is_eligible(task.task_class, worker):
            return None
        record = self._records.get(worker.worker_id, _Record())
        load = self.load(worker)
        special = placement.specialness(worker.capability_kind) if task.requirements.is_plain else 0
        return record.reliability / (max(record.slowness, 1e-3) * (1.0 + load) * (1.0 + special))

    def load(self, worker: Worker) -> float:
        """Leases per slot."""
        return worker.lease_count / max(1, len(worker.slots))

    def overloaded(self, workers: Iterable[Worker]) -> list[Worker]:
        """Workers with clearly more than the mean load, most loaded first."""
        return self._aside(list(workers), above=True)

    def underutilised(self, workers: Iterable[Worker]) -> list[Worker]:
        """Workers with clearly less than the mean load, least loaded first."""
        return self._aside(list(workers), above=False)

    def _aside(self, workers: list[Worker], *, above: bool) -> list[Worker]:
        loads = {worker: self.load(worker) for worker in workers}
        mean = sum(loads.values()) / max(1, len(loads))
        if above:
            found = [worker for worker in workers if loads[worker] > mean * _IMBALANCE]
        else:
            found = [worker for worker in workers if loads[worker] < mean / _IMBALANCE]
        return sorted(found, key=lambda worker: -loads[worker] if above else loads[worker])

    # Moving waiting work -----------------------------------------------------------------------------------------

    def propose(self, idle: Collection[Slot], busy: Iterable[Slot], now: Instant) -> Sequence[Move | Hedge]:
        donors = []
        for slot in busy:
            move = self._what_could_go(slot, now)
            if move is not None:
                donors.append((move[0], slot, *move[1:]))
        donors.sort(key=lambda donor: -donor[0])
        moves = []
        free = dict.fromkeys(idle)
        for _, donor, leases, is_stuck in donors:
            if not free:
                break
            for receiver in free:
                fitting = [
                    live for live in leases if self._placement.is_eligible(live.task.task_class, receiver.worker)
                ]
                if fitting:
                    moves.append(Move(fitting, donor, receiver, is_stuck))
                    del free[receiver]
                    break
        return moves

    def _what_could_go(self, slot: Slot, now: Instant) -> tuple[float, list[LiveLease], bool] | None:
        """(seconds that would be saved, leases in planned order, head is stuck), or None if nothing is worth it."""
        if len(slot.leases) < 2 or not slot.worker.is_linked:
            return None
        leases = iter(slot.leases.values())
        head = next(leases)
        elapsed_s = now - slot.head_since
        head_s = self._predict_s(head.task)
        is_stuck = elapsed_s > max(STUCK_MIN_S, STUCK_FACTOR * head_s)
        waiting = [
            (live, self._predict_s(live.task))
            for live in leases
            if not (live.is_started or live.is_revoked or live.kill_reason or live.task.group.keep_together)
        ]
        if not waiting:
            return None
        waiting_s = sum(seconds for _, seconds in waiting)
        if is_stuck:
            free = _beyond_class(head.task, waiting)
            return (waiting_s + elapsed_s, [live for live, _ in free], True) if free else None
        rest_s = max(0.0, head_s - elapsed_s)
        # The far part goes, so that both end at the same time.
        goal_s = (rest_s + waiting_s) / 2
        tail: list[tuple[LiveLease, float]] = []
        moved_s = 0.0
        while waiting and (not tail or moved_s + waiting[-1][1] <= goal_s):
            tail.append(waiting.pop())
            moved_s += tail[-1][1]
        tail = _beyond_class(waiting[-1][0].task if waiting else head.task, tail[::-1])
        moved_s = sum(seconds for _, seconds in tail)
        saved_s = min(moved_s, rest_s + waiting_s - moved_s)
        return (saved_s, [live for live, _ in tail], False) if saved_s >= WORTH_MOVING_S else None


def _beyond_class(before: Task, tail: list[tuple[LiveLease, float]]) -> list[tuple[LiveLease, float]]:
    """``tail`` without the tests at its start that are of the class of the one before, unless they are much work."""
    count, seconds = 0, 0.0
    for live, live_s in tail:
        if not is_same_class(before, live.task):
            break
        count += 1
        seconds += live_s
    return tail if seconds >= WORTH_DIVIDING_S else tail[count:]
