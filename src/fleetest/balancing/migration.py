"""Which waiting work moves to idle slots: benefit against cost, and never to and fro."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fleetest.balancing.expectation import Expectation
from fleetest.balancing.receivers import Receivers
from fleetest.core.classes import WORTH_DIVIDING_S, is_same_class
from fleetest.core.entities import LiveLease, Slot, Task, Worker
from fleetest.core.model import Instant, Limits
from fleetest.core.placement import Placement
from fleetest.core.policies import Move

WORTH_MOVING_S = 0.05
"""Less gain than this is not worth the messages."""
WORTH_MOVING_SHARE = 0.05
"""Nor is less gain than this part of the moved work: predictions are not that good."""
MOVED_BEFORE_FACTOR = 3.0
"""Work that was moved before moves again only for so many times the gain, once more for each time."""
STUCK_FACTOR = 3.0
STUCK_MIN_S = 0.25
"""A test is stuck if it runs longer than expected times the factor, and this."""


@dataclass(slots=True)
class _Donor:
    slot: Slot
    rest_s: float
    """Until everything that it holds is done."""
    waiting: list[tuple[LiveLease, float]]
    """What may be taken from it, in planned order, with the seconds that it takes there."""
    head: LiveLease
    is_stuck: bool


class Migration:
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

    def propose(self, receivers: Receivers, busy: Iterable[Slot], now: Instant) -> list[Move]:
        """At most one move from a slot and one to a slot; what ends last is helped first. Takes the receivers used."""
        donors = [donor for slot in busy if (donor := self._donor(slot, now)) is not None]
        donors.sort(key=lambda donor: -donor.rest_s)
        moves: list[Move] = []
        for donor in donors:
            if not receivers:
                break
            # What is given back goes to every idle slot that fits, and so does what other donors give.
            task_class = donor.waiting[-1][0].task.task_class
            fitting = [worker for worker in receivers.workers() if self._placement.is_eligible(task_class, worker)]
            sharers = max(1, sum(map(receivers.idle_slots, fitting)) // len(donors))
            for worker in receivers.workers():
                tail = self._tail(donor, worker, sharers)
                if tail:
                    moves.append(Move(tail, donor.slot, receivers.take(worker), donor.is_stuck))
                    break
        return moves

    def _donor(self, slot: Slot, now: Instant) -> _Donor | None:
        elapsed_s = now - slot.head_since
        if len(slot.leases) < 2 or not slot.worker.is_linked:
            return None
        if slot.queued_s <= WORTH_MOVING_S and elapsed_s <= STUCK_MIN_S:
            return None
        leases = iter(slot.leases.values())
        head = next(leases)
        worker, mean_s = slot.worker, self._expectation.mean_s
        is_stuck = elapsed_s > max(STUCK_MIN_S, STUCK_FACTOR * mean_s(worker, head.task))
        rest_s = self._expectation.head_rest_s(slot, now)
        waiting = []
        for live in leases:
            seconds = mean_s(worker, live.task)
            rest_s += seconds
            if is_movable(live, self._limits):
                waiting.append((live, seconds))
        return _Donor(slot, rest_s, waiting, head, is_stuck) if waiting else None

    def _tail(self, donor: _Donor, receiver: Worker, sharers: int) -> list[LiveLease]:
        """What moves to this worker, in planned order; nothing if that would not pay."""
        placement = self._placement
        fitting = [
            (live, seconds) for live, seconds in donor.waiting if placement.is_eligible(live.task.task_class, receiver)
        ]
        if not fitting:
            return []
        if donor.is_stuck:
            return [live for live, _ in beyond_class(donor.head.task, fitting)]
        latency_s = self._latency_s(donor.slot.worker) + self._latency_s(receiver)
        left_s, there_s, longest_s, set_up_s, ends_s = donor.rest_s, 0.0, 0.0, 0.0, donor.rest_s
        groups = set()
        start = len(fitting)
        # From the far end, as long as the later of the two ends comes sooner.
        while start:
            live, seconds = fitting[start - 1]
            left_s -= seconds
            here_s = self._expectation.mean_s(receiver, live.task)
            there_s += here_s
            longest_s = max(longest_s, here_s)
            if live.task.group not in groups:
                groups.add(live.task.group)
                set_up_s += live.task.group.set_up_s
            end_there_s = latency_s + set_up_s + max(there_s / sharers, longest_s)
            if max(left_s, end_there_s) >= ends_s:
                break
            ends_s = max(left_s, end_there_s)
            start -= 1
        before = fitting[start - 1][0].task if start else donor.head.task
        tail = beyond_class(before, fitting[start:])
        if not tail:
            return []
        moved_s = sum(seconds for _, seconds in tail)
        gain_s = min(donor.rest_s - ends_s, moved_s)
        moves = max(live.task.moves for live, _ in tail)
        wanted_s = max(WORTH_MOVING_S, WORTH_MOVING_SHARE * moved_s) * MOVED_BEFORE_FACTOR**moves
        return [live for live, _ in tail] if gain_s >= wanted_s else []


def is_movable(live: LiveLease, limits: Limits) -> bool:
    """True if this lease, which waits behind another one, may be taken from its slot."""
    return not (
        live.is_started
        or live.is_revoked
        or live.kill_reason
        or live.task.group.keep_together
        # Taken back, a hedge would not be queued again, and its move be for nothing.
        or live.task.extra_leases
        or live.task.moves >= limits.moves_max
    )


def beyond_class(before: Task, tail: list[tuple[LiveLease, float]]) -> list[tuple[LiveLease, float]]:
    """``tail`` without the tests at its start that are of the class of the one before, unless they are much work."""
    count, seconds = 0, 0.0
    for live, live_s in tail:
        if not is_same_class(before, live.task):
            break
        count += 1
        seconds += live_s
    return tail if seconds >= WORTH_DIVIDING_S else tail[count:]
