"""Who takes part in one look: the idle slots, by worker, best worker first; busy ones worth a look, or free soon."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from heapq import heapify, nlargest, nsmallest
from typing import TypeAlias

from fleetest.balancing.expectation import Expectation
from fleetest.core.entities import Slot, Worker
from fleetest.core.model import Instant
from fleetest.core.placement import Placement

Free: TypeAlias = "tuple[float, int, Slot]"
"""In how many seconds the slot is expected to have done all that it holds; a number that makes entries unequal."""

TRIED_PER_KIND = 8
"""Workers with equal capabilities that are tried for one piece of work: if so many cannot take it, few others can."""

LOOKED_AT = 1000
"""Busy slots that are looked at closely, and four more for each idle one: in a larger fleet those that end last."""


def worth_a_look(busy: Iterable[Slot], idle_count: int, now: Instant) -> list[Slot]:
    """The busy slots of workers that take no work, then those with most queued work and longest running tests."""
    slots = list(busy)
    count = LOOKED_AT + 4 * idle_count
    if len(slots) <= count:
        return slots
    return nlargest(count, slots, key=lambda slot: (not slot.worker.accepts, slot.queued_s + now - slot.head_since))


def ideal_s(busy: Iterable[Slot], placement: Placement) -> float:
    """Seconds until all that is left of the runs under way is done, if it is shared evenly."""
    runs = dict.fromkeys(head.task.run for slot in busy if (head := slot.head()) is not None)
    return sum(run.left_s for run in runs) / max(1, placement.accepting_slots)


def soonest_free(busy: Iterable[Slot], expectation: Expectation, now: Instant) -> list[Free]:
    """A heap of busy slots by when they are expected to be done with what they have, except for those kept for others.

    In a large fleet those with least queued work and shortest running tests. Some may be closed until their tests end.
    """
    slots = nsmallest(LOOKED_AT, busy, key=lambda slot: slot.queued_s + now - slot.head_since)
    free = [
        (expectation.slot_s(slot, now), number, slot)
        for number, slot in enumerate(slots)
        if not (slot.is_held or slot.dry_for or slot.worker.alone)
    ]
    heapify(free)
    return free


class Receivers:
    """``order``: smaller is better."""

    def __init__(self, idle: Collection[Slot], order: Callable[[Worker], float]) -> None:
        slots: dict[Worker, list[Slot]] = {}
        for slot in idle:
            slots.setdefault(slot.worker, []).append(slot)
        self._slots = dict(sorted(slots.items(), key=lambda item: order(item[0])))
        self._count = len(idle)

    def __len__(self) -> int:
        return self._count

    def workers(self) -> Iterator[Worker]:
        """Workers with an idle slot, best first, but only some of each capability kind."""
        tried: dict[int, int] = {}
        for worker in self._slots:
            count = tried[worker.capability_kind] = tried.get(worker.capability_kind, 0) + 1
            if count <= TRIED_PER_KIND:
                yield worker

    def idle_slots(self, worker: Worker) -> int:
        return len(self._slots[worker])

    def take(self, worker: Worker) -> Slot:
        """One idle slot of the worker, not offered again."""
        slots = self._slots[worker]
        slot = slots.pop()
        self._count -= 1
        if not slots:
            del self._slots[worker]
        return slot
