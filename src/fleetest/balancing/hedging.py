"""Which running tests are worth a second attempt on an idle machine while the first one runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fleetest.balancing.expectation import Expectation
from fleetest.balancing.receivers import Receivers
from fleetest.core.entities import LiveLease, Slot, Worker
from fleetest.core.hedging import may_hedge
from fleetest.core.lifecycle import WorkerState
from fleetest.core.model import Instant
from fleetest.core.placement import Placement
from fleetest.core.policies import Hedge

HEDGE_FACTOR = 1.5
"""The running attempt must be expected to take so many times longer than a fresh start elsewhere."""
HEDGE_MIN_S = 1.0
"""An attempt that is expected to end sooner than this is not hedged."""
HEDGE_SHARE = 0.25
"""At most this part of the slots that accept work, and at least one, executes hedges at a time."""
_SUSPECT = frozenset({WorkerState.SUSPECT, WorkerState.DISCONNECTED})


def count_hedges(busy: Iterable[Slot]) -> int:
    """Tasks that are executed twice."""
    tasks = {head.task for slot in busy if (head := slot.head()) is not None and head.task.extra_leases}
    return sum(task.requirements.workers == 1 for task in tasks)


class Hedging:
    """``latency_s``: how long a worker takes to answer."""

    def __init__(self, placement: Placement, expectation: Expectation, latency_s: Callable[[Worker], float]) -> None:
        self._placement, self._expectation, self._latency_s = placement, expectation, latency_s

    def propose(self, receivers: Receivers, busy: Iterable[Slot], now: Instant, hedges_live: int) -> list[Hedge]:
        """At most one for a task and one to a slot; those on suspect workers first, then what would end last."""
        late: list[tuple[bool, float, LiveLease]] = []
        for slot in busy:
            head = slot.head()
            if head is None:
                continue
            elapsed_s = now - slot.head_since
            if max(elapsed_s, head.predicted_s) < HEDGE_MIN_S / 4 or not may_hedge(head):
                continue
            rest_s = self._expectation.rest_s(head, elapsed_s)
            is_suspect = slot.worker.state in _SUSPECT
            if is_suspect or rest_s >= HEDGE_MIN_S:
                late.append((is_suspect, rest_s, head))
        room = max(1, int(HEDGE_SHARE * self._placement.accepting_slots)) - hedges_live
        late.sort(key=lambda entry: (not entry[0], -entry[1]))
        hedges: list[Hedge] = []
        for is_suspect, rest_s, live in late:
            if len(hedges) >= room or not receivers:
                break
            for worker in receivers.workers():
                if self._pays(live, rest_s, worker, is_suspect=is_suspect):
                    hedges.append(Hedge(live, receivers.take(worker)))
                    break
        return hedges

    def _pays(self, live: LiveLease, rest_s: float, receiver: Worker, *, is_suspect: bool) -> bool:
        task, placement = live.task, self._placement
        if receiver is live.slot.worker or not placement.is_eligible(task.task_class, receiver):
            return False
        if task.requirements.resources and not placement.can_reserve(receiver, task.requirements):
            return False
        fresh_s = self._latency_s(receiver) + task.group.set_up_s + self._expectation.mean_s(receiver, task)
        return is_suspect or rest_s > HEDGE_FACTOR * fresh_s
