"""Scores workers for a task, finds overloaded and underutilised ones, moves waiting work, hedges the last tests.

See docs/design/scheduling.md, "Scores" and "Moving work".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fleetest.balancing.early_moves import EarlyMoves
from fleetest.balancing.expectation import Expectation, kind_of
from fleetest.balancing.hedging import Hedging, count_hedges
from fleetest.balancing.inversions import Inversions
from fleetest.balancing.loads import overloaded, underutilised
from fleetest.balancing.migration import Migration
from fleetest.balancing.receivers import Receivers, worth_a_look
from fleetest.balancing.scoring import fit_of, free_of, locality_of, preference_of
from fleetest.balancing.speeds import WorkerSpeeds
from fleetest.core.entities import Slot, Task, TaskClass, Worker
from fleetest.core.model import Instant, Limits, WorkerId
from fleetest.core.placement import Placement
from fleetest.core.policies import Hedge, Move, Score, Standing, TakeBack

RELIABILITY_GAIN = 0.1
"""A finished execution takes back this part of what is missing to full reliability."""
RELIABILITY_AFTER_FAILURE = 0.5
"""An infrastructure failure leaves this part of it."""
PREFETCH_TURNAROUNDS = 3.0
"""A slot's queue is filled up when half of it is gone: that half must outlast one and a half turnarounds."""
PREFETCH_MARGIN_S = 0.1
"""Besides: workers gather results for a moment before they tell."""
PREFETCH_FACTOR_MAX = 10.0
"""The prefetch is never less than ``Limits.prefetch_s``, and never more than so many times that."""
_TURNAROUNDS_KEPT = 8


@dataclass(slots=True)
class _Record:
    """What this worker has shown so far."""

    reliability: float = 1.0
    turnarounds_s: deque[float] = field(default_factory=lambda: deque(maxlen=_TURNAROUNDS_KEPT))
    """The latest ones. Some include the start of a process, so the shortest of them is believed."""
    turnaround_s: float = 0.0


_NOTHING_KNOWN = _Record()


