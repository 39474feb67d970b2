"""Deadlines as data: at most one per key, cancellable, in one heap."""

from __future__ import annotations

import heapq
from collections.abc import Hashable

from fleetest.core.model import Instant


class Deadlines:
    """What is due when. Keys are tuples such as ``("reconnect", worker_id)``; setting one again moves its deadline."""

    def __init__(self) -> None:
        self._due: dict[Hashable, tuple[Instant, int]] = {}
        self._heap: list[tuple[Instant, int, Hashable]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._due

    def set(self, key: Hashable, due: Instant) -> None:
        self._count += 1
        self._due[key] = (due, self._count)
        heapq.heappush(self._heap, (due, self._count, key))
        # Cancelled entries leave the heap lazily; without this a run of tests with timeouts would grow it for ever.
        if len(self._heap) > 2 * len(self._due) + 64:
            self._heap = [(due, count, key) for key, (due, count) in self._due.items()]
            heapq.heapify(self._heap)

    def delay(self, key: Hashable, by_s: float) -> None:
        """Let this deadline be so much later, if there is one."""
        entry = self._due.get(key)
        if entry is not None:
            self.set(key, entry[0] + by_s)

    def cancel(self, key: Hashable) -> None:
        """Forget this deadline, if there is one."""
        self._due.pop(key, None)

    def due(self, key: Hashable) -> Instant | None:
        """When this deadline is; None if there is none."""
        entry = self._due.get(key)
        return entry[0] if entry is not None else None

    def next(self) -> Instant | None:
        self._drop_cancelled()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: Instant) -> Hashable | None:
        """The key that is due longest at ``now``, removed; None if nothing is due."""
        self._drop_cancelled()
        if not self._heap or self._heap[0][0] > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key]
        return key

    def _drop_cancelled(self) -> None:
        heap = self._heap
        while heap:
            due, count, key = heap[0]
            if self._due.get(key) == (due, count):
                return
            heapq.heappop(heap)
