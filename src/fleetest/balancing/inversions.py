"""Priority inversions: urgent work that waits behind a long test while other slots go on with what is less urgent."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from heapq import nlargest

from fleetest.balancing.expectation import Expectation
from fleetest.balancing.migration import MOVED_BEFORE_FACTOR, beyond_class, is_movable
from fleetest.balancing.receivers import LOOKED_AT, Free, soonest_free
from fleetest.core.entities import LiveLease, Slot, Worker
from fleetest.core.model import Instant, Limits
from fleetest.core.placement import Placement
from fleetest.core.policies import Move

WAIT_FACTOR = 2.0
"""Urgent work is taken away only if it is expected to wait so many times longer than it would elsewhere."""
WAIT_MIN_S = 1.0
"""And so much longer."""
TRIED = 8
"""Slots that are tried for one lease: if so many cannot take it, few others can."""


@dataclass(slots=True)
class _Urgent:
    """A lease that waits for long."""

    lease: LiveLease
    wait_s: float


class Inversions:
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

    def propose(self, busy: Iterable[Slot], now: Instant) -> list[Move]:
        """At most one move from a slot; the most urgent work first, of that what would wait longest.

        A slot from which something is taken gets nothing more until its test has ended, nor do others that are as long
        at work: they would get the same again.
        """

        def age_s(slot: Slot) -> float:
            return slot.queued_s + now - slot.head_since

        slots = list(busy)
        late = [slot for slot in slots if len(slot.leases) > 1 and age_s(slot) > WAIT_MIN_S]
        waiting = [each for slot in nlargest(LOOKED_AT, late, key=age_s) for each in self._waiting(slot, now)]
        if not waiting:
            return []
        free = soonest_free(slots, self._expectation, now)
        waiting.sort(key=lambda each: (-each.lease.task.priority, -each.wait_s))
        taken: dict[Slot, dict[LiveLease, Slot]] = {}
        shortest_s = math.inf
        for each in waiting:
            taker = self._taker(each, free)
            if taker is not None:
                taken.setdefault(each.lease.slot, {})[each.lease] = taker
                shortest_s = min(shortest_s, each.wait_s)
        moves = []
        for donor, to in taken.items():
            head, *others = donor.leases.values()
            leases = beyond_class(head.task, [(live, live.predicted_s) for live in others if live in to])
            if leases:
                moves.append(Move([live for live, _ in leases], donor, to[leases[0][0]], [donor]))
        if moves:
            # The takers start it in less than this.
            late_s = shortest_s / WAIT_FACTOR
            rest_s = self._expectation.head_rest_s
            long = [slot for slot in slots if len(slot.leases) == 1 and rest_s(slot, now) > late_s]
            moves[0] = replace(moves[0], closes=[moves[0].donor, *long])
        return moves

    def _waiting(self, slot: Slot, now: Instant) -> Iterable[_Urgent]:
        """What may be taken from this slot and is expected to wait for long."""
        if not slot.worker.is_linked:
            return
        _, *others = slot.leases.values()
        wait_s, worker, mean_s = self._expectation.head_rest_s(slot, now), slot.worker, self._expectation.mean_s
        for live in others:
            if wait_s >= WAIT_MIN_S and is_movable(live, self._limits):
                yield _Urgent(live, wait_s)
            wait_s += mean_s(worker, live.task)

    def _taker(self, urgent: _Urgent, free: list[Free]) -> Slot | None:
        """The slot that would start it soonest, if that is clearly sooner and it has less urgent work."""
        live, task, latency_s = urgent.lease, urgent.lease.task, self._latency_s
        wanted_s = WAIT_MIN_S * MOVED_BEFORE_FACTOR**task.moves
        cost_s = latency_s(live.slot.worker) + task.group.set_up_s
        taker: Slot | None = None
        passed_over: list[Free] = []
        while free and taker is None and len(passed_over) < TRIED:
            free_s, number, slot = free[0]
            start_s = free_s + cost_s + latency_s(slot.worker)
            if WAIT_FACTOR * start_s > urgent.wait_s or start_s + wanted_s > urgent.wait_s:
                break
            heapq.heappop(free)
            if all(other.task.priority >= task.priority for other in slot.leases.values()):
                # Nothing there is less urgent; nor is it than what comes after this.
                continue
            if slot is live.slot or not self._placement.is_eligible(task.task_class, slot.worker):
                passed_over.append((free_s, number, slot))
                continue
            taker = slot
            heapq.heappush(free, (free_s + self._expectation.mean_s(slot.worker, task), number, slot))
        for entry in passed_over:
            heapq.heappush(free, entry)
        return taker
