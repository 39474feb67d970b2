"""Long tests that wait behind a long one and alone decide when everything ends, moved before any slot is idle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from fleetest.balancing.expectation import Expectation
from fleetest.balancing.hedging import EARLY_GAIN_SHARE, LATE_FACTOR_MAX
from fleetest.balancing.migration import MOVED_BEFORE_FACTOR, is_movable
from fleetest.balancing.receivers import TRIED_PER_KIND, Free, ideal_s, soonest_free, worth_a_look
from fleetest.core.entities import LiveLease, Slot, Worker
from fleetest.core.model import Instant, Limits
from fleetest.core.placement import Placement
from fleetest.core.policies import TakeBack

WORTH_MOVING_S = 1.0
"""Everything must end so much sooner, and by ``EARLY_GAIN_SHARE``."""


class EarlyMoves:
    """``latency_s``: how long a worker takes to answer."""

    def __init__(
        self,
        placement: Placement,
        expectation: Expectation,
        limits: Limits,
        latency_s: Callable[[Worker], float],
    ) -> None:
        self._placement, self._expectation, self._limits = placement, expectation, limits
        self._latency_s = latency_s

    def propose(self, busy: Iterable[Slot], now: Instant) -> TakeBack:
        """What would end last is helped first.

        A slot from which something is taken gets nothing more until its test has ended, nor do others that are as long
        at work: they would get the same again.
        """
        slots = list(busy)
        # A cheap look first: in most slots nothing that is long waits.
        stocked = [
            slot
            for slot in slots
            if slot.worker.is_linked and slot.queued_s - _head(slot).predicted_s >= WORTH_MOVING_S
        ]
        if not stocked:
            return TakeBack()
        ideal = ideal_s(slots, self._placement)
        # Nor does it where much more is left for everybody.
        stocked = [slot for slot in stocked if LATE_FACTOR_MAX * (slot.queued_s + now - slot.head_since) >= ideal]
        late = [each for slot in worth_a_look(stocked, 0, now) for each in self._late(slot, ideal, now)]
        if not late:
            return TakeBack()
        late.sort(key=lambda each: -each[0] - each[1])
        free = soonest_free(slots, self._expectation, now)
        taken: dict[LiveLease, float] = {}
        for wait_s, _, live in late:
            if self._is_taken(live, wait_s, ideal, free):
                taken[live] = wait_s
        if not taken:
            return TakeBack()
        closes = dict.fromkeys(live.slot for live in taken)
        late_s, rest_s = min(taken.values()), self._expectation.head_rest_s
        closes.update((slot, None) for slot in slots if len(slot.leases) == 1 and rest_s(slot, now) >= late_s)
        return TakeBack(list(taken), list(closes))

    def _late(self, slot: Slot, ideal: float, now: Instant) -> Iterable[tuple[float, float, LiveLease]]:
        """What is expected to end after all else could have: when it begins, how long it takes."""
        wait_s, worker, mean_s = self._expectation.head_rest_s(slot, now), slot.worker, self._expectation.mean_s
        _, *others = slot.leases.values()
        for live in others:
            seconds = mean_s(worker, live.task)
            is_long = live.task.known_s >= 0.0 and seconds >= WORTH_MOVING_S
            if is_long and wait_s + seconds > ideal + WORTH_MOVING_S and is_movable(live, self._limits):
                yield wait_s, seconds, live
            wait_s += seconds

    def _is_taken(self, live: LiveLease, wait_s: float, ideal: float, free: list[Free]) -> bool:
        """True if another slot ends it so much sooner; that slot is busy with it in ``free`` then."""
        task, latency_s, mean_s = live.task, self._latency_s, self._expectation.mean_s
        end_s = wait_s + mean_s(live.slot.worker, task)
        cost_s = latency_s(live.slot.worker) + task.group.set_up_s
        passed_over: list[Free] = []
        is_taken = False
        while free and not is_taken and len(passed_over) < TRIED_PER_KIND and free[0][0] < wait_s:
            free_s, number, slot = heappop(free)
            if slot is live.slot or not self._placement.is_eligible(task.task_class, slot.worker):
                passed_over.append((free_s, number, slot))
                continue
            seconds = mean_s(slot.worker, task)
            # By itself it would move when a slot is idle, that is when all else has been done.
            later_s = min(end_s, ideal + seconds)
            gain_s = later_s - max(free_s + cost_s + latency_s(slot.worker) + seconds, ideal)
            if gain_s < max(WORTH_MOVING_S, EARLY_GAIN_SHARE * later_s) * MOVED_BEFORE_FACTOR**task.moves:
                passed_over.append((free_s, number, slot))
                continue
            is_taken = True
            heappush(free, (free_s + seconds, number, slot))
        for entry in passed_over:
            heappush(free, entry)
        return is_taken


def _head(slot: Slot) -> LiveLease:
    head = slot.head()
    assert head is not None
    return head
