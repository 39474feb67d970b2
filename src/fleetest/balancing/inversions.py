"""Priority inversions: urgent work that waits for long while slots go on with what is less urgent.

Urgent work is taken back from behind a long test, for a slot that is free sooner; and what is less urgent is taken
back where it would begin before urgent work: before it in the queue of its slot, or in that of a slot which would
otherwise have room for it too late.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace, nlargest
from itertools import groupby, islice

from fleetest.balancing.expectation import Expectation
from fleetest.balancing.migration import MOVED_BEFORE_FACTOR, beyond_class, is_movable
from fleetest.balancing.receivers import LOOKED_AT, Free, soonest_free
from fleetest.core.entities import LiveLease, Slot, TaskClass, Worker
from fleetest.core.model import Instant, Limits
from fleetest.core.placement import Placement
from fleetest.core.policies import TakeBack

WAIT_FACTOR = 2.0
"""Leases are taken back for urgent work only if it is expected to wait so many times longer than it would then."""
WAIT_MIN_S = 1.0
"""And so much longer."""
TRIED = 8
"""Slots that are tried for one lease: if so many cannot take it, few others can."""
LEVELS_TRIED = 8
"""Priorities whose leases are helped at one look: the highest ones."""


@dataclass(slots=True)
class _Urgent:
    """A lease that waits for long."""

    lease: LiveLease
    wait_s: float
    own_s: float
    """How long it would wait if nothing less urgent were before it."""


@dataclass(slots=True)
class _Starts:
    """Slots by when they would start work of some priority, once what is in its way has gone.

    What waits in a slot is looked through only when its running test ends so soon that the slot comes first.
    """

    heap: list[Free]
    """Of slots that were not looked through: when the running test ends."""
    free_s: Mapping[Slot, float]
    find: Callable[[Slot], list[tuple[LiveLease, float]]]
    in_the_way: dict[Slot, list[tuple[LiveLease, float]]] = field(default_factory=dict)

    def first(self) -> Free | None:
        while self.heap and self.heap[0][2] not in self.in_the_way:
            ends_s, number, slot = self.heap[0]
            leases = self.in_the_way[slot] = self.find(slot)
            heapreplace(self.heap, (max(ends_s, self.free_s[slot] - _sum(leases)), number, slot))
        return self.heap[0] if self.heap else None


@dataclass(slots=True)
class _Look:
    """What there is to see at one moment, and what is to be done."""

    now: Instant
    free: list[Free]
    """The soonest first."""
    ends: list[Free]
    """The same slots by when their running tests end."""
    next_up: float
    """The highest priority of what is queued."""
    lowest: float
    """The lowest priority of all that waits."""
    taken: dict[Slot, dict[LiveLease, float]] = field(default_factory=dict)
    """Urgent leases that go, by slot, with the seconds that they would wait there."""
    cleared: dict[LiveLease, None] = field(default_factory=dict)
    """Less urgent ones that go for the sake of others."""
    closes: dict[Slot, None] = field(default_factory=dict)
    is_stuck: bool = False


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

    def propose(self, busy: Iterable[Slot], now: Instant, queued: Mapping[TaskClass, tuple[int, int]]) -> TakeBack:
        """The most urgent work is helped first, of that what would wait longest."""

        def age_s(slot: Slot) -> float:
            return slot.queued_s + now - slot.head_since

        slots = list(busy)
        stocked = [slot for slot in slots if len(slot.leases) > 1]
        late = [slot for slot in stocked if age_s(slot) > WAIT_MIN_S and slot.worker.is_linked]
        if not late:
            return TakeBack()
        late = nlargest(LOOKED_AT, late, key=age_s)
        waiting = [live.task.priority for slot in late for live in slot.leases.values()]
        waiting += [next(reversed(slot.leases.values())).task.priority for slot in stocked]
        free = sorted(soonest_free(slots, self._expectation, now))
        ends = [(self._expectation.head_rest_s(slot, now), number, slot) for _, number, slot in free]
        heapify(ends)
        look = _Look(
            now,
            free,
            ends,
            next_up=max((priority for priority, _ in queued.values()), default=math.inf),
            lowest=min(waiting + [priority for task_class in queued for priority in task_class.run.priorities]),
        )
        self._take(late, look)
        moved: list[LiveLease] = []
        for donor, waits in look.taken.items():
            head, *others = donor.leases.values()
            leases = beyond_class(head.task, [(live, live.predicted_s) for live in others if live in waits])
            if leases:
                moved += [live for live, _ in leases]
                look.closes[donor] = None
        if moved:
            # The takers start it in less than this.
            late_s = min(wait_s for waits in look.taken.values() for wait_s in waits.values()) / WAIT_FACTOR
            rest_s = self._expectation.head_rest_s
            look.closes.update((slot, None) for slot in slots if len(slot.leases) == 1 and rest_s(slot, now) > late_s)
        by_priority = sorted(queued.items(), key=lambda item: -item[1][0])
        for priority, items in islice(groupby(by_priority, key=lambda item: item[1][0]), LEVELS_TRIED):
            if priority <= look.lowest:
                break
            starts = self._starts(priority, look)
            for task_class, (_, count) in items:
                # For what reserves something slots run dry as it is.
                if not task_class.reserves:
                    self._make_room(task_class, count, starts, look)
        return TakeBack([*moved, *look.cleared], list(look.closes), look.is_stuck)

    def _take(self, late: Iterable[Slot], look: _Look) -> None:
        """Find slots for urgent leases that wait for long, or take away what is before them."""
        urgent = [each for slot in late for each in self._waiting(slot, look)]
        urgent.sort(key=lambda each: (-each.lease.task.priority, -each.wait_s))
        helped: set[Slot] = set()
        for priority, level in islice(groupby(urgent, key=lambda each: each.lease.task.priority), LEVELS_TRIED):
            starts = self._starts(priority, look)
            for each in level:
                live, slot = each.lease, each.lease.slot
                if slot in helped:
                    continue
                taker = self._taker(each, starts, look.next_up)
                if taker is not None:
                    look.taken.setdefault(slot, {})[live] = each.wait_s
                    if starts.in_the_way[taker]:
                        look.cleared.update((other, None) for other, _ in starts.in_the_way[taker])
                        # Else the same would come back before the urgent one is there.
                        look.closes[taker] = None
                elif _pays(each.wait_s, each.own_s + self._latency_s(slot.worker)):
                    before = self._in_the_way(slot, priority, look.cleared, live)
                    look.cleared.update((other, None) for other, _ in before)
                    helped.add(slot)
                else:
                    look.is_stuck = True

    def _waiting(self, slot: Slot, look: _Look) -> Iterable[_Urgent]:
        """What may be taken from this slot and is expected to wait for long."""
        _, *others = slot.leases.values()
        # A cheap look first.
        if not any(live.task.priority > look.lowest for live in others):
            return
        wait_s, worker, mean_s = self._expectation.head_rest_s(slot, look.now), slot.worker, self._expectation.mean_s
        movable_s: dict[int, float] = {}
        for live in others:
            priority, seconds, is_free = live.task.priority, mean_s(worker, live.task), is_movable(live, self._limits)
            if wait_s >= WAIT_MIN_S and is_free and priority > look.lowest:
                yield _Urgent(live, wait_s, wait_s - sum(s for low, s in movable_s.items() if low < priority))
            wait_s += seconds
            if is_free:
                movable_s[priority] = movable_s.get(priority, 0.0) + seconds

    def _starts(self, priority: int, look: _Look) -> _Starts:
        return _Starts(
            list(look.ends),
            {slot: free_s for free_s, _, slot in look.free},
            lambda slot: self._in_the_way(slot, priority, look.cleared),
        )

    def _taker(self, urgent: _Urgent, starts: _Starts, next_up: float) -> Slot | None:
        """The slot that would start it soonest, if that is clearly sooner, and instead of less urgent work."""
        live, task, latency_s = urgent.lease, urgent.lease.task, self._latency_s
        cost_s = latency_s(live.slot.worker) + task.group.set_up_s
        taker: Slot | None = None
        passed_over: list[Free] = []
        while taker is None and len(passed_over) < TRIED and (first := starts.first()) is not None:
            free_s, number, slot = first
            start_s = free_s + cost_s + latency_s(slot.worker)
            if start_s >= urgent.own_s or not _pays(urgent.wait_s, start_s, task.moves):
                break
            heappop(starts.heap)
            if next_up >= task.priority and all(other.task.priority >= task.priority for other in slot.leases.values()):
                # Nothing there, nor what would come next, is less urgent; nor is it than what comes after this.
                continue
            if slot is live.slot or not self._placement.is_eligible(task.task_class, slot.worker):
                passed_over.append((free_s, number, slot))
                continue
            taker = slot
            heappush(starts.heap, (free_s + self._expectation.mean_s(slot.worker, task), number, slot))
        for entry in passed_over:
            heappush(starts.heap, entry)
        return taker

    def _make_room(self, task_class: TaskClass, count: int, starts: _Starts, look: _Look) -> None:
        """Clear slots for queued tasks: by itself a slot takes one when it has begun the last of what it has."""
        is_eligible = self._placement.is_eligible
        waits_s = list(islice((free_s for free_s, _, slot in look.free if is_eligible(task_class, slot.worker)), count))
        passed_over: list[Free] = []
        # Who would wait longest has most from the slot that is free first.
        while waits_s and waits_s[-1] >= WAIT_MIN_S and (first := starts.first()) is not None:
            start_s, _, slot = first
            if not _pays(waits_s[-1], start_s):
                break
            heappop(starts.heap)
            leases = starts.in_the_way[slot]
            if not leases:
                continue
            if not is_eligible(task_class, slot.worker):
                passed_over.append(first)
            elif _pays(waits_s[-1], start_s + self._latency_s(slot.worker)):
                look.cleared.update((live, None) for live, _ in leases)
                waits_s.pop()
            else:
                passed_over.append(first)
        for entry in passed_over:
            heappush(starts.heap, entry)

    def _in_the_way(
        self, slot: Slot, priority: int, cleared: Mapping[LiveLease, None], of: LiveLease | None = None
    ) -> list[tuple[LiveLease, float]]:
        """What waits in the slot, before ``of``, that is less urgent and may be taken, if that is worth it."""
        head, *others = slot.leases.values()
        # A cheap look first.
        if of is None and (slot.queued_s - head.predicted_s < WAIT_MIN_S or not slot.worker.is_linked):
            return []
        found, mean_s = [], self._expectation.mean_s
        for live in others:
            if live is of:
                break
            if live.task.priority < priority and live not in cleared and is_movable(live, self._limits):
                found.append((live, mean_s(slot.worker, live.task)))
        found = beyond_class(head.task, found)
        wanted_s = WAIT_MIN_S * MOVED_BEFORE_FACTOR ** max((live.task.moves for live, _ in found), default=0)
        return found if _sum(found) >= wanted_s else []


def _pays(wait_s: float, start_s: float, moves: int = 0) -> bool:
    """True if work that was moved so often is to be moved once more, to start in so many seconds instead."""
    wanted_s = WAIT_MIN_S * MOVED_BEFORE_FACTOR**moves
    return WAIT_FACTOR * start_s <= wait_s and start_s + wanted_s <= wait_s


def _sum(leases: Iterable[tuple[LiveLease, float]]) -> float:
    return sum(seconds for _, seconds in leases)
