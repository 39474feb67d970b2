"""A balancing policy that hedges whatever runs, so that tests see many hedges in little time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from fleetest.core.entities import Slot
from fleetest.core.model import Instant
from fleetest.core.policies import Hedge, Move
from fleetest.load_balancer import LoadBalancer


class EagerHedging(LoadBalancer):
    """Proposes the first task of any busy slot for every idle slot that got no move, and behind the work of every other
    busy slot; the core refuses.
    """

    def propose(self, idle: Collection[Slot], busy: Iterable[Slot], now: Instant) -> Sequence[Move | Hedge]:
        busy = list(busy)
        proposals = list(super().propose(idle, busy, now))
        receivers = {proposal.receiver for proposal in proposals}
        heads = [head for slot in busy for head in [slot.head()] if head is not None]
        for receiver in idle:
            if receiver not in receivers:
                proposals += [Hedge(head, receiver) for head in heads]
        return proposals

    def early_hedges(self, busy: Iterable[Slot], now: Instant) -> Sequence[Hedge]:
        slots = list(busy)
        heads = [head for slot in slots for head in [slot.head()] if head is not None]
        return [Hedge(head, slot) for head in heads for slot in slots if slot.worker is not head.slot.worker]
