"""Strategies without memory, to compare the adaptive one with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from fleetest.balancing.receivers import Receivers
from fleetest.core.entities import Slot, Task, TaskClass, Worker
from fleetest.core.model import Instant, Limits, WorkerId
from fleetest.core.placement import Placement
from fleetest.core.policies import Hedge, Move, Score, Standing, TakeBack


class RoundRobin:
    """Every worker in turn, whatever it is and has; nothing ever moves. A base for policies that decide more."""

    def __init__(self) -> None:
        self._turns: dict[WorkerId, int] = {}
        self._turn = 0

    def bind(self, placement: Placement, predict_s: Callable[[Task], float], limits: Limits) -> None:
        self._placement, self._limits = placement, limits

    def finished(
        self,
        worker: Worker,
        predicted_s: float,
        duration_s: float,
        is_success: bool,
        task_class: TaskClass | None = None,
    ) -> None:
        self._turn += 1
        self._turns[worker.worker_id] = self._turn

    def failed(self, worker: Worker) -> None:
        pass

    def answered(self, worker: Worker, turnaround_s: float) -> None:
        pass

    def forget(self, worker_id: WorkerId) -> None:
        self._turns.pop(worker_id, None)

    def recall(self, slowness: Mapping[WorkerId, float]) -> None:
        pass

    def slowness(self, worker: Worker, task_class: TaskClass) -> float:
        return 1.0

    def slowest(self, worker: Worker, task_class: TaskClass) -> float:
        return 1.0

    def order(self, worker: Worker) -> float:
        """Who has finished something longest ago comes first."""
        return self._turns.get(worker.worker_id, 0)

    def prefetch_s(self, worker: Worker) -> float:
        return self._limits.prefetch_s

    def score(self, worker: Worker, task: Task) -> Score | None:
        """Equal for all that can run it."""
        if not worker.slots or not self._placement.is_eligible(task.task_class, worker):
            return None
        return Score(fit=1.0, free=1.0, speed=1.0, reliability=1.0, locality=1.0)

    def standing(self, worker: Worker, now: Instant) -> Standing:
        queued_s = sum(slot.queued_s for slot in worker.slots)
        return Standing(1.0, 1.0, queued_s / max(1, len(worker.slots)), self.prefetch_s(worker))

    def propose(self, idle: Collection[Slot], busy: Iterable[Slot], now: Instant) -> Sequence[Move | Hedge]:
        return ()

    def inversions(self, busy: Iterable[Slot], now: Instant, queued: Mapping[TaskClass, tuple[int, int]]) -> TakeBack:
        return TakeBack()

    def early_moves(self, busy: Iterable[Slot], now: Instant) -> TakeBack:
        return TakeBack()

    def early_hedges(self, busy: Iterable[Slot], now: Instant) -> Sequence[Hedge]:
        return ()


class LeastLoaded(RoundRobin):
    """The worker with fewest leases per slot first; half of the longest queue moves to an idle slot."""

    def order(self, worker: Worker) -> float:
        return _load(worker)

    def score(self, worker: Worker, task: Task) -> Score | None:
        if not worker.slots or not self._placement.is_eligible(task.task_class, worker):
            return None
        return Score(fit=1.0, free=1.0 / (1.0 + _load(worker)), speed=1.0, reliability=1.0, locality=1.0)

    def propose(self, idle: Collection[Slot], busy: Iterable[Slot], now: Instant) -> Sequence[Move | Hedge]:
        receivers = Receivers(idle, self.order)
        donors = [slot for slot in busy if len(slot.leases) > 1 and slot.worker.is_linked]
        donors.sort(key=lambda slot: -len(slot.leases))
        moves: list[Move] = []
        for donor in donors:
            for receiver in receivers.workers():
                fitting = [
                    live
                    for live in donor.leases.values()
                    if not (live.is_started or live.is_revoked or live.kill_reason or live.task.group.keep_together)
                    and live is not donor.head()
                    and live.task.moves < self._limits.moves_max
                    and self._placement.is_eligible(live.task.task_class, receiver)
                ]
                if fitting:
                    tail = fitting[-((len(fitting) + 1) // 2) :]
                    moves.append(Move(tail, donor, receivers.take(receiver)))
                    break
        return moves


def _load(worker: Worker) -> float:
    return worker.lease_count / max(1, len(worker.slots))
