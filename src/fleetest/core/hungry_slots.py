"""Slots that have room and found nothing, by what their workers are capable of."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from fleetest.core.entities import Room, Slot, Worker

REORDERED_MAX = 64
"""So many are put in order anew when they are looked at; among more, the order is that of when each was listed."""


class _Line:
    """Of one room and one kind of capabilities."""

    __slots__ = ("heap", "listed")

    def __init__(self) -> None:
        self.listed: dict[Slot, int] = {}
        """With the number of the entry in the heap that counts."""
        self.heap: list[tuple[float, int, Slot]] = []


class HungrySlots:
    """Listing, delisting and finding the best one cost a logarithm. ``order`` of a worker: smaller comes first."""

    def __init__(self, order: Callable[[Worker], float]) -> None:
        self._order = order
        self._empty: dict[int, _Line] = {}
        self._wanting: dict[int, _Line] = {}
        self._count = 0

    def put(self, slot: Slot, room: Room) -> None:
        """List the slot, if it has room; where it was listed with another room it is no longer."""
        known = slot.listed_as
        if known is room:
            return
        if known is not None:
            self.remove(slot)
        if room is not Room.EMPTY and room is not Room.WANTING:
            return
        slot.listed_as = room
        lines, kind = self._lines(room), slot.worker.capability_kind
        line = lines.get(kind)
        if line is None:
            line = lines[kind] = _Line()
        self._count += 1
        line.listed[slot] = self._count
        heapq.heappush(line.heap, (self._order(slot.worker), self._count, slot))

    def remove(self, slot: Slot) -> None:
        room = slot.listed_as
        if room is None:
            return
        slot.listed_as = None
        lines, kind = self._lines(room), slot.worker.capability_kind
        line = lines[kind]
        del line.listed[slot]
        if not line.listed:
            del lines[kind]
        elif len(line.heap) > 2 * len(line.listed) + 64:
            line.heap = [entry for entry in line.heap if line.listed.get(entry[2]) == entry[1]]
            heapq.heapify(line.heap)

    def kinds(self, room: Room) -> list[int]:
        """The kinds of capabilities that have such slots."""
        return list(self._lines(room))

    def best_first(self, room: Room, kind: int) -> Iterator[Slot]:
        """Those of one kind, while the caller wants more; what it lists or delists meanwhile is respected."""
        line = self._lines(room).get(kind)
        if line is None:
            return
        if len(line.listed) <= REORDERED_MAX:
            line.heap = [(self._order(slot.worker), number, slot) for slot, number in line.listed.items()]
            heapq.heapify(line.heap)
        seen = []
        try:
            while line.heap:
                entry = heapq.heappop(line.heap)
                if line.listed.get(entry[2]) == entry[1]:
                    seen.append(entry)
                    yield entry[2]
        finally:
            for entry in seen:
                if line.listed.get(entry[2]) == entry[1]:
                    heapq.heappush(line.heap, entry)

    @property
    def has_empty(self) -> bool:
        return bool(self._empty)

    def empty(self) -> list[Slot]:
        return [slot for line in self._empty.values() for slot in line.listed]

    def _lines(self, room: Room) -> dict[int, _Line]:
        return self._empty if room is Room.EMPTY else self._wanting
