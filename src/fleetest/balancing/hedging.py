"""Which running tests are worth a second attempt on an idle machine while the first one runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fleetest.balancing.expectation import Expectation
from fleetest.balancing.receivers import TRIED_PER_KIND, Free, Receivers, ideal_s, soonest_free
from fleetest.core.entities import LiveLease, Slot, Task, Worker
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
EARLY_GAIN_SHARE = 0.05
"""A hedge that does not wait for an idle slot must let everything end so much sooner, and by ``HEDGE_MIN_S``."""
LATE_FACTOR_MAX = 8.0
"""No test is expected to run on for more than so many times what was predicted, or what it has taken so far."""
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

    def propose_early(self, busy: Iterable[Slot], now: Instant) -> list[Hedge]:
        """Hedges behind other work, of tests that alone decide when everything ends.

        The fleet is done with all that is left in a certain time, if it is shared evenly. A test that runs on beyond
        that would be hedged then, by a slot that is idle: if it ends so much sooner when it is hedged now, it is.
        """
        slots = list(busy)
        heads = [head for slot in slots if (head := slot.head()) is not None]
        ideal = ideal_s(slots, self._placement)
        late: list[tuple[float, LiveLease]] = []
        for head in heads:
            elapsed_s = now - head.slot.head_since
            # A cheap look first: nearly all tests are short, beside what is left.
            if LATE_FACTOR_MAX * max(head.typical_s, elapsed_s) < ideal or not may_hedge(head):
                continue
            # What is only late, of a test that nobody knows, would be as late elsewhere.
            if head.is_started and head.task.spec.expected_s is not None and not head.task.task_class.reserves:
                rest_s = self._expectation.rest_s(head, elapsed_s)
                if rest_s > ideal + HEDGE_MIN_S:
                    late.append((rest_s, head))
        if not late:
            return []
        room = max(1, int(HEDGE_SHARE * self._placement.accepting_slots)) - count_hedges(slots)
        late.sort(key=lambda entry: -entry[0])
        free = soonest_free(slots, self._expectation, now)
        hedges: list[Hedge] = []
        for rest_s, live in late:
            if len(hedges) >= room:
                break
            receiver = self._early_receiver(live, rest_s, ideal, free)
            if receiver is not None:
                hedges.append(Hedge(live, receiver))
        return hedges

    def _early_receiver(self, live: LiveLease, rest_s: float, ideal: float, free: list[Free]) -> Slot | None:
        """The slot that is expected to end it soonest, if that is worth a hedge now."""
        best: tuple[float, float, Slot] | None = None
        tried = 0
        for free_s, _, slot in sorted(free):
            worker = slot.worker
            if tried >= TRIED_PER_KIND or free_s >= rest_s:
                break
            if slot.closed_by or worker is live.slot.worker:
                continue
            if not self._placement.is_eligible(live.task.task_class, worker):
                continue
            tried += 1
            fresh_s = self._fresh_s(live.task, worker)
            if HEDGE_FACTOR * fresh_s < rest_s and (best is None or free_s + fresh_s < best[0]):
                best = free_s + fresh_s, fresh_s, slot
        if best is None:
            return None
        end_s, fresh_s, receiver = best
        later_s = min(rest_s, ideal + fresh_s)
        gain_s = later_s - max(end_s, ideal)
        if gain_s < max(HEDGE_MIN_S, EARLY_GAIN_SHARE * later_s):
            return None
        free[:] = [entry for entry in free if entry[2] is not receiver]
        return receiver

    def _fresh_s(self, task: Task, worker: Worker) -> float:
        """How long an attempt that starts now is expected to take there."""
        return self._latency_s(worker) + task.group.set_up_s + self._expectation.mean_s(worker, task)

    def _pays(self, live: LiveLease, rest_s: float, receiver: Worker, *, is_suspect: bool) -> bool:
        task, placement = live.task, self._placement
        if receiver is live.slot.worker or not placement.is_eligible(task.task_class, receiver):
            return False
        if task.requirements.resources and not placement.can_reserve(receiver, task.requirements):
            return False
        return is_suspect or rest_s > HEDGE_FACTOR * self._fresh_s(task, receiver)
