"""The idle slots of one look, by worker, best worker first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from fleetest.core.entities import Slot, Worker

TRIED_PER_KIND = 8
"""Workers with equal capabilities that are tried for one piece of work: if so many cannot take it, few others can."""


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
