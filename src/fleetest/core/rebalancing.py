"""Moves waiting work to slots that serve it sooner, and starts hedges.

Asks the balancing policy, refuses what must not be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fleetest.core.asking_back import ask_back
from fleetest.core.attempt_handling import AttemptHandling
from fleetest.core.cluster import Cluster
from fleetest.core.dispatch import Dispatch
from fleetest.core.entities import LiveLease, Slot, TaskClass, Worker
from fleetest.core.hedging import may_hedge
from fleetest.core.policies import Hedge, Move, TakeBack

LOOK_S = 0.2
LOOK_MAX_S = 1.6
LOOK_BUSY_S = 1.0
"""While no slot is idle."""
LOOK_AGAIN_S = 0.02
LOOK_AGAIN_PER_SLOT_S = 0.0002
"""Not sooner, however many slots become idle: one look costs a pass over the busy slots, some 20 us for each."""

_LOOK = ("balance",)


class Rebalancing:
    """Looks when a slot has just become idle, and again from time to time while others have work.

    Also while no slot is idle: for what must not wait for one, and where there is work of several priorities.
    """

    def __init__(self, cluster: Cluster, attempts: AttemptHandling, dispatch: Dispatch) -> None:
        self._cluster, self._attempts, self._dispatch = cluster, attempts, dispatch
        self._interval_s = LOOK_S
        self._looked_at = -LOOK_AGAIN_S
        self._is_due = False
        self._is_stuck = False
        """Urgent leases wait for long, and nothing helped them at the last look."""

    def due(self) -> None:
        """The time to look has come; what else is due now comes first."""
        self._is_due = True

    def after_event(self) -> bool:
        """True if leases were granted: slots are to be filled, or told that nothing follows."""
        cluster = self._cluster
        is_due, self._is_due = self._is_due, False
        has_waiting = len(cluster.leases) > len(cluster.busy)
        # A worker alone has nobody to hedge on.
        has_others = len(cluster.workers) > 1 and bool(cluster.busy)
        # In one slot alone only what is more urgent could go before the rest.
        is_of_use = self._dispatch.has_empty_slots or cluster.has_priorities or len(cluster.busy) > 1
        if not has_others and not (has_waiting and is_of_use):
            cluster.deadlines.cancel(_LOOK)
            return False
        if has_waiting and self._dispatch.left_empty:
            self._interval_s = LOOK_S
            again_at = self._looked_at + max(LOOK_AGAIN_S, LOOK_AGAIN_PER_SLOT_S * len(cluster.busy))
            is_due = is_due or cluster.now >= again_at
            if not is_due:
                cluster.deadlines.set(_LOOK, again_at)
        if is_due:
            return self._look()
        due = cluster.deadlines.due(_LOOK)
        if due is None or self._dispatch.has_empty_slots:
            look_at = cluster.now + self._pause_s()
            if due is None or due > look_at:
                cluster.deadlines.set(_LOOK, look_at)
        return False

    def _look(self) -> bool:
        cluster = self._cluster
        self._looked_at = cluster.now
        idle = self._dispatch.empty_slots()
        balancing, busy, now = cluster.balancing, cluster.busy, cluster.now
        # One after the other, so that the next one knows what has been moved and hedged.
        moves_and_hedges = balancing.propose(idle, busy, now) if idle else ()
        is_granted = self._carry_out(moves_and_hedges)
        inverted = balancing.inversions(busy, now, self._queued()) if cluster.has_priorities else TakeBack()
        self._take_back(inverted)
        self._is_stuck = inverted.is_stuck
        moved = balancing.early_moves(busy, now)
        self._take_back(moved)
        hedges = balancing.early_hedges(busy, now)
        is_granted |= self._carry_out(hedges)
        is_granted |= self._hedge_unanswered(idle)
        is_useful = moves_and_hedges or inverted.leases or moved.leases or hedges or not self._dispatch.has_empty_slots
        self._interval_s = LOOK_S if is_useful else min(LOOK_MAX_S, 2 * self._interval_s)
        cluster.deadlines.set(_LOOK, cluster.now + self._pause_s())
        return is_granted

    def _carry_out(self, proposals: Sequence[Move | Hedge]) -> bool:
        """True if leases were granted."""
        is_granted = False
        for proposal in proposals:
            if isinstance(proposal, Hedge):
                is_granted |= self._hedge(proposal)
            else:
                self._move(proposal)
        return is_granted

    def _queued(self) -> dict[TaskClass, tuple[int, int]]:
        """Of each class with queued tasks the highest priority, and how many have it."""
        scheduling = self._cluster.scheduling
        top = {task_class: scheduling.top_priority(task_class) for task_class in scheduling.waiting_classes()}
        return {each: (priority, scheduling.waiting_at(each, priority)) for each, priority in top.items()}

    def _pause_s(self) -> float:
        """Until the next look."""
        if self._dispatch.has_empty_slots:
            return self._interval_s
        return max(LOOK_S if self._is_stuck else LOOK_BUSY_S, LOOK_AGAIN_PER_SLOT_S * len(self._cluster.busy))

    def _move(self, move: Move) -> None:
        if self._take(move.leases) and move.closes_donor:
            _close([move.donor])

    def _take_back(self, proposal: TakeBack) -> None:
        self._take(proposal.leases)
        _close(proposal.closes)

    def _take(self, leases: Iterable[LiveLease]) -> bool:
        """Ask back those that may move. False if there is none."""
        cluster = self._cluster
        asked: dict[Worker, list[LiveLease]] = {}
        for live in leases:
            if (
                live.lease_id in cluster.leases
                and not live.is_started
                and not live.is_revoked
                and live.task.moves < cluster.limits.moves_max
                and live.slot.worker.is_linked
            ):
                live.task.moves += 1
                asked.setdefault(live.slot.worker, []).append(live)
        for worker, own in asked.items():
            ask_back(cluster, worker, own)
        return bool(asked)

    def _hedge(self, hedge: Hedge) -> bool:
        live, slot = hedge.lease, hedge.receiver
        if (
            not self._dispatch.may_follow(slot)
            or slot.worker is live.slot.worker
            or not may_hedge(live)
            or not self._dispatch.may_have(slot, live.task)
        ):
            return False
        self._attempts.grant(slot, live.task)
        self._cluster.asking[slot] = None
        return True

    def _hedge_unanswered(self, idle: Iterable[Slot]) -> bool:
        """A worker that hangs gives nothing back: others need not wait until it is taken for lost."""
        cluster, is_granted = self._cluster, False
        asked_back = cluster.asked_back
        for live in [live for live in asked_back if live.lease_id not in cluster.leases or not live.is_revoked]:
            del asked_back[live]
        asked_before = cluster.now - cluster.limits.revoke_answer_s
        overdue = [live for live, asked_at in asked_back.items() if asked_at <= asked_before]
        for slot in [slot for slot in idle if not slot.leases] if overdue else ():
            is_granted |= any(self._hedge(Hedge(live, slot)) for live in overdue)
        return is_granted


def _close(slots: Iterable[Slot]) -> None:
    """Put nothing more behind the first tests of these slots."""
    for slot in slots:
        slot.closed_by = slot.closed_by or slot.head()