class LoadBalancer:
    """The balancing policy."""

    def __init__(self) -> None:
        self._records: dict[WorkerId, _Record] = {}
        self._prefetch_s: dict[WorkerId, float] = {}
        """Of workers whose turnaround is known."""
        self._speeds = WorkerSpeeds()

    def bind(self, placement: Placement, predict_s: Callable[[Task], float], limits: Limits) -> None:
        self._placement, self._predict_s, self._limits = placement, predict_s, limits
        self._expectation = Expectation(self._speeds, predict_s)
        self._migration = Migration(placement, self._expectation, limits, self.turnaround_s)
        self._inversions = Inversions(placement, self._expectation, limits, self.turnaround_s)
        self._early_moves = EarlyMoves(placement, self._expectation, limits, self.turnaround_s)
        self._hedging = Hedging(placement, self._expectation, self.turnaround_s)

    # What is known of workers ------------------------------------------------------------------------------------

    def finished(
        self,
        worker: Worker,
        predicted_s: float,
        duration_s: float,
        is_success: bool,
        task_class: TaskClass | None = None,
    ) -> None:
        record = self._record(worker)
        # A test that failed has often stopped half-way.
        if is_success:
            kind = kind_of(task_class) if task_class is not None else None
            self._speeds.observe(worker.worker_id, kind, predicted_s, duration_s)
        record.reliability += RELIABILITY_GAIN * (1.0 - record.reliability)

    def failed(self, worker: Worker) -> None:
        self._record(worker).reliability *= RELIABILITY_AFTER_FAILURE

    def answered(self, worker: Worker, turnaround_s: float) -> None:
        record = self._record(worker)
        record.turnarounds_s.append(turnaround_s)
        record.turnaround_s = min(record.turnarounds_s)
        least_s = self._limits.prefetch_s
        wanted_s = PREFETCH_TURNAROUNDS * record.turnaround_s + PREFETCH_MARGIN_S
        self._prefetch_s[worker.worker_id] = min(PREFETCH_FACTOR_MAX * least_s, max(least_s, wanted_s))

    def forget(self, worker_id: WorkerId) -> None:
        self._records.pop(worker_id, None)
        self._prefetch_s.pop(worker_id, None)
        self._speeds.forget(worker_id)

    def recall(self, slowness: Mapping[WorkerId, float]) -> None:
        self._speeds.recall(slowness)

    def _record(self, worker: Worker) -> _Record:
        record = self._records.get(worker.worker_id)
        if record is None:
            record = self._records[worker.worker_id] = _Record()
        return record

    # What the core asks ------------------------------------------------------------------------------------------

    def slowness(self, worker: Worker, task_class: TaskClass) -> float:
        return self._speeds.slowness(worker.worker_id, kind_of(task_class))

    def slowest(self, worker: Worker, task_class: TaskClass) -> float:
        return self._speeds.slowest(worker.worker_id, kind_of(task_class))

    def order(self, worker: Worker) -> float:
        """Slowness over reliability: what a second of typical work costs there, failures included."""
        return self._speeds.slowness(worker.worker_id) / self.reliability(worker)

    def prefetch_s(self, worker: Worker) -> float:
        """Deep enough that no runner waits for the network, shallow enough that work can still go elsewhere.

        Half of it outlasts the measured turnaround (grant to first sign of the test) one and a half times, and a
        margin; between ``Limits.prefetch_s`` and ten times that.
        """
        return self._prefetch_s.get(worker.worker_id, self._limits.prefetch_s)

    # What people and other policies ask ----------------------------------------------------------------------------

    def speed(self, worker: Worker) -> float:
        """1: like the typical worker of the fleet; 2: twice as fast."""
        return 1.0 / self._speeds.slowness(worker.worker_id)

    def reliability(self, worker: Worker) -> float:
        """In (0, 1]: halved by an infrastructure failure, recovers with every execution that ends."""
        return self._records.get(worker.worker_id, _NOTHING_KNOWN).reliability

    def turnaround_s(self, worker: Worker) -> float:
        """Seconds from a grant to an empty slot until its test is known to run; 0 before anything was measured."""
        return self._records.get(worker.worker_id, _NOTHING_KNOWN).turnaround_s

    def expected_on(self, worker: Worker, task: Task) -> float:
        """Seconds that the task is expected to take on this worker."""
        return self._expectation.mean_s(worker, task)

    def load_s(self, worker: Worker, now: Instant | None = None) -> float:
        """Expected remaining seconds per slot; without ``now`` what has run already counts as remaining."""
        return self._expectation.load_s(worker, now)

    def overloaded(self, workers: Iterable[Worker], now: Instant | None = None) -> list[Worker]:
        """Workers with clearly more expected seconds per slot than the mean, most loaded first."""
        return overloaded({worker: self.load_s(worker, now) for worker in workers})

    def underutilised(self, workers: Iterable[Worker], now: Instant | None = None) -> list[Worker]:
        """Workers with clearly fewer expected seconds per slot than the mean, least loaded first."""
        return underutilised({worker: self.load_s(worker, now) for worker in workers})

    def standing(self, worker: Worker, now: Instant) -> Standing:
        return Standing(self.speed(worker), self.reliability(worker), self.load_s(worker, now), self.prefetch_s(worker))

    def score(self, worker: Worker, task: Task) -> Score | None:
        """How good a place the worker is for the task, each part in (0, 1], total their product; None if it cannot.

        fit          1 / (1 + number of special requirements, seen so far, that it could serve and the task lacks)
        free         half for how soon it starts, t / (t + wait), half for the share of slots without work
        speed        slowness of the fastest worker / its own, for this kind of task
        reliability  halved by an infrastructure failure, recovers by a tenth with every execution that ends
        locality     1 where the task's group is (or if it is nowhere), else t / (t + set-up of its shared fixtures)
        preference   (1 + the share of its preferences that hold there) / 2

        where t is the expected duration of the task there (``ClusterState.scores`` asks it for every worker).
        """
        placement = self._placement
        if not worker.slots or not placement.is_eligible(task.task_class, worker):
            return None
        expected_s, kind = self.expected_on(worker, task), kind_of(task.task_class)
        return Score(
            fit=fit_of(placement, worker, task),
            free=free_of(placement, worker, task, expected_s),
            speed=min(1.0, self._speeds.fastest(kind) / self._speeds.slowness(worker.worker_id, kind)),
            reliability=self.reliability(worker),
            locality=locality_of(worker, task, expected_s),
            preference=preference_of(placement, worker, task),
        )

    # Moving work -------------------------------------------------------------------------------------------------

    def propose(self, idle: Collection[Slot], busy: Iterable[Slot], now: Instant) -> Sequence[Move | Hedge]:
        receivers, busy = Receivers(idle, self.order), list(busy)
        slots = worth_a_look(busy, len(receivers), now)
        moves = self._migration.propose(receivers, slots, now)
        if receivers:
            return [*moves, *self._hedging.propose(receivers, slots, now, count_hedges(busy))]
        return moves

    def inversions(self, busy: Iterable[Slot], now: Instant, queued: Mapping[TaskClass, tuple[int, int]]) -> TakeBack:
        return self._inversions.propose(busy, now, queued)

    def early_moves(self, busy: Iterable[Slot], now: Instant) -> TakeBack:
        return self._early_moves.propose(busy, now)

    def early_hedges(self, busy: Iterable[Slot], now: Instant) -> Sequence[Hedge]:
        return self._hedging.propose_early(busy, now)
